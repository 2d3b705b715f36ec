"""Normalization of a batch by its own moments, as fast as each backend can."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import keras
from keras import ops

from bn_keras.layer.formulas import gradients, normalize
from bn_keras.layer.moments import Array, Moments, batch_moments, reduction_size
from bn_keras.layer.tensorflow_kernels import normalize_batch_tensorflow


def normalize_batch(
    inputs: Array,
    gamma: Array,
    beta: Array,
    axes: Sequence[int],
    epsilon: float,
    mask: Array = None,
) -> tuple[Array, Moments]:
    """Normalize a batch by its own moments; gradients flow through both of them.

    The result can be differentiated any number of times in reverse mode. On JAX,
    forward mode (`jax.jvp`, `jax.jacfwd`) is not available for the function itself, but
    it is for its gradient: `jax.hessian` works.

    Args:
        inputs: A tensor `(batch, ...)` of float32 or float64.
        gamma: The factor, of the rank of `inputs` with size 1 along `axes`, or None
            for 1.
        beta: The offset, likewise, or None for 0.
        axes: The axes over which the moments are computed.
        epsilon: The number that is added to the variance, inside the root.
        mask: A boolean tensor that broadcasts to `inputs`, or None. Values where it is
            False are normalized, but ignored by the moments.

    Returns:
        `(outputs, moments)`. In the moments the reduced axes have size 1; no gradient
        flows through them.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1 and section 3.
    """
    axes = tuple(axes)
    kernels = {"tensorflow": normalize_batch_tensorflow, "jax": _normalize_batch_jax}
    kernel = kernels.get(keras.backend.backend())
    if mask is not None or kernel is None:
        # Plain operations, differentiated by the backend. The kernels below are faster,
        # but their gradients assume that every value counts.
        count, mean, variance = batch_moments(inputs, axes, mask)
        outputs = normalize(inputs, gamma, beta, mean, variance, epsilon)
        return outputs, _stop_gradients(count, mean, variance)
    # The kernels' own gradients need both weights.
    sizes: Any = ops.shape(inputs)
    shape = [1 if axis in axes else size for axis, size in enumerate(sizes)]
    if gamma is None:
        gamma = ops.ones(shape, inputs.dtype)
    if beta is None:
        beta = ops.zeros(shape, inputs.dtype)
    outputs, mean, variance = kernel(inputs, gamma, beta, axes, epsilon)
    return outputs, _stop_gradients(reduction_size(inputs, axes), mean, variance)


def _stop_gradients(count, mean, variance):
    # The kernels ignore the cotangents of the moments; this makes all paths alike.
    return Moments(count, ops.stop_gradient(mean), ops.stop_gradient(variance))


def _normalize_batch_jax(inputs, gamma, beta, axes, epsilon):
    return _jax_kernel()(axes, epsilon, inputs, gamma, beta)


@cache
def _jax_kernel() -> Any:
    """Return the normalization as a function with its own gradients.

    XLA needs fewer passes over the batch for them than for the gradients that JAX would
    derive.
    """
    import jax

    def outputs_and_moments(axes, epsilon, x, gamma, beta):
        # XLA sums pairwise: the short formula is exact enough.
        _, mean, variance = batch_moments(x, axes, pairwise=True)
        return normalize(x, gamma, beta, mean, variance, epsilon), mean, variance

    def forward(axes, epsilon, x, gamma, beta):
        # Calls the plain function, not `kernel`: a second derivative must flow through
        # the saved moments, and `backward` ignores the cotangents of moments.
        outputs = outputs_and_moments(axes, epsilon, x, gamma, beta)
        return outputs, (x, gamma, *outputs[1:])

    def backward(axes, epsilon, saved, cotangents):
        x, gamma, mean, variance = saved
        return gradients(cotangents[0], x, gamma, mean, variance, axes, epsilon)

    kernel = jax.custom_vjp(outputs_and_moments, nondiff_argnums=(0, 1))
    kernel.defvjp(forward, backward)
    return kernel
