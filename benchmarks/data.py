"""Input pipelines and the training step that they feed: `python -m benchmarks.data`.

Measures images per second of each pipeline with augmentation, of one training step of
BN-Inception on the same machine, and their ratio. The pipelines and the step take
turns, and their medians are reported.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.timing import medians, provenance
from bn_keras import data
from bn_keras.images.preprocessing import Augmentation, Preprocessing
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import BNInception

BATCH = 32
# The height and width of the generated images. 500x375 is usual for ImageNet.
LARGE, SMALL = (375, 500), (32, 32)
GENERATED = 256


def write_images(
    folder: Path, size: tuple[int, int], extension: str, count: int = GENERATED
) -> data.Data:
    """Write images that compress as photographs do: smooth, with noise."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, images in (("train", count), ("val", 2)):
        for index in range(images):
            path = folder / split / f"{index % 2}" / f"{index:04}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = draw.integers(0, 256, (size[0] // 16, size[1] // 16, 3))
            smooth = Image.fromarray(coarse.astype(np.uint8)).resize((size[1], size[0]))
            pixels = np.asarray(smooth) + draw.normal(0, 6, (*size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return data.image_folder(folder)


def random_arrays(count: int = 4096) -> data.Arrays:
    """Return random images of the size of CIFAR-10's."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *SMALL, 3))
    return data.Arrays(pixels.astype(np.uint8), np.arange(count) % 10)


def pipeline_reader(
    split: data.Split, size: tuple[int, int], batches: int
) -> Callable[[], None]:
    """Return a function that reads shuffled, augmented mini-batches."""
    stream = iter(
        split.batches(
            BATCH,
            data.Shuffling(0),
            Preprocessing(size, scale=1 / 127.5, offset=-1.0),
            Augmentation(),
            epochs=None,
        )
    )

    def run():
        for _ in range(batches):
            next(stream)

    return run


def training_step(
    shape: tuple[int, int, int], steps: int = 1, **options: Any
) -> Callable[[], None]:
    """Return a function that trains BN-Inception for some steps on one mini-batch."""
    model: Any = BNInception(
        input_shape=shape, classes=1000, normalization=BatchNormalization, **options
    )
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy"
    )
    images = np.random.default_rng(0).normal(0, 1, (BATCH, *shape)).astype("float32")
    labels = np.arange(BATCH)

    def run():
        for _ in range(steps):
            model.train_on_batch(images, labels)

    return run


def measure(
    pipelines: dict[str, data.Split],
    size: tuple[int, int],
    step: Callable[[], None],
    steps: int,
    batches: int,
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each pipeline of one size, with the figures of its step."""
    contenders = {
        name: pipeline_reader(split, size, batches) for name, split in pipelines.items()
    }
    seconds = medians({**contenders, "training step": step}, rounds)
    training = BATCH * steps / seconds.pop("training step")
    for name, value in seconds.items():
        throughput = BATCH * batches / value
        yield {
            "pipeline": name,
            "pixels": f"{size[0]}x{size[1]}",
            "images a second": round(throughput),
            "training images a second": round(training, 1),
            "ratio": round(throughput / training, 1),
        }


def main() -> None:
    """Print the table, and write it as JSON with `--json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="an image folder of your own")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        small, large = {}, {}
        small["digits, in memory"] = data.digits().train
        small["32x32 pixels, in memory"] = random_arrays()
        if arguments.data_dir:
            own = data.image_folder(arguments.data_dir)
            large["your folder"] = own.train
        else:
            own = write_images(Path(scratch) / "jpeg", LARGE, "jpg")
            large["folder of 500x375 JPEG files"] = own.train
            tiles = write_images(Path(scratch) / "png", SMALL, "png", 4096)
            small["folder of 32x32 PNG files"] = tiles.train
            written = data.convert(tiles, Path(scratch) / "small", shards=8)
            small["records of 32x32 PNG files"] = written.train
        if len(own.train) <= 50_000:
            written = data.convert(own, Path(scratch) / "large", bad_files="skip")
            large["records of the same"] = written.train
        rows = []
        digits = {name: small.pop(name) for name in list(small) if "digits" in name}
        cases = (
            (digits, (8, 8), (8, 8, 1), {"width": 0.25, "stem": "small"}, 10, 100),
            (small, SMALL, (*SMALL, 3), {"width": 0.25, "stem": "small"}, 5, 60),
            (large, (224, 224), (224, 224, 3), {}, 1, 8),
        )
        print(f"{'pipeline':30} {'pixels':>8} {'images/s':>9} {'step':>9} {'ratio':>7}")
        for pipelines, size, shape, options, steps, batches in cases:
            step = training_step(shape, steps, **options)
            for row in measure(pipelines, size, step, steps, batches, arguments.rounds):
                rows.append(row)
                print(
                    f"{row['pipeline']:30} {row['pixels']:>8} "
                    f"{row['images a second']:9} "
                    f"{row['training images a second']:9} {row['ratio']:7}",
                    flush=True,
                )
    if arguments.json:
        result = {**provenance("benchmarks.data"), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
