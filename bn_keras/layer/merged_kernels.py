"""Normalization by moments that TensorFlow's fused kernel for training cannot compute.

They are merged from folded positions or from several replicas, or leave masked values
out. The kernels for inference normalize by any moments; three lines of the paper remain
for their gradient.
"""

from collections.abc import Sequence
from typing import Any

from bn_keras.layer.formulas import gradients
from bn_keras.layer.fused_kernels import gradients_by, moments_fused, normalize_by
from bn_keras.layer.fused_layout import FusedLayout
from bn_keras.layer.moments import Array, Moments, batch_moments, count_unmasked
from bn_keras.layer.replicas import merge_across_replicas, sum_across_replicas


def normalize_merged(
    inputs: Array,
    gamma: Array,
    beta: Array,
    layout: FusedLayout,
    axes: Sequence[int],
    epsilon: float,
    mask: Array = None,
    synchronized: bool = False,
) -> tuple[Array, Moments]:
    """Normalize a batch by its own moments. Any number of derivatives can be taken.

    Args:
        inputs: A float32 tensor `(batch, ...)`.
        gamma: The factor, of the rank of `inputs` with size 1 along `axes`.
        beta: The offset, likewise.
        layout: The layout of the inputs.
        axes: The axes over which the moments are computed.
        epsilon: The number that is added to the variance.
        mask: A boolean tensor that broadcasts to `inputs`, or None.
        synchronized: Whether the moments are those of all replicas together.

    Returns:
        `(outputs, moments)`, the moments with size 1 along `axes`.
    """
    import tensorflow as tf

    def merge(moments: Moments) -> Moments:
        return merge_across_replicas(moments) if synchronized else moments

    def total(value: Array) -> Array:
        return sum_across_replicas(value) if synchronized else value

    def masked(values: Array) -> Array:
        return values if mask is None else tf.where(mask, values, 0)

    def plain_gradients(dy, x, gamma):
        # Everything as a function of the inputs, the moments too.
        moments = merge(batch_moments(x, axes, mask))
        return gradients(dy, x, gamma, moments, axes, epsilon, masked, total)

    @tf.custom_gradient
    def kernel(x, gamma, beta) -> Any:
        packed = layout.pack(x)
        moments = merge(_local_moments(x, packed, layout, axes, mask, epsilon))
        count, mean, variance = moments
        packed_moments = (layout.pack_weight(mean), layout.pack_weight(variance))

        def normalize(factor, offset):
            return layout.unpack(
                normalize_by(
                    packed,
                    layout.pack_weight(factor),
                    layout.pack_weight(offset),
                    *packed_moments,
                    epsilon,
                )
            )

        @tf.custom_gradient
        def backward(dy, x, gamma):
            dx, *sums = gradients_by(
                layout.pack(dy),
                packed,
                layout.pack_weight(gamma),
                *packed_moments,
                epsilon,
            )
            dgamma, dbeta = (
                layout.unpack_weight(tf.reduce_sum(layout.split_folds(value), 0))
                for value in sums
            )
            # The gradients through the moments, for all values that these are of:
            # -gamma / (m deviation) * (dL/dbeta + xhat * dL/dgamma).
            n = tf.maximum(tf.cast(count, dy.dtype), 1)
            factor = -gamma * tf.math.rsqrt(variance + epsilon) / n
            through_moments = normalize(factor * total(dgamma), factor * total(dbeta))
            outputs = layout.unpack(dx) + masked(through_moments), dgamma, dbeta

            def second_derivative(*cotangents):
                with tf.GradientTape() as tape:
                    tape.watch([dy, x, gamma])
                    plain = plain_gradients(dy, x, gamma)
                # The stubs take one target only.
                return tape.gradient(
                    plain,  # pyright: ignore[reportCallIssue, reportArgumentType]
                    [dy, x, gamma],
                    output_gradients=list(cotangents),
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )

            return outputs, second_derivative

        def gradient(dy, *_cotangents_of_moments):
            return backward(dy, x, gamma)

        count = tf.convert_to_tensor(count)
        return (normalize(gamma, beta), count, mean, variance), gradient

    outputs, *moments = kernel(inputs, gamma, beta)
    return outputs, Moments(*moments)


def _local_moments(x, packed, layout, axes, mask, epsilon) -> Moments:
    """Return the moments of this replica's batch, by the fused kernel."""
    import tensorflow as tf

    count = count_unmasked(x, axes, mask)
    size = tf.cast(count_unmasked(x, axes, None), x.dtype)
    if mask is None:
        return Moments(count, *_merge_folds(*moments_fused(packed, epsilon), layout))
    # Masked values are replaced by a value near the mean. The moments of all values
    # about it are then those of the unmasked ones, but for the count.
    divisor = tf.maximum(count, 1)
    rough = tf.reduce_sum(tf.where(mask, x, 0), axes, keepdims=True) / divisor
    filled = layout.pack(tf.where(mask, x, rough))
    mean, variance = _merge_folds(*moments_fused(filled, epsilon), layout)
    share = size / divisor
    exact = rough + (mean - rough) * share
    # m E[(x - exact)^2], less that of the m - n values that are `rough`.
    squares = (variance + tf.square(mean - exact)) * share
    variance = squares - (share - 1) * tf.square(rough - exact)
    has_values = count > 0
    return Moments(
        count,
        tf.where(has_values, exact, 0),
        tf.where(has_values, tf.maximum(variance, 0), 0),
    )


def _merge_folds(mean, variance, layout) -> tuple[Array, Array]:
    """Merge the moments of equally many values: Chan's formula for equal counts."""
    import tensorflow as tf

    means = layout.split_folds(mean)
    mean = tf.reduce_mean(means, 0)
    variance = tf.reduce_mean(layout.split_folds(variance) + tf.square(means - mean), 0)
    return layout.unpack_weight(mean), layout.unpack_weight(variance)


def normalize_by_statistics(
    inputs: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    layout: FusedLayout,
    epsilon: float,
) -> Array:
    """Normalize by given statistics, which get no gradient.

    Args:
        inputs: A float32 tensor `(batch, ...)`.
        gamma: The factor, a tensor that broadcasts to the inputs.
        beta: The offset, likewise.
        mean: The mean, likewise.
        variance: The variance, likewise.
        layout: The layout of the inputs.
        epsilon: The number that is added to the variance.
    """
    packed = layout.pack(inputs)
    gamma, beta, mean, variance = map(layout.pack_weight, (gamma, beta, mean, variance))
    return layout.unpack(normalize_by(packed, gamma, beta, mean, variance, epsilon))
