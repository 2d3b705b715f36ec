"""The cost of a crop, single or one of 144: `python -m benchmarks.evaluation`.

Both contenders read JPEG files and evaluate the same number of crops: 144 of each of a
few images, or one of each of 144 times as many. Weights and images are random, as the
cost does not depend on them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from benchmarks.timing import medians, provenance
from bn_keras.data import Files
from bn_keras.evaluation import evaluate
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.models import BNInception

CROPS = 144
# The model's side, stem and width, the height and width of the images, the number of
# images with 144 crops, and the number of crops in a batch.
CASES = {
    "32x32": (32, "small", 0.25, (40, 48), 16, 128),
    "224x224": (224, "imagenet", 1.0, (375, 500), 4, 96),
}


def write_images(folder: str, sides: tuple[int, int], count: int) -> list[str]:
    """Write smooth random JPEG files and return their paths."""
    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        noise = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        paths.append(f"{folder}/{number}.jpg")
        noise.resize((sides[1], sides[0]), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Measure one case."""
    side, stem, width, sides, images, batch_size = CASES[name]
    keras.utils.set_random_seed(0)
    model = BNInception(input_shape=(side, side, 3), classes=10, stem=stem, width=width)
    preprocessing = Preprocessing(crop_fraction=0.875)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(folder, sides, images * CROPS)

        # On a busy machine processor time varies less than elapsed time.
        processor_seconds = {"many": [], "single": []}

        def contender(name: str, crops: int, count: int) -> Callable[[], None]:
            split = Files(paths[:count], np.zeros(count, np.int64))

            def run():
                start = time.process_time()
                evaluate(model, split, crops, preprocessing, batch_size)
                processor_seconds[name].append(time.process_time() - start)

            return run

        total = images * CROPS
        seconds = medians(
            {
                "many": contender("many", CROPS, images),
                "single": contender("single", 1, total),
            },
            rounds,
        )
    # The first run of each includes the compilation.
    processor = {name: np.median(runs[1:]) for name, runs in processor_seconds.items()}
    return {
        "case": name,
        "crops": total,
        "ms a crop, 144 of a picture": round(seconds["many"] / total * 1000, 3),
        "ms a crop, single": round(seconds["single"] / total * 1000, 3),
        "ratio": round(seconds["many"] / seconds["single"], 3),
        "ratio of processor time": round(processor["many"] / processor["single"], 3),
    }


def main() -> None:
    """Print the table, and write it as JSON with `--json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("cases", nargs="*", default=[], help="all if not given")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.cases or CASES:
        rows.append(measure(name, arguments.rounds))
        print(
            ", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True
        )
    if arguments.json:
        result = {**provenance("benchmarks.evaluation"), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
