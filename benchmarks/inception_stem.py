"""Which stem figure 3 is measured with: `python -m benchmarks.inception_stem`.

Trains BN-x5 for 3,124 steps with the paper's own stem on pictures enlarged to 64
pixels at a quarter of the width, and with the small stem at 16 pixels and an eighth.
The rule, fixed beforehand: the first, if it reaches 50% at one of the two rates.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.timing import provenance
from bn_keras.experiments.curves import halvings
from bn_keras.experiments.inception import PLANS, training
from bn_keras.experiments.parts import Part, measure
from bn_keras.training.recipes import BN_X5

# Size in pixels, width, and stem.
SETUPS = {"own stem": (64, 1 / 4, "imagenet"), "small stem": (16, 1 / 8, "small")}
RATES = (0.0075, 0.015)


def run(workdir: Path | None, directory: Path | None) -> dict[str, Any]:
    """Train both set-ups at both rates.

    Args:
        workdir: A folder for the result of each training, or None.
        directory: The folder of CIFAR-10's files. With None they are downloaded.

    Returns:
        A dict from such as `"own stem, rate 0.0075"` to the curve of the training.
    """
    parts = {}
    for name, (size, width, stem) in SETUPS.items():
        plan = PLANS["default"]._replace(size=size, width=width, stem=stem, epochs=2)
        for rate in RATES:
            _, (function, arguments) = training(plan, "bn-x5", rate, halvings(BN_X5))
            part = Part(f"{stem}-{rate:g}", function, {**arguments, "seed": 0})
            parts[f"{name}, rate {rate:g}"] = part
    results = measure(list(parts.values()), workdir, {"cifar10": directory}).results
    return {name: results[part.name] for name, part in parts.items()}


def main():
    """Parse the arguments, train, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cifar10-dir", type=Path, help="default: downloaded")
    parser.add_argument("--workdir", type=Path, help="where an interrupted run resumes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    curves = run(options.workdir, options.cifar10_dir)
    for name, curve in curves.items():
        print(f"{name}: {100 * curve['final']:.1f}%, {curve['milliseconds']} ms a step")
    if options.json:
        facts = {**provenance("benchmarks.inception_stem"), "curves": curves}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
