"""Images per second in training, hours of figure 3: `python -m benchmarks.training`.

Measures images per second of each recipe's training step on images in memory. From it
follow the hours of the full ImageNet runs of figure 3, and the number of such machines
that would finish them in two weeks if they scaled perfectly. On a GPU, use
`KERAS_BACKEND=jax`, `--dtype mixed_bfloat16` and `--batch-size 256`.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import medians, provenance
from bn_keras import data
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.training import build
from bn_keras.training.recipes import RECIPES, Recipe

# Steps of 32 images to 72.2%, of BN-x30 to its maximum (figure 3, section 4.2.2).
STEPS = {
    "inception": 31.0e6,
    "bn-baseline": 13.3e6,
    "bn-x5": 2.1e6,
    "bn-x30": 6.0e6,
}
BATCH, IMAGES = 32, 1_281_167


def training_steps(recipe: Recipe) -> Callable[[], None]:
    """Return a function that makes two training steps of a recipe."""
    draw = np.random.default_rng(0)
    size: Any = recipe.preprocessing.size
    images = draw.random((recipe.batch_size, *size, 3)).astype("float32")
    labels = draw.integers(0, 1000, recipe.batch_size)
    split = data.Arrays(images, labels)
    names = tuple(map(str, range(1000)))
    model: Any = build(recipe, data.Data("random", split, split, names))

    def steps():
        for _ in range(2):
            model.train_on_batch(images, labels)

    return steps


def main() -> None:
    """Print the table, and write it as JSON with `--json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size = (options.image_size, options.image_size)
    contenders = {
        name: training_steps(
            replace(
                RECIPES[name],
                preprocessing=Preprocessing(size=size),
                batch_size=options.batch_size,
                dtype=options.dtype,
            )
        )
        for name in STEPS
        if name != "bn-x30"  # the same network as bn-x5
    }
    seconds = medians(contenders, options.rounds)
    seconds["bn-x30"] = seconds["bn-x5"]
    rows = []
    print(f"{'recipe':12}{'images/s':>9}{'steps':>12}{'epochs':>7}{'hours':>8}{'x':>5}")
    for name, steps in STEPS.items():
        speed = 2 * options.batch_size / seconds[name]
        hours = steps * BATCH / speed / 3600
        epochs, machines = steps * BATCH / IMAGES, hours / (14 * 24)
        rows.append(
            {
                "recipe": name,
                "images a second": round(speed, 1),
                "steps of 32": steps,
                "epochs": round(epochs),
                "hours": round(hours),
                "machines for two weeks": round(machines, 1),
            }
        )
        print(
            f"{name:12}{speed:9.1f}{steps:12,.0f}{epochs:7.0f}{hours:8,.0f}"
            f"{machines:5.1f}"
        )
    if options.json:
        result = {**provenance("benchmarks.training"), "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
