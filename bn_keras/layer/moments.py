"""Moments of a batch, their merging, and the averages that follow them.

Arrays in, arrays out. Knows neither layers nor backends' kernels: the moments are
plain `keras.ops`, everything else is arithmetic that NumPy arrays and tensors share.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

# An array of NumPy or a tensor of the backend: both carry the operators used here.
Array = Any

# So many float32 values are summed plainly with a relative error near 1e-6.
FEW = 1024


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


def batch_moments(inputs, axes, mask=None, pairwise=False):
    """Moments of a batch over `axes`, in two passes.

    With `c` the mean as a first pass finds it, and `d = x - c`,

    `mean = c + E[d]`, `variance = E[d**2] - E[d]**2`.

    In exact arithmetic `E[d] = 0`. In float32 a plain sum of 400,000 values around 1000
    misses their mean by more than their standard deviation; so the first pass sums
    distances to the first example's mean, and the second pass mends what is left.
    Gradients flow through both moments.

    Args:
        inputs: tensor `(batch, ...)`, at least float32.
        axes: the axes to reduce.
        mask: optional boolean tensor broadcastable to `inputs`; False is left out.
        pairwise: whether the backend sums pairwise, as XLA does; then, and for few
            values, the plain formula `variance = E[(x - mean)**2]` is as exact.

    Returns:
        `Moments`, the reduced axes kept with size 1 (a static count is an int). With
        nothing to count: count 0, mean 0, variance 0; but NaN for a batch that turns
        out to be empty only where the compiled graph runs.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1; Chan, Golub & LeVeque 1983, equation 1.7.
    """
    axes = tuple(axes)
    if mask is None:
        count = reduction_size(inputs, axes)
    else:
        mask = ops.broadcast_to(mask, ops.shape(inputs))
        count = ops.sum(ops.cast(mask, inputs.dtype), axis=axes, keepdims=True)
        inputs = ops.where(mask, inputs, 0)
    divisor = safe_divisor(count, inputs.dtype)

    nonempty = mask is None and (not isinstance(count, int) or count > 0)

    def mean_of(values):
        if nonempty:
            return ops.mean(values, axis=axes, keepdims=True)
        values = values if mask is None else ops.where(mask, values, 0)
        return ops.sum(values, axis=axes, keepdims=True) / divisor

    if pairwise or (isinstance(count, int) and count <= FEW):
        mean = mean_of(inputs)
        return Moments(count, mean, mean_of(ops.square(inputs - mean)))
    first = inputs[:1] if 0 in axes else inputs
    size = safe_divisor(reduction_size(first, axes), inputs.dtype)
    guess = ops.sum(first, axis=axes, keepdims=True) / size
    center = ops.stop_gradient(guess + mean_of(inputs - guess))
    distance = inputs - center
    error = mean_of(distance)
    variance = mean_of(ops.square(distance)) - ops.square(error)
    return Moments(count, center + error, ops.maximum(variance, 0))


def reduction_size(inputs, axes):
    """Number of values reduced over `axes`: an int where the shape is static."""
    size = 1
    for axis in axes:
        size = size * ops.shape(inputs)[axis]
    return size


def safe_divisor(count, dtype):
    """`count` as a divisor of `dtype`: 1 where nothing was counted."""
    if isinstance(count, int):
        return float(max(count, 1))
    return ops.maximum(ops.cast(count, dtype), 1)


def masked_mean(values, mask):
    """Mean over the first axis where `mask` is True; 0 where it never is.

    Args:
        values: tensor `(groups, ...)`.
        mask: boolean tensor of that shape.
    """
    number = ops.sum(ops.cast(mask, values.dtype), axis=0)
    return ops.sum(ops.where(mask, values, 0), axis=0) / ops.maximum(number, 1)


def merge_moments(a, b):
    """Moments of the union of two sets of values (Chan, Golub & LeVeque 1983).

    `mean = mean_a + (mean_b - mean_a) * n_b / n`,
    `n * variance = n_a * variance_a + n_b * variance_b
    + (mean_b - mean_a)**2 * n_a * n_b / n`.

    Args:
        a, b: `Moments` of NumPy arrays `(channels,)`, or of a count for all channels.
            A count of 0 is allowed: its mean and variance then have no effect.

    Returns:
        `Moments` of both together.

    Example:
    ```python
    import numpy as np
    from bn_keras.layer.moments import Moments, merge_moments

    ones = Moments(2, np.array([1.0]), np.array([0.0]))
    fours = Moments(1, np.array([4.0]), np.array([0.0]))
    both = merge_moments(ones, fours)
    assert both.count == 3 and both.mean == 2.0 and both.variance == 2.0
    ```
    """
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
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
    if isinstance(count, np.ndarray):
        return variance * (count / np.maximum(count - 1, 1))
    count = ops.cast(count, variance.dtype)
    return variance * (count / ops.maximum(count - 1, 1))


def update_weight(averaging, momentum, updates):
    """Weight of the newest value in an average, after `updates` earlier ones.

    `"cumulative"`: `1 / (updates + 1)`, so that all values weigh the same.
    `"debiased"`: `(1 - momentum) / (1 - momentum**(updates + 1))`, the moving average
    as if it had begun at the first value. In a plain moving average the weight is
    `1 - momentum`.

    Args:
        averaging: `"cumulative"` or `"debiased"`.
        momentum: in [0, 1]; weight of the past. At 1 both are the same.
        updates: number of values averaged so far: a number or an array of them.

    Returns:
        The weight, of the shape of `updates`.

    Reference:
        Kingma & Ba 2015, "Adam", section 3.
    """
    if averaging == "cumulative" or momentum == 1:
        return 1 / (updates + 1)
    return (1 - momentum) / (1 - momentum ** (updates + 1))


def update_average(average, value, weight):
    """`(1 - weight) * average + weight * value`, exact at the weights 0 and 1.

    Args:
        average, value: arrays of one shape.
        weight: in [0, 1], broadcastable to them.
    """
    return average + (value - average) * weight
