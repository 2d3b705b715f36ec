"""Section 4.2's recipes side by side: `python -m benchmarks.recipes --data-dir DIR`.

Trains each recipe for a few epochs on CIFAR-10 at a small width, by the paper's own
learning rates, and tells where each stands: its test accuracy, or the step at which
its loss was no longer a number. On 2 cores an epoch of one recipe takes about 3
minutes.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.timing import provenance
from bn_keras import data
from bn_keras.errors import DivergenceError
from bn_keras.recipes import RECIPES
from bn_keras.training import train

NAMES = (
    *("inception", "bn-baseline", "bn-x5", "bn-x30", "bn-x5-sigmoid"),
    *("inception-x5", "inception-sigmoid"),
)


def run(name, examples, width, epochs):
    """Train one recipe.

    Returns:
        A dict of the learning rate, the test accuracy and loss after each epoch, or
        what stopped the training, and the seconds that it took.
    """
    recipe = replace(RECIPES[name], width=width, epochs=epochs)
    began = time.perf_counter()
    row = {"learning_rate": recipe.learning_rate}
    with tempfile.TemporaryDirectory() as folder:
        try:
            _, history = train(recipe, examples, folder)
        except DivergenceError as error:
            row["stopped"] = str(error).split(";")[0]
        else:
            row["test_accuracy"] = history["val_accuracy"]
            row["test_loss"] = history["val_loss"]
    return {**row, "seconds": round(time.perf_counter() - began)}


def main():
    """Parse, train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="CIFAR-10; without: downloaded")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    examples = data.cifar10(options.data_dir)
    results = {}
    for name in NAMES:
        print(name, flush=True)
        results[name] = run(name, examples, options.width, options.epochs)
        print(results[name], flush=True)
    if options.json:
        found = {**provenance("benchmarks.recipes"), "results": results}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
