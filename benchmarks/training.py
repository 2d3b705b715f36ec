"""Training steps a second, and the hours of figure 3: `python -m benchmarks.training`.

Images per second of one recipe's training step on images that are in memory already;
from it, on paper, the hours of the full ImageNet runs of figure 3. `KERAS_BACKEND=jax`,
`--dtype mixed_bfloat16` and `--batch-size 256` are the choice on a GPU.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.timing import medians, provenance
from bn_keras import data
from bn_keras.preprocessing import Preprocessing
from bn_keras.recipes import RECIPES
from bn_keras.training import build

# Steps of 32 images: to 72.2 %, for BN-x30 to its maximum (figure 3 and section 4.2.2).
STEPS = {
    "inception": 31.0e6,
    "bn-baseline": 13.3e6,
    "bn-x5": 2.1e6,
    "bn-x30": 6.0e6,
}
BATCH, IMAGES = 32, 1_281_167


def images_per_second(recipe, rounds):
    """Median over rounds of five training steps each."""
    draw = np.random.default_rng(0)
    size = recipe.preprocessing.size
    images = draw.random((recipe.batch_size, *size, 3)).astype("float32")
    labels = draw.integers(0, 1000, recipe.batch_size)
    split = data.Arrays(images, labels)
    names = tuple(map(str, range(1000)))
    model = build(recipe, data.Data("random", split, split, names))

    def steps():
        for _ in range(5):
            model.train_on_batch(images, labels)

    steps()
    (seconds,) = medians({"step": steps}, rounds).values()
    return 5 * recipe.batch_size / seconds


def main():
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=STEPS, default="bn-x5")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size = (options.image_size, options.image_size)
    recipe = replace(
        RECIPES[options.recipe],
        preprocessing=Preprocessing(size=size),
        batch_size=options.batch_size,
        dtype=options.dtype,
    )
    speed = images_per_second(recipe, options.rounds)
    print(f"{speed:.1f} images/s")
    print(f"{'recipe':12} {'steps':>12} {'epochs':>7} {'hours':>10}")
    hours = {}
    for name, steps in STEPS.items():
        hours[name] = steps * BATCH / speed / 3600
        epochs = steps * BATCH / IMAGES
        print(f"{name:12} {steps:12,.0f} {epochs:7.0f} {hours[name]:10,.0f}")
    if options.json:
        found = {
            **provenance("benchmarks.training"),
            "images_per_second": round(speed, 1),
            "hours": {name: round(value) for name, value in hours.items()},
        }
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
