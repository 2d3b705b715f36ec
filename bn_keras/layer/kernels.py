"""Normalize a batch by its own moments, or by given ones.

Functions of tensors, differentiable any number of times, one for each backend and a
plain one. Knows no layer and no variable.
"""

from functools import cache
from math import prod
from typing import Any

import keras
from keras import ops

from bn_keras.layer.moments import Moments, batch_moments, reduction_size

# TensorFlow's fused kernel sums plainly, and loses digits of a sum this many times the
# standard deviation of what it adds.
LARGE_SUM = 1e7


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
    """Normalize a batch by its own moments; the gradients flow through both of them.

    Args:
        inputs: `(batch, ...)`, float32 or float64.
        gamma, beta: of rank and size of `inputs`, 1 along `axes`; or None for 1 and 0.
        axes: the axes that the moments are taken over.
        epsilon: added to the variance, inside the root.
        mask: optional boolean tensor broadcastable to `inputs`.

    Returns:
        `(outputs, moments)`; the moments keep the reduced axes with size 1, and carry
        no gradient of their own.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1 and section 3.
    """
    axes = tuple(axes)
    kernels = {"tensorflow": _normalize_batch_tensorflow, "jax": _normalize_batch_jax}
    kernel = kernels.get(keras.backend.backend())
    if mask is not None or kernel is None:
        count, mean, variance = batch_moments(inputs, axes, mask)
        outputs = normalize(inputs, gamma, beta, mean, variance, epsilon)
        return outputs, _constants(count, mean, variance)
    full: Any = ops.shape(inputs)
    shape = [1 if axis in axes else size for axis, size in enumerate(full)]
    if gamma is None:
        gamma = ops.ones(shape, inputs.dtype)
    if beta is None:
        beta = ops.zeros(shape, inputs.dtype)
    outputs, mean, variance = kernel(inputs, gamma, beta, axes, epsilon)
    return outputs, _constants(reduction_size(inputs, axes), mean, variance)


def _constants(count, mean, variance):
    return Moments(count, ops.stop_gradient(mean), ops.stop_gradient(variance))


def gradients(dy, inputs, gamma, mean, variance, axes, epsilon):
    """Gradients of a loss by inputs, gamma and beta, given those by the outputs.

    `dL/dbeta = sum dL/dy`, `dL/dgamma = sum dL/dy * xhat`, `dL/dx = gamma
    / sqrt(variance + epsilon) * (dL/dy - dL/dbeta / m - xhat * dL/dgamma / m)`.

    Args:
        dy: dL/dy, of the inputs' shape.
        inputs, gamma, axes, epsilon: as in `normalize_batch`.
        mean, variance: the batch's moments, the reduced axes kept with size 1.

    Returns:
        `(dL/dx, dL/dgamma, dL/dbeta)`.

    Reference:
        Ioffe & Szegedy 2015, section 3.
    """
    inverse = ops.rsqrt(variance + epsilon)
    xhat = (inputs - mean) * inverse
    count = ops.cast(reduction_size(inputs, axes), inputs.dtype)
    dbeta = ops.sum(dy, axis=axes, keepdims=True)
    dgamma = ops.sum(dy * xhat, axis=axes, keepdims=True)
    dx = gamma * inverse * (dy - dbeta / count - xhat * (dgamma / count))
    return dx, dgamma, dbeta


def _normalize_batch_jax(inputs, gamma, beta, axes, epsilon):
    return _jax_kernel()(axes, epsilon, inputs, gamma, beta)


@cache
def _jax_kernel() -> Any:
    """Forward and gradients in the fewest passes that XLA can be led to.

    Reverse mode only, any number of times; `jax.jvp` says that there is none.
    """
    import jax

    def outputs_and_moments(axes, epsilon, x, gamma, beta):
        _, mean, variance = batch_moments(x, axes, pairwise=True)
        return normalize(x, gamma, beta, mean, variance, epsilon), mean, variance

    # Not `kernel` again: a second derivative goes through the saved moments.
    def forward(axes, epsilon, x, gamma, beta):
        outputs = outputs_and_moments(axes, epsilon, x, gamma, beta)
        return outputs, (x, gamma, *outputs[1:])

    def backward(axes, epsilon, saved, cotangents):
        x, gamma, mean, variance = saved
        return gradients(cotangents[0], x, gamma, mean, variance, axes, epsilon)

    kernel = jax.custom_vjp(outputs_and_moments, nondiff_argnums=(0, 1))
    kernel.defvjp(forward, backward)
    return kernel


