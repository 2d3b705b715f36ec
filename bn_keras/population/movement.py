"""How far estimates moved the statistics of a model."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops


class Movement(NamedTuple):
    """How far an estimate moved the statistics of a layer: the channel that moved most.

    Args:
        mean: `max |new mean - old mean| / sqrt(new variance + epsilon)`.
        log_variance: `max |log((new variance + epsilon) / (old variance + epsilon))|`.
    """

    mean: float
    log_variance: float


def measure_movements(
    layers: list[Any], old_statistics: list[Any]
) -> dict[str, Movement]:
    """Return the movement of each layer by its path.

    Args:
        layers: Batch-normalization layers with new statistics.
        old_statistics: The old mean and variance of each.
    """
    movements = {}
    for layer, (old_mean, old_variance) in zip(layers, old_statistics, strict=True):
        variance = ops.convert_to_numpy(layer.moving_variance)
        shift = np.abs(ops.convert_to_numpy(layer.moving_mean) - old_mean)
        # Layers of equal names in two nested models have equal paths.
        path, number = layer.path, 1
        while path in movements:
            number += 1
            path = f"{layer.path} ({number})"
        new, old = variance + layer.epsilon, old_variance + layer.epsilon
        with np.errstate(invalid="ignore", divide="ignore"):  # old NaN or infinity
            movements[path] = Movement(
                float(np.max(shift / np.sqrt(new))),
                float(np.max(np.abs(np.log(new / old)))),
            )
    return movements
