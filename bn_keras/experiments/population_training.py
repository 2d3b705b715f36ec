"""Train the MNIST network and estimate its population statistics in several ways."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from bn_keras.experiments.mnist_training import load_binary, mini_batches
from bn_keras.experiments.rounding import round_digits
from bn_keras.population import estimate_population_statistics
from bn_keras.training import build
from bn_keras.training.recipes import BN_MLP

# The training images of the reference, pooled: more mini-batches than any estimate.
REFERENCE_BATCHES = 500


def compare_statistics(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    data: str,
    momentum: float,
    looks: Sequence[int],
    counts: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """Train one network and compare its population statistics at some steps.

    The momentum changes nothing but the moving averages: training does not use them.

    Args:
        directories: See `bn_keras.experiments.parts.Part`.
        folder: Not used: an interrupted training starts from scratch.
        data: The name of the data set.
        momentum: The momentum of the moving averages.
        looks: The steps after which the statistics are compared, ascending.
        counts: The numbers of mini-batches of 60 of the estimates.
        seed: The seed of the weights and of the order of the images.

    Returns:
        For each look a dict from the estimate, such as `"moving"` or `"pooled-10"`, to
        `[accuracy, distance]`: the test accuracy, and the root mean square over the
        units of `(mean - reference mean) / reference deviation`. The reference,
        `"reference"`, is pooled over 500 mini-batches.
    """
    recipe = replace(BN_MLP, bn_momentum=momentum, seed=seed)
    examples = load_binary(data, directories.get(data))
    model: Any = build(recipe, examples)
    stream = mini_batches(examples.train, recipe)
    # The estimates read other mini-batches than the steps just before them.
    others = mini_batches(examples.train, replace(recipe, seed=seed + 1000))
    others = others.take(REFERENCE_BATCHES).cache()
    statistics = [
        variable for variable in model.variables if "moving_" in variable.path
    ]

    def read():
        return [np.asarray(ops.convert_to_numpy(v), float) for v in statistics]

    def accuracy():
        answers = model.predict_on_batch(examples.test.images).argmax(1)
        return float(np.mean(answers == examples.test.labels))

    results, done = [], 0
    for look in looks:
        model.fit(
            stream.skip(done),
            epochs=1,
            steps_per_epoch=look - done,
            shuffle=False,
            verbose=0,
        )
        done = look
        moving = read()
        estimates = {"moving": (accuracy(), moving)}
        methods = {"reference": ("pooled", REFERENCE_BATCHES)}
        for method in ("algorithm2", "pooled"):
            methods |= {f"{method}-{count}": (method, count) for count in counts}
        for name, (method, count) in methods.items():
            estimate_population_statistics(model, others, method, count, verbose=0)
            estimates[name] = (accuracy(), read())
        for variable, value in zip(statistics, moving, strict=True):
            variable.assign(value)
        reference = estimates["reference"][1]
        results.append(
            {
                name: [round_digits(right), round_digits(distance(values, reference))]
                for name, (right, values) in estimates.items()
            }
        )
    return results


def distance(values: Sequence[Any], reference: Sequence[Any]) -> float:
    """Return how far means are from those of a reference, in standard deviations.

    Args:
        values: Means and variances of the layers in turn.
        reference: Those of the reference.
    """
    squares = [
        np.square(mean - other) / np.maximum(variance, 1e-12)
        for mean, other, variance in zip(
            values[::2], reference[::2], reference[1::2], strict=True
        )
    ]
    return float(np.sqrt(np.concatenate(squares).mean()))