def _normalize_batch_tensorflow(inputs, gamma, beta, axes, epsilon) -> Any:
    import tensorflow as tf

    kept = inputs.shape[len(axes) :]
    if (
        inputs.dtype != tf.float32
        or axes != tuple(range(len(axes)))
        or None in kept
        or not _large(inputs, axes)
        or _has_long_sums(inputs, axes)
        or _compiled_by_xla()
        or tf.config.list_logical_devices("GPU")  # its fused kernel: not measured
    ):
        return _by_formula(inputs, gamma, beta, axes, epsilon)
    channels = prod(kept)
    # The kernel is slower on (m, 1, 1, channels) than on a batch of positions.
    shape = inputs.shape if inputs.shape.rank == 4 == len(axes) + 1 else None
    outputs, mean, variance = _fused(
        inputs if shape else tf.reshape(inputs, [tf.shape(inputs)[0], -1, 1, channels]),
        tf.reshape(gamma, [channels]),
        tf.reshape(beta, [channels]),
        epsilon,
    )
    if not shape:
        outputs = tf.reshape(outputs, tf.shape(inputs))
        outputs = tf.ensure_shape(outputs, inputs.shape)
    return (
        outputs,
        tf.reshape(mean, gamma.shape),
        tf.reshape(variance, gamma.shape),
    )


def _large(inputs, axes):
    """Whether the fused kernel's start-up, some 0.1 ms, is worth its speed.

    A batch of unknown size counts as large if it reduces over positions too.
    """
    size = prod(inputs.shape) if None not in inputs.shape else None
    return len(axes) > 1 if size is None else size >= 2**16


def _has_long_sums(inputs, axes):
    """Whether plain sums of squares lose over 1e-3 of a variance, even at mean 0.

    A batch of unknown size counts as 64 examples.
    """
    sizes = [inputs.shape[axis] for axis in axes]
    return prod(64 if size is None else size for size in sizes) > 2**21


def _compiled_by_xla():
    """Whether XLA compiles what is being traced.

    XLA's own batch normalization takes the variance as E[x^2] - E[x]^2.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def _by_formula(inputs, gamma, beta, axes, epsilon) -> Any:
    import tensorflow as tf

    @tf.custom_gradient
    def kernel(x, gamma, beta):
        _, mean, variance = batch_moments(x, axes, pairwise=_compiled_by_xla())

        def gradient(dy, _, __):
            return gradients(dy, x, gamma, mean, variance, axes, epsilon)

        outputs = normalize(x, gamma, beta, mean, variance, epsilon)
        return (outputs, mean, variance), gradient

    return kernel(inputs, gamma, beta)


def _fused(inputs, gamma, beta, epsilon) -> Any:
    """TensorFlow's fused kernel on `(batch, height, width, channels)`."""
    import tensorflow as tf

    unused = tf.zeros([0])

    def forward(x):
        return tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=unused,
            variance=unused,
            epsilon=epsilon,
            is_training=True,
        )

    @tf.custom_gradient
    def kernel(x, gamma, beta):
        found = forward(x)
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
        deviation = tf.sqrt(found.batch_variance + epsilon)
        limit = deviation * tf.minimum(LARGE_SUM / tf.maximum(count, 1), 30.0)
        far = tf.reduce_any(tf.abs(found.batch_mean) > limit)

        def exact_mean():
            # Example by example, so that no sum is long.
            rest = tf.reduce_mean(x - found.batch_mean, (1, 2))
            return found.batch_mean + tf.reduce_mean(rest, 0)

        shift = tf.cond(far, exact_mean, lambda: tf.zeros_like(found.batch_mean))
        y, mean, unbiased, *saved = tf.cond(
            far, lambda: forward(x - shift), lambda: found
        )
        variance = unbiased * (tf.maximum(count - 1, 1) / tf.maximum(count, 1))

        def gradient(dy, _, __):
            return tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=tf.cond(far, lambda: x - shift, lambda: x),
                scale=gamma,
                reserve_space_1=saved[0],
                reserve_space_2=saved[1],
                reserve_space_3=saved[2],
                epsilon=epsilon,
                is_training=True,
            )[:3]

        return (y, mean + shift, variance), gradient

    return kernel(inputs, gamma, beta)
