"""Section 4.2's recipes side by side: `python -m benchmarks.recipes --data-dir DIR`.

Trains each recipe for some steps on CIFAR-10 at a small width, with the paper's own
learning rates, and reports its accuracy on 2,000 test images, or the step at which it
diverged. Results that the file of `--json` already holds are kept.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import provenance
from bn_keras import data
from bn_keras.errors import DivergenceError
from bn_keras.evaluation import evaluate
from bn_keras.training import preprocessing_for, train
from bn_keras.training.recipes import RECIPES

NAMES = (
    *("inception", "bn-baseline", "bn-x5", "bn-x30", "bn-x5-sigmoid"),
    *("inception-x5", "inception-sigmoid"),
)


def sample(split: Any, count: int) -> data.Arrays:
    """Return some of the examples, of all classes."""
    chosen = np.random.default_rng(0).permutation(len(split))[:count]
    return data.Arrays(split.images[chosen], split.labels[chosen])


def run(name: str, examples: data.Data, width: float) -> dict[str, Any]:
    """Train one recipe.

    Returns:
        A dict of the learning rate; the training loss and the test accuracy, or what
        stopped the training; and its duration in seconds.
    """
    recipe = replace(RECIPES[name], width=width, epochs=1)
    start = time.perf_counter()
    row: dict[str, Any] = {"learning_rate": recipe.learning_rate}
    with tempfile.TemporaryDirectory() as folder:
        try:
            model, history = train(recipe, examples, folder)
        except DivergenceError as error:
            row["stopped"] = str(error).partition(". ")[0]
        else:
            row["training_loss"] = round(history["loss"][-1], 3)
            evaluation = evaluate(
                model,
                examples.test,
                preprocessing=preprocessing_for(recipe, examples),
            )
            row["test_accuracy"] = round(evaluation.top1, 4)
            row["test_interval"] = [round(x, 4) for x in evaluation.top1_interval]
    return {**row, "seconds": round(time.perf_counter() - start)}


def main() -> None:
    """Print the results, and write them as JSON with `--json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="CIFAR-10; downloaded by default")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    examples = data.cifar10(options.data_dir)
    examples = replace(
        examples,
        train=sample(examples.train, 32 * options.steps),
        test=sample(examples.test, 2000),
    )
    record = {**provenance("benchmarks.recipes"), "results": {}}
    if options.json and options.json.exists():
        record["results"] = json.loads(options.json.read_text())["results"]
    for name in NAMES:
        if name in record["results"]:
            continue
        print(name, flush=True)
        record["results"][name] = run(name, examples, options.width)
        print(record["results"][name], flush=True)
        if options.json:
            options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
