"""Moments of a batch, their merging, and the averages that follow them.

Arrays in, arrays out. Knows neither layers nor backends' kernels: the moments are
plain `keras.ops`, everything else is arithmetic that NumPy arrays and tensors share.
"""

from typing import Any, NamedTuple

from keras import ops

# An array of NumPy or a tensor of the backend: both carry the operators used here.
Array = Any


class Moments(NamedTuple):
    """Count, mean and *biased* variance of a set of values, per channel.

    Args:
        count: number of values behind each mean, scalar or broadcastable to `mean`.
        mean: their mean.
        variance: their mean squared distance to that mean (divided by `count`).
    """

    count: Array
    mean: Array
    variance: Array


def batch_moments(inputs, axes, mask=None):
    """Moments of a batch over `axes`, in two passes.

    `mean = sum(x) / m`, `variance = sum((x - mean)**2) / m`: never
    `E[x**2] - E[x]**2`, which cancels where the mean is large. The mean itself is
    taken relative to the batch's first values, so that 400,000 float32 values around
    1000 are summed as 400,000 values around 0.

    Args:
        inputs: tensor `(batch, ...)`, at least float32.
        axes: the axes to reduce.
        mask: optional boolean tensor broadcastable to `inputs`; False is left out.

    Returns:
        `Moments`, the reduced axes kept with size 1 (a static count is an int); with
        nothing to count: count 0, mean 0, variance 0.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1.
    """
    axes = tuple(axes)
    if mask is None:
        count = reduction_size(inputs, axes)
        weights = None
    else:
        weights = ops.cast(ops.broadcast_to(mask, ops.shape(inputs)), inputs.dtype)
        count = ops.sum(weights, axis=axes, keepdims=True)

    def mean_of(values):
        if weights is not None:
            values = ops.where(weights > 0, values, 0)
        return ops.sum(values, axis=axes, keepdims=True) / at_least_one(
            count, inputs.dtype
        )

    shift = ops.stop_gradient(mean_of(inputs))
    mean = shift + mean_of(inputs - shift)
    variance = mean_of(ops.square(inputs - mean))
    return Moments(count, mean, variance)


def reduction_size(inputs, axes):
    """Number of values reduced over `axes`: an int where the shape is static."""
    size = 1
    for axis in axes:
        size = size * ops.shape(inputs)[axis]
    return size


def at_least_one(count, dtype):
    """`count` as a divisor of `dtype`: 1 where nothing was counted."""
    if isinstance(count, int):
        return float(max(count, 1))
    return ops.maximum(ops.cast(count, dtype), 1)


def merge_moments(a, b):
    """Moments of the union of two sets of values (Chan, Golub & LeVeque 1983).

    `mean = mean_a + (mean_b - mean_a) * n_b / n`,
    `n * variance = n_a * variance_a + n_b * variance_b
    + (mean_b - mean_a)**2 * n_a * n_b / n`.

    Args:
        a, b: `Moments` of shape `(channels,)`, counts broadcastable to that; NumPy.
            A count of 0 is allowed: its mean and variance then have no effect.

    Returns:
        `Moments` of both together.

    Example:
    ```python
    import numpy as np
    from bn_keras.statistics import Moments, merge_moments

    ones = Moments(2, np.array([1.0]), np.array([0.0]))
    fours = Moments(1, np.array([4.0]), np.array([0.0]))
    both = merge_moments(ones, fours)
    assert both.count == 3 and both.mean == 2.0 and both.variance == 2.0
    ```
    """
    count = a.count + b.count
    if count == 0:
        return a
    share = b.count / count
    delta = b.mean - a.mean
    return Moments(
        count,
        a.mean + delta * share,
        a.variance * (1 - share) + b.variance * share + delta**2 * share * (1 - share),
    )


def unbiased_variance(variance, count):
    """The unbiased estimate `m / (m - 1) * variance`; for `m < 2` it is `variance`.

    Args:
        variance: biased variance, `(channels,)`.
        count: m, the number of values behind it: a number or a scalar tensor.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2.
    """
    if isinstance(count, int):
        return variance * (count / max(count - 1, 1))
    count = ops.cast(count, variance.dtype)
    return variance * (count / ops.maximum(count - 1, 1))


def moving_average(average, value, momentum):
    """`momentum * average + (1 - momentum) * value`, exact at `momentum = 1`."""
    return average + (value - average) * (1 - momentum)
