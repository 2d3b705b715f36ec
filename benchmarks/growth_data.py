"""A folder of images against the number of its files."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.processes import Growth, measure


def by_files(files):
    """Measure listing a folder of small images, and reading each of them once."""
    from PIL import Image

    from bn_keras import data
    from bn_keras.images.preprocessing import Preprocessing

    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            split = "val" if number % 10 == 0 else "train"
            path = Path(folder) / split / f"{number // 10 % 2}" / f"{number:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(path)
        listing = measure(lambda: data.image_folder(folder))
        split = data.image_folder(folder).train
        size = Preprocessing((32, 32))
        next(iter(split.batches(32, preprocessing=size)))  # TensorFlow is imported
        reading = measure(lambda: count(split.batches(32, preprocessing=size)))
    return {
        "seconds to list": listing["seconds"],
        "seconds to read": reading["seconds"],
        "MB": reading["MB"],
    }


def count(batches):
    """Return the number of batches, without keeping them."""
    return sum(1 for _ in batches)


FILES = Growth((100, 400, 1_600, 6_400), {"image folder": by_files})
