"""Normalization of a batch by its own moments on TensorFlow."""

from math import prod
from typing import Any

from bn_keras.layer.formulas import gradients, normalize
from bn_keras.layer.moments import Array, batch_moments

# TensorFlow's fused kernel uses plain float32 sums. If a sum is more than this many
# times the standard deviation of its terms, its rounding errors become visible.
LARGE_SUM = 1e7


def normalize_batch_tensorflow(
    inputs: Array, gamma: Array, beta: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[Array, Array, Array]:
    """Normalize a batch by TensorFlow's fused kernel where it is exact and faster.

    Everywhere else the formulas are used. The result can be differentiated any number
    of times.

    Args:
        inputs: A tensor `(batch, ...)` of float32 or float64.
        gamma: The factor, of the rank of `inputs` with size 1 along `axes`.
        beta: The offset, likewise.
        axes: The axes over which the moments are computed, in ascending order.
        epsilon: The number that is added to the variance, inside the root.

    Returns:
        `(outputs, mean, variance)`, the moments with size 1 along `axes`.
    """
    import tensorflow as tf

    channel_sizes = inputs.shape[len(axes) :]
    if (
        inputs.dtype != tf.float32  # the kernel does not take float64
        or axes != tuple(range(len(axes)))  # it reduces all leading axes
        or None in channel_sizes
        or not _repays_start_up(inputs, axes)
        or _has_long_sums(inputs, axes)
        or _is_compiled_by_xla()
        or tf.config.list_logical_devices("GPU")  # its accuracy there is not measured
    ):
        return _normalize_by_formula(inputs, gamma, beta, axes, epsilon)
    channels = prod(channel_sizes)
    # The kernel takes rank 4. It is slower on (m, 1, 1, channels) than on a batch of
    # positions, so the batch stays the first axis.
    has_kernel_shape = inputs.shape.rank == 4 == len(axes) + 1
    outputs, mean, variance = _normalize_fused(
        inputs
        if has_kernel_shape
        else tf.reshape(inputs, [tf.shape(inputs)[0], -1, 1, channels]),
        tf.reshape(gamma, [channels]),
        tf.reshape(beta, [channels]),
        epsilon,
    )
    if not has_kernel_shape:
        outputs = tf.reshape(outputs, tf.shape(inputs))
        # A reshape to a dynamic shape forgets what is known statically.
        outputs = tf.ensure_shape(outputs, inputs.shape)
    return (
        outputs,
        tf.reshape(mean, gamma.shape),
        tf.reshape(variance, gamma.shape),
    )


def _repays_start_up(inputs, axes):
    """Return whether the batch is large enough for the fused kernel to be faster.

    Its start-up takes about 0.1 ms. A batch of unknown size counts as large if it is
    reduced over positions, too.
    """
    size = prod(inputs.shape) if None not in inputs.shape else None
    return len(axes) > 1 if size is None else size >= 2**16


def _has_long_sums(inputs, axes):
    """Return whether a plain sum of squares loses 1e-3 of a variance, even at mean 0.

    A batch of unknown size counts as 64 examples.
    """
    sizes = [inputs.shape[axis] for axis in axes]
    return prod(64 if size is None else size for size in sizes) > 2**21


def _is_compiled_by_xla():
    """Return whether XLA compiles what is being traced.

    XLA replaces the fused kernel by its own batch normalization, which computes the
    variance as `E[x^2] - E[x]^2`.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def _normalize_by_formula(inputs, gamma, beta, axes, epsilon) -> Any:
    import tensorflow as tf

    @tf.custom_gradient
    def kernel(x, gamma, beta):
        _, mean, variance = batch_moments(x, axes, pairwise=_is_compiled_by_xla())

        # For a second derivative TensorFlow differentiates this function, including its
        # dependence on `mean` and `variance`. The cotangents of the moments are ignored
        # because `normalize_batch` stops their gradients.
        def gradient(dy, _mean_cotangent, _variance_cotangent):
            return gradients(dy, x, gamma, mean, variance, axes, epsilon)

        outputs = normalize(x, gamma, beta, mean, variance, epsilon)
        return (outputs, mean, variance), gradient

    return kernel(inputs, gamma, beta)


def _normalize_fused(inputs, gamma, beta, epsilon) -> Any:
    """Run TensorFlow's fused kernel, a second time where its first sums are inexact.

    Args:
        inputs: A float32 tensor `(batch, height, width, channels)`.
        gamma: A tensor `(channels,)`.
        beta: A tensor `(channels,)`.
        epsilon: The number that is added to the variance.

    Returns:
        `(outputs, mean, variance)`, the moments of shape `(channels,)`.
    """
    import tensorflow as tf

    unused = tf.zeros([0])  # moving moments, which the kernel takes for inference only

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
        unshifted = forward(x)
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
        # The kernel uses plain float32 sums. The larger a sum is compared with the
        # deviation of its terms, the more digits of the mean are lost, and the error of
        # the mean goes into the variance. Both limits were found by measurement: below
        # them the variance is within 1e-3 of the exact one (the tests of the kernels
        # check this).
        deviation = tf.sqrt(unshifted.batch_variance + epsilon)
        limit = deviation * tf.minimum(LARGE_SUM / tf.maximum(count, 1), 30.0)
        # One such channel is enough: the kernel runs again on all channels. NaN is not
        # greater than anything, so it does not cause a second run.
        is_far = tf.reduce_any(tf.abs(unshifted.batch_mean) > limit)

        def compute_exact_mean():
            # The mean of what is left after subtracting the inexact mean: first over
            # the positions of an example, then over the examples, so no sum is long.
            rest = tf.reduce_mean(x - unshifted.batch_mean, (1, 2))
            return unshifted.batch_mean + tf.reduce_mean(rest, 0)

        # A shift of the inputs changes neither the outputs nor the variance nor any
        # gradient, so the second run may subtract the mean first. If no channel is far,
        # which is the usual case, `tf.cond` computes nothing.
        shift = tf.cond(
            is_far, compute_exact_mean, lambda: tf.zeros_like(unshifted.batch_mean)
        )
        y, mean, unbiased, *reserved = tf.cond(
            is_far, lambda: forward(x - shift), lambda: unshifted
        )
        # The kernel returns m / (m - 1) times the variance that it normalized by. For
        # one value it divides by 1 instead of 0.
        variance = unbiased * (tf.maximum(count - 1, 1) / tf.maximum(count, 1))

        def gradient(dy, _mean_cotangent, _variance_cotangent):
            # TensorFlow has a gradient of this operation, for second derivatives. The
            # inputs must be those of the run whose moments are in `reserved`. They are
            # shifted again, because keeping them would need the memory of a batch.
            return tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=tf.cond(is_far, lambda: x - shift, lambda: x),
                scale=gamma,
                reserve_space_1=reserved[0],
                reserve_space_2=reserved[1],
                reserve_space_3=reserved[2],
                epsilon=epsilon,
                is_training=True,
            )[:3]

        return (y, mean + shift, variance), gradient

    return kernel(inputs, gamma, beta)
