"""Time the estimate of population statistics: `python -m benchmarks.population`.

Each estimate reads the same mini-batches as a compiled forward pass of the model in
inference mode. The time per mini-batch is the difference of a run over many and a run
over few of them, so that the compilation, which is part of the time over few, cancels.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.timing import provenance
from bn_keras import estimate_population_statistics
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS
from bn_keras.models import MLP, BNInception

# Mini-batches of the shorter run. The first of them compile; of "layerwise", the fifth.
FEW = 6


def small_network() -> keras.Model:
    """Return the network of figure 1: three layers of 100, each with BN."""
    return MLP()


def bn_inception() -> keras.Model:
    """Return BN-Inception for pictures of 128 pixels."""
    return BNInception(input_shape=(128, 128, 3))


def densenet() -> keras.Model:
    """Return Keras' DenseNet121, with 121 normalizations, for pictures of 64 pixels."""
    return keras.applications.DenseNet121(
        weights=None,  # pyright: ignore[reportArgumentType]
        input_shape=(64, 64, 3),
    )


# The model, its mini-batch, and a dict from the method to the mini-batches of the long
# run. "layerwise" reads them once for each normalization, so only the small network has
# it.
CASES: dict[str, tuple[Callable[[], keras.Model], int, dict[str, int]]] = {
    "small network": (
        small_network,
        60,
        {"algorithm2": 406, "pooled": 406, "layerwise": 406},
    ),
    "BN-Inception": (bn_inception, 32, {"algorithm2": 26, "pooled": 26}),
    "DenseNet121": (densenet, 32, {"algorithm2": 66, "pooled": 66}),
}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return the times of a case.

    Args:
        name: A key of `CASES`.
        rounds: The number of turns of each contender; their medians are returned.

    Returns:
        A dict of the number of normalizations, the milliseconds per mini-batch of the
        forward pass, and a dict from each method to its milliseconds per mini-batch, in
        multiples of the forward pass, and to the seconds of a run over few of them.
    """
    make, size, methods = CASES[name]
    model = make()
    shape = (size, *model.input_shape[1:])
    draw = np.random.default_rng(0)
    images = draw.normal(size=shape).astype("float32")
    forward = compiled_forward(model)

    def run_forward(count):
        for _ in range(count):
            forward(images)

    def run_estimate(method):
        def run(count):
            estimate_population_statistics(model, [images] * count, method, verbose=0)

        return run

    contenders = {"forward": run_forward}
    contenders |= {method: run_estimate(method) for method in methods}
    run_forward(1)  # compiles, which an estimate does in each run
    lengths = {"forward": methods["pooled"], **methods}
    times = {key: [] for key in contenders}
    for _ in range(rounds):
        for key, run in contenders.items():
            times[key].append(_time(run, lengths[key]))
    # The median over the rounds of (few, per mini-batch).
    medians = {key: np.median(pairs, axis=0) for key, pairs in times.items()}
    base = medians["forward"][1]
    return {
        "normalizations": sum(
            isinstance(layer, BATCH_NORMALIZATIONS) for layer in model._flatten_layers()
        ),
        "batch": list(shape),
        "forward_ms": round(1000 * base, 3),
        "methods": {
            method: {
                "of_forward": round(float(medians[method][1] / base), 3),
                "milliseconds": round(1000 * float(medians[method][1]), 3),
                "seconds_of_few": round(float(medians[method][0]), 2),
            }
            for method in methods
        },
    }


def compiled_forward(model: keras.Model) -> Callable[[Any], Any]:
    """Return a compiled forward pass in inference mode, which waits for its result."""
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    return lambda images: np.asarray(function(images))


def _time(run: Callable[[int], Any], many: int) -> tuple[float, float]:
    """Return the seconds of the shorter run, and of a mini-batch."""
    seconds = []
    for count in (FEW, many):
        start = time.perf_counter()
        run(count)
        seconds.append(time.perf_counter() - start)
    return seconds[0], (seconds[1] - seconds[0]) / (many - FEW)


def main() -> None:
    """Parse the arguments, measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = {}
    for name in options.cases:
        cases[name] = result = measure(name, options.rounds)
        print(
            f"{name}: {result['normalizations']} normalizations, forward pass "
            f"{result['forward_ms']:.1f} ms"
        )
        for method, times in result["methods"].items():
            print(
                f"  {method}: {times['of_forward']} of the forward pass, "
                f"{times['seconds_of_few']} s for {FEW} mini-batches"
            )
    if options.json:
        facts = {**provenance("benchmarks.population"), "few": FEW, "cases": cases}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
