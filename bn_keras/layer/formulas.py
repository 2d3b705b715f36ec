"""The formulas of batch normalization: its outputs and its gradients."""

from collections.abc import Callable, Sequence

from keras import ops

from bn_keras.layer.moments import Array, Moments, safe_divisor


def normalize(
    inputs: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    epsilon: float,
) -> Array:
    """Return `gamma * (x - mean) / sqrt(variance + epsilon) + beta` for given moments.

    The mean is subtracted first. The cheaper `scale * x + shift` would cancel where the
    mean is large compared with the standard deviation.

    Args:
        inputs: A tensor `(batch, ...)`.
        gamma: The factor, of a shape that broadcasts to `inputs`, or None for 1.
        beta: The offset, likewise, or None for 0.
        mean: The mean, of a shape that broadcasts to `inputs`.
        variance: The variance, likewise.
        epsilon: The number that is added to the variance, inside the root.

    Returns:
        A tensor of the shape of `inputs`.
    """
    return scale_distance(inputs - mean, gamma, beta, variance, epsilon)


def scale_distance(
    distance: Array, gamma: Array, beta: Array, variance: Array, epsilon: float
) -> Array:
    """Return `gamma * distance / sqrt(variance + epsilon) + beta`.

    Args:
        distance: The inputs minus their mean; the others are those of `normalize`.
        gamma: The factor, or None for 1.
        beta: The offset, or None for 0.
        variance: The variance.
        epsilon: The number that is added to the variance, inside the root.
    """
    scale = ops.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    outputs = distance * scale
    return outputs if beta is None else outputs + beta


def gradients(
    dy: Array,
    inputs: Array,
    gamma: Array,
    moments: Moments,
    axes: Sequence[int],
    epsilon: float,
    masked: Callable[[Array], Array] = lambda values: values,
    total: Callable[[Array], Array] = lambda value: value,
) -> tuple[Array, Array, Array]:
    """Return the gradients by inputs, gamma and beta, given that by the outputs.

    `dL/dbeta = sum dL/dy`,
    `dL/dgamma = sum dL/dy * xhat`,
    `dL/dx = gamma / sqrt(variance + epsilon)
    * (dL/dy - dL/dbeta / m - xhat * dL/dgamma / m)`.

    Args:
        dy: `dL/dy`, of the shape of `inputs`.
        inputs: The inputs, as in `normalize_batch`.
        gamma: The factor, as in `normalize_batch`, but not None.
        moments: The moments of the batch, of the rank of `inputs` with size 1 along
            `axes`.
        axes: The axes over which the moments were computed.
        epsilon: The number that was added to the variance.
        masked: Sets a tensor to 0 where the moments ignored a value.
        total: Sums a value over all replicas whose batches the moments are of.

    Returns:
        `(dL/dx, dL/dgamma, dL/dbeta)`.

    Reference:
        Ioffe & Szegedy 2015, section 3.
    """
    # Nothing here but the batch and its moments, so that a second derivative of the
    # outputs is a first derivative of these lines.
    inverse = ops.rsqrt(moments.variance + epsilon)
    xhat = (inputs - moments.mean) * inverse
    count = safe_divisor(moments.count, inputs.dtype)
    dbeta = ops.sum(dy, axis=axes, keepdims=True)
    dgamma = ops.sum(dy * xhat, axis=axes, keepdims=True)
    # The paper's three terms by x, mean and variance, merged: the gradients by the
    # moments are multiples of dbeta and dgamma. This needs two passes over the batch.
    through_moments = total(dbeta) / count + xhat * (total(dgamma) / count)
    dx = gamma * inverse * (dy - masked(through_moments))
    return dx, dgamma, dbeta
