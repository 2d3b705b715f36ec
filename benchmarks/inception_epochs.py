"""Figures 2 and 3 at the paper's rates only, with one seed and any number of epochs.

`python -m benchmarks.inception_epochs --cifar10-dir DIR`.

Trains the five variants of figure 3 like `bn-keras reproduce inception`, the decay
stretched over the epochs. Prints the best accuracies, and the speed-up of each variant
to Inception's final accuracy.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.timing import provenance
from bn_keras.experiments.curves import halvings
from bn_keras.experiments.figure_3 import FIGURE_3, best, speedups
from bn_keras.experiments.inception import PLANS, training
from bn_keras.experiments.parts import Part, measure
from bn_keras.training.recipes import RECIPES

SEED = 0


def run(
    epochs: int, workdir: Path | None, directory: Path | None, jobs: int
) -> dict[str, Any]:
    """Train the variants.

    Args:
        epochs: The number of passes over the training pictures.
        workdir: A folder for the result of each training, or None.
        directory: The folder of CIFAR-10's files. With None they are downloaded.
        jobs: The number of trainings at the same time, each in its process.

    Returns:
        A dict. `"seconds"` is summed over the processes; `"curves"` is a dict from the
        variant to a list of one curve.
    """
    plan = PLANS["default"]._replace(epochs=epochs)
    parts = {}
    for variant in FIGURE_3:
        recipe = RECIPES[variant]
        name, (function, arguments) = training(
            plan, variant, recipe.learning_rate, halvings(recipe)
        )
        parts[variant] = Part(
            f"{name}-seed{SEED}", function, {**arguments, "seed": SEED}
        )
    measured = measure(
        list(parts.values()),
        workdir,
        {"cifar10": directory},
        jobs,
        lambda name, done, total: print(f"{done} of {total} {name}", flush=True),
    )
    curves = {variant: [measured.results[part.name]] for variant, part in parts.items()}
    return {"seconds": measured.seconds, "curves": curves}


def main():
    """Parse the arguments, train, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cifar10-dir", type=Path, help="default: downloaded")
    parser.add_argument(
        "--workdir",
        type=Path,
        help="where an interrupted run is resumed; use one per number of epochs",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = run(options.epochs, options.workdir, options.cifar10_dir, options.jobs)
    curves = results["curves"]
    for name, (curve,) in curves.items():
        accuracy, step = best(curve)
        (speedup,) = speedups(curves, name)
        text = "never reached" if speedup is None else f"{speedup:.1f} times faster"
        print(
            f"{name}: best {100 * accuracy:.1f}% at step {step:,}; Inception's final "
            f"accuracy: {text}"
        )
    if options.json:
        facts = {**provenance("benchmarks.inception_epochs"), **results}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
