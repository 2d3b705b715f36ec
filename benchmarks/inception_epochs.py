"""Figures 2 and 3 for longer than `bn-keras reproduce inception` lasts.

`python -m benchmarks.inception_epochs --cifar10-dir DIR`.

Trains the five variants of figure 3 at the paper's rates, as the experiment does at
`default` but with one seed, more epochs, and the decay stretched over them. Tells the
best accuracies and how many times fewer steps than Inception the others need to its
best.
"""

import argparse
import json
from pathlib import Path

from benchmarks.timing import provenance
from bn_keras.experiments.curves import halvings
from bn_keras.experiments.inception import FIGURE_3, PLANS, best, part, speedups
from bn_keras.experiments.parts import measure
from bn_keras.training.recipes import RECIPES

SEED = 0


def run(epochs, workdir, directory, jobs):
    """Train the variants.

    Args:
        epochs: passes over the training pictures.
        workdir: folder for what each training measured; None keeps nothing.
        directory: of CIFAR-10's files; None downloads them.
        jobs: trainings side by side, each in a process.

    Returns:
        A dict: `"seconds"`, summed over the processes; `"curves"`, as the experiment
        has them, dict from the variant to a list of one curve.
    """
    plan = PLANS["default"]._replace(epochs=epochs)
    parts = {}
    for name in FIGURE_3:
        recipe = RECIPES[name]
        rate, halved = recipe.learning_rate, halvings(recipe)
        parts[name] = part(plan, name, rate, halved, SEED)
    results, seconds = measure(
        list(parts.values()),
        workdir,
        {"cifar10": directory},
        jobs,
        lambda name, done, total: print(f"{done} of {total} {name}", flush=True),
    )
    curves = {name: [results[one.name]] for name, one in parts.items()}
    return {"seconds": seconds, "curves": curves}


def main():
    """Parse, train, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cifar10-dir", type=Path, help="without: downloaded")
    parser.add_argument(
        "--workdir",
        type=Path,
        help="where a run that stopped goes on; each number of epochs has its own",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = run(options.epochs, options.workdir, options.cifar10_dir, options.jobs)
    curves = found["curves"]
    for name, (curve,) in curves.items():
        accuracy, step = best(curve)
        (ratio,) = speedups(curves, name)
        to_its_best = "never" if ratio is None else f"{ratio:.1f}"
        print(
            f"{name}: best {100 * accuracy:.1f} % at step {step:,}; times fewer steps "
            f"to Inception's best: {to_its_best}"
        )
    if options.json:
        whole = {**provenance("benchmarks.inception_epochs"), **found}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
