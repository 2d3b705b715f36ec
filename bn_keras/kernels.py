"""Normalize a batch by its own moments, or by given ones.

Functions of tensors, differentiable by the backend. Knows no layer and no variable.
"""

from keras import ops

from bn_keras.statistics import batch_moments


def normalize(inputs, gamma, beta, mean, variance, epsilon):
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta`, moments given.

    The mean is subtracted first: `scale * x + shift` would cancel where the mean is
    large against the standard deviation.

    Args:
        inputs: `(batch, ...)`.
        gamma, beta: broadcastable to `inputs`, or None for 1 and 0.
        mean, variance: broadcastable to `inputs`.
        epsilon: added to the variance, inside the root.

    Returns:
        A tensor of the inputs' shape.
    """
    scale = ops.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    outputs = (inputs - mean) * scale
    return outputs if beta is None else outputs + beta


def normalize_batch(inputs, gamma, beta, axes, epsilon, mask=None):
    """Normalize a batch by its own moments; gradients flow through both of them.

    Args:
        inputs: `(batch, ...)`, at least float32.
        gamma, beta: broadcastable to `inputs`, or None for 1 and 0.
        axes: the axes that the moments are taken over.
        epsilon: added to the variance, inside the root.
        mask: optional boolean tensor broadcastable to `inputs`.

    Returns:
        `(outputs, moments)`; the moments keep the reduced axes with size 1.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1.
    """
    moments = batch_moments(inputs, axes, mask)
    outputs = normalize(inputs, gamma, beta, moments.mean, moments.variance, epsilon)
    return outputs, moments
