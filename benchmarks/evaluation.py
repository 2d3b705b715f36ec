"""Cost of 144 crops against single crops: `python -m benchmarks.evaluation`.

Both contenders read JPEG files and ask the model for the same number of crops: of few
pictures 144 each, of 144 times as many pictures one each. Asked: a ratio of 1.1 at
most. Weights and pictures are random, as the cost does not depend on them.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from benchmarks.timing import medians, provenance
from bn_keras.data import Files
from bn_keras.evaluation import evaluate
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.models import BNInception

CROPS = 144
# Side of the model, its stem and width, the pictures' height and width, number of
# pictures with all their crops, crops a batch.
CASES = {
    "32x32": (32, "small", 0.25, (40, 48), 16, 128),
    "224x224": (224, "imagenet", 1.0, (375, 500), 4, 96),
}


def write_pictures(folder, sides, count):
    """Write smooth random JPEG files and return their paths."""
    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        noise = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        paths.append(f"{folder}/{number}.jpg")
        noise.resize(sides[::-1], Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def measure(name, rounds):
    """Time one case: a dictionary of measurements."""
    side, stem, width, sides, pictures, batch_size = CASES[name]
    keras.utils.set_random_seed(0)
    model = BNInception(input_shape=(side, side, 3), classes=10, stem=stem, width=width)
    preprocessing = Preprocessing(crop_fraction=0.875)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(folder, sides, pictures * CROPS)

        # A busy machine stretches a run's seconds, less so those of its processor.
        processor = {CROPS: [], 1: []}

        def contender(crops, count):
            split = Files(paths[:count], np.zeros(count, np.int64))

            def run():
                start = time.process_time()
                evaluate(model, split, crops, preprocessing, batch_size)
                processor[crops].append(time.process_time() - start)

            return run

        total = pictures * CROPS
        seconds = medians(
            {CROPS: contender(CROPS, pictures), 1: contender(1, total)}, rounds
        )
    many, single = (round(seconds[crops] / total * 1000, 3) for crops in (CROPS, 1))
    # The first run of each compiles.
    work = {crops: np.median(values[1:]) for crops, values in processor.items()}
    return {
        "case": name,
        "crops": total,
        "ms a crop, 144 of a picture": many,
        "ms a crop, single": single,
        "ratio": round(seconds[CROPS] / seconds[1], 3),
        "ratio of processor time": round(work[CROPS] / work[1], 3),
    }


def main():
    """Print the table, and write it as JSON where asked."""
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
