"""The formulas of batch normalization: its outputs and its gradients."""

from collections.abc import Sequence

from keras import ops

from bn_keras.layer.moments import Array, reduction_size


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
    scale = ops.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    outputs = (inputs - mean) * scale
    return outputs if beta is None else outputs + beta


def gradients(
    dy: Array,
    inputs: Array,
    gamma: Array,
    mean: Array,
    variance: Array,
    axes: Sequence[int],
    epsilon: float,
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
        mean: The mean of the batch, of the rank of `inputs` with size 1 along `axes`.
        variance: The biased variance of the batch, likewise.
        axes: The axes over which the moments were computed.
        epsilon: The number that was added to the variance.

    Returns:
        `(dL/dx, dL/dgamma, dL/dbeta)`.

    Reference:
        Ioffe & Szegedy 2015, section 3.
    """
    # Nothing here but the batch and its moments, so that a second derivative of the
    # outputs is a first derivative of these lines.
    inverse = ops.rsqrt(variance + epsilon)
    xhat = (inputs - mean) * inverse
    count = ops.cast(reduction_size(inputs, axes), inputs.dtype)
    dbeta = ops.sum(dy, axis=axes, keepdims=True)
    dgamma = ops.sum(dy * xhat, axis=axes, keepdims=True)
    # The paper's three terms by x, mean and variance, merged: the gradients by the
    # moments are multiples of dbeta and dgamma. This needs two passes over the batch.
    dx = gamma * inverse * (dy - dbeta / count - xhat * (dgamma / count))
    return dx, dgamma, dbeta
