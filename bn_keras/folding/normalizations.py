"""Read batch normalizations: their affine maps, and the digits that these may lose."""

from typing import Any

import numpy as np
from keras import layers

from bn_keras.folding.algebra import Affine, affine_from_statistics
from bn_keras.folding.linear_rules import to_float64
from bn_keras.keras_graph import Call, Graph
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS

# The distance of 1 to the next number. NumPy has no bfloat16.
EPSILONS = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def normalization_layer(operation: Any) -> Any:
    """Return the batch normalization that an operation is, or None.

    It may be inside a `TimeDistributed`.
    """
    if type(operation) is layers.TimeDistributed:
        operation = operation.layer
    return operation if isinstance(operation, BATCH_NORMALIZATIONS) else None


def read_affine(call: Call, standard: bool = False) -> Affine:
    """Return the map of a batch normalization, or that of gamma 1 and beta 0."""
    layer = normalization_layer(call.operation)
    # A `TimeDistributed` hides the axis of the steps from the layer inside it.
    hidden = int(layer is not call.operation)
    rank = len(call.inputs[0].shape) - hidden
    axes = (layer.axis,) if isinstance(layer.axis, int) else layer.axis
    return affine_from_statistics(
        None if standard or layer.gamma is None else to_float64(layer.gamma),
        None if standard or layer.beta is None else to_float64(layer.beta),
        to_float64(layer.moving_mean),
        to_float64(layer.moving_variance),
        layer.epsilon,
        sorted(axis % rank + hidden for axis in axes),
    )


def largest_deviations(graph: Graph) -> float:
    """Return how many deviations a mean of a graph is from zero, at most."""
    largest = 0.0
    for call in graph.calls:
        largest = max([largest, *map(largest_deviations, call.inner.values())])
        if normalization_layer(call.operation) is not None:
            shift = read_affine(call, standard=True).shift
            largest = max(largest, count_deviations(shift))
    return largest


def count_deviations(standard_shift: np.ndarray) -> float:
    """Return the largest distance of a mean from zero, in standard deviations.

    Args:
        standard_shift: The shift of the map of gamma 1 and beta 0.
    """
    # The folded weights are checked for NaN elsewhere.
    return float(np.abs(np.nan_to_num(standard_shift)).max(initial=0.0))


def loses_digits(dtype: str, deviations: float) -> bool:
    """Return whether a sum of large terms loses half of its digits or more.

    The terms of `scale * x + shift` are about as large as the number of deviations, and
    so each is rounded by that number times the epsilon of the dtype, while their sum is
    about 1. From `1 / sqrt(epsilon)` deviations on, half of the digits are lost.

    Args:
        dtype: The dtype of `x`.
        deviations: How many standard deviations the mean is from zero.
    """
    return EPSILONS.get(dtype, 0.0) * deviations**2 > 1


def describe_lost_digits(label: str, dtype: str, deviations: float) -> str:
    """Return the warning for the batch normalization with a path."""
    return (
        f"The mean of {label!r} is {deviations:,.0f} standard deviations from zero. In "
        f"{dtype}, scale * x + shift is rounded by about "
        f"{deviations * EPSILONS[dtype]:.1g} standard deviations. Subtract a constant "
        "before the layer, or use a wider dtype."
    )
