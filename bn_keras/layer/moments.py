"""The moments of a batch, and of several batches together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

# A NumPy array or a tensor of the backend: both have the operators that are used here.
Array = Any

# A plain sum of this many float32 values has a relative error of about 1e-6.
FEW_VALUES = 1024


class Moments(NamedTuple):
    """The count, mean and *biased* variance of a set of values, per channel.

    Args:
        count: The number of values behind each mean: a scalar, or an array that
            broadcasts to `mean`.
        mean: The mean of the values.
        variance: Their mean squared distance from the mean: a sum divided by `count`.
    """

    count: Array
    mean: Array
    variance: Array


def batch_moments(
    inputs: Array, axes: Sequence[int], mask: Array = None, pairwise: bool = False
) -> Moments:
    """Return the moments of a batch over `axes`, computed in two passes.

    With `c` the mean found by the first pass, and `d = x - c`:

    `mean = c + E[d]`, `variance = E[d**2] - E[d]**2`.

    In exact arithmetic `E[d]` is 0. In float32, a plain sum of 400,000 values around
    1000 misses their mean by more than their standard deviation. Therefore the first
    pass sums the distances from the mean of the first example, and the second pass
    corrects the error that is left. Gradients flow through both moments.

    Args:
        inputs: A tensor `(batch, ...)` of float32 or float64.
        axes: The axes to reduce.
        mask: A boolean tensor that broadcasts to `inputs`, or None. Values where it is
            False are ignored.
        pairwise: Whether the backend sums pairwise, as XLA does. If so, and also for
            few values, the plain formula `variance = E[(x - mean)**2]` is as exact.

    Returns:
        The `Moments`, in which the reduced axes have size 1. The count is an int if the
        shape is static. Without any value the count, mean and variance are 0, except in
        a compiled graph whose batch turns out to be empty only at run time: there the
        mean and variance are NaN.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1; Chan, Golub & LeVeque 1983, equation 1.7.
    """
    axes = tuple(axes)
    count = count_unmasked(inputs, axes, mask)
    if mask is not None:
        # Masked values may be NaN: they must not reach a sum, not even times 0.
        inputs = ops.where(mask, inputs, 0)
    divisor = safe_divisor(count, inputs.dtype)

    # `ops.mean` is one operation instead of two, but is NaN without values.
    use_mean = mask is None and (not isinstance(count, int) or count > 0)

    def mean_of(values):
        if use_mean:
            return ops.mean(values, axis=axes, keepdims=True)
        # `values` may be `inputs - center`, which is not 0 where `inputs` are masked.
        values = values if mask is None else ops.where(mask, values, 0)
        return ops.sum(values, axis=axes, keepdims=True) / divisor

    if pairwise or (isinstance(count, int) and count <= FEW_VALUES):
        mean = mean_of(inputs)
        return Moments(count, mean, mean_of(ops.square(inputs - mean)))
    # Any value near the mean will do as a guess: it only has to be close enough that
    # the sum of the distances from it stays small. One example is quick to average.
    guess = inputs[:1] if 0 in axes else inputs
    if axes != (0,) or not isinstance(count, int):  # the batch may be empty
        size = safe_divisor(reduction_size(guess, axes), inputs.dtype)
        guess = ops.sum(guess, axis=axes, keepdims=True) / size
    # The mean and the variance do not depend on the center in exact arithmetic, so
    # neither do their gradients: no need to differentiate through it.
    center = ops.stop_gradient(guess + mean_of(inputs - guess))
    distance = inputs - center
    # The rounding error of the first pass, if the first example was not typical.
    error = mean_of(distance)
    variance = mean_of(ops.square(distance)) - ops.square(error)
    # The subtraction may leave a tiny negative variance where all values are equal.
    return Moments(count, center + error, ops.maximum(variance, 0))


def count_unmasked(inputs: Array, axes: Sequence[int], mask: Array) -> Any:
    """Return the number of values behind each moment.

    Args:
        inputs: A tensor `(batch, ...)`.
        axes: The axes to reduce.
        mask: A boolean tensor that broadcasts to `inputs`, or None.

    Returns:
        With a mask a tensor that broadcasts to the moments, because channels may have
        different counts; otherwise as `reduction_size`.
    """
    if mask is None:
        return reduction_size(inputs, axes)
    if None in mask.shape:
        # It may have size 1 where its size is unknown.
        sizes: Any = ops.shape(inputs)
        shape = [
            1 if size == 1 else total
            for size, total in zip(mask.shape, sizes, strict=True)
        ]
        mask = ops.broadcast_to(mask, shape)
    # Axes of size 1 are not broadcast, only counted: the sum is over a small tensor.
    broadcast = [a for a in axes if mask.shape[a] == 1]
    count = ops.sum(ops.cast(mask, inputs.dtype), axis=tuple(axes), keepdims=True)
    return count * ops.cast(reduction_size(inputs, broadcast), inputs.dtype)


def reduction_size(inputs: Array, axes: Sequence[int]) -> Any:
    """Return the number of values reduced over `axes`; an int if the shape is static.

    Args:
        inputs: A tensor of any shape.
        axes: The axes to reduce.
    """
    size = 1
    for axis in axes:
        size = size * ops.shape(inputs)[axis]
    # Not the symbolic size of `jax.export`, which has no comparisons.
    return size if isinstance(size, int) else ops.convert_to_tensor(size)


def safe_divisor(count: Any, dtype: str) -> Any:
    """Return `count` as a number to divide by: 1 where the count is 0.

    Args:
        count: An int, or a tensor of counts.
        dtype: The data type of the quotient.
    """
    if isinstance(count, int):
        return float(max(count, 1))
    return ops.maximum(ops.cast(count, dtype), 1)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Return the moments of the union of two sets of values.

    With `n = n_a + n_b`:

    `mean = mean_a + (mean_b - mean_a) * n_b / n`,
    `n * variance = n_a * variance_a + n_b * variance_b
    + (mean_b - mean_a)**2 * n_a * n_b / n`.

    Args:
        a: The moments of the first set: NumPy arrays `(channels,)`; the count may also
            be a number. With a count of 0 the mean and variance are ignored.
        b: The moments of the second set, likewise.

    Returns:
        The `Moments` of both sets together.

    Example:
    ```python
    import numpy as np
    from bn_keras.layer.moments import Moments, merge_moments

    ones = Moments(2, np.array([1.0]), np.array([0.0]))
    fours = Moments(1, np.array([4.0]), np.array([0.0]))
    both = merge_moments(ones, fours)
    assert both.count == 3 and both.mean == 2.0 and both.variance == 2.0
    ```

    Reference:
        Chan, Golub & LeVeque 1983.
    """
    count = a.count + b.count
    # With shares instead of counts nothing is multiplied by n, so nothing overflows.
    # Two empty sets have the shares 1 and 0.
    share = b.count / np.maximum(count, 1)
    delta = b.mean - a.mean
    within = a.variance * (1 - share) + b.variance * share
    # The variance of the two means about the merged one: n_a n_b / n^2 * delta^2.
    between = delta**2 * share * (1 - share)
    return Moments(count, a.mean + delta * share, within + between)


def unbiased_variance(variance: Array, count: Any) -> Array:
    """Return the unbiased estimate `m / (m - 1) * variance`, or `variance` if `m < 2`.

    Args:
        variance: The biased variance, `(channels,)`.
        count: The number of values m: a number, an array, or a tensor.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2.
    """
    # Plain numbers and NumPy arrays stay in float64; only tensors follow the variance.
    if isinstance(count, int):
        return variance * (count / max(count - 1, 1))
    if isinstance(count, np.ndarray):
        return variance * (count / np.maximum(count - 1, 1))
    count = ops.cast(count, variance.dtype)
    return variance * (count / ops.maximum(count - 1, 1))
