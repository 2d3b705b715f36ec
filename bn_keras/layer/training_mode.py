"""What a batch-normalization layer does in training mode."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from bn_keras.layer.axes import reshape_for_broadcast, split_virtual_batches
from bn_keras.layer.formulas import normalize
from bn_keras.layer.kernels import normalize_batch
from bn_keras.layer.moments import Array, batch_moments
from bn_keras.layer.moving_statistics import update_moving_statistics
from bn_keras.layer.renormalization import renorm_corrections
from bn_keras.layer.replicas import in_several_replicas, merge_across_replicas


def normalize_and_update(
    layer: Any,
    inputs: Array,
    gamma: Array,
    beta: Array,
    channel_axes: Sequence[int],
    mask: Array,
) -> Array:
    """Normalize by the moments of the batch, and update the moving statistics.

    Args:
        layer: A built `BatchNormalization`.
        inputs: A tensor `(batch, ...)` of float32 or float64.
        gamma: The layer's factor, of a shape that broadcasts to `inputs`, or None.
        beta: The layer's offset, likewise.
        channel_axes: The axes that have their own statistics, in ascending order.
        mask: A boolean tensor that broadcasts to `inputs`, or None.

    Returns:
        A tensor of the shape of `inputs`.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1; Ioffe 2017, Algorithm 1, with `renorm`.
    """
    axes = [axis for axis in range(len(inputs.shape)) if axis not in channel_axes]
    shape, virtual_size = ops.shape(inputs), layer.virtual_batch_size
    if virtual_size is not None:
        inputs, mask = split_virtual_batches(inputs, mask, channel_axes, virtual_size)
        # Each virtual batch keeps its own moments along the new first axis.
        axes = [axis + 1 for axis in axes]
    # The kernels apply gamma and beta in the same pass, unless something comes between:
    # the reshape to a batch, or the corrections of renormalization.
    in_kernel = virtual_size is None and not layer.renorm
    factor, offset = (gamma, beta) if in_kernel else (None, None)
    if layer.synchronized and in_several_replicas():
        moments = merge_across_replicas(batch_moments(inputs, axes, mask))
        outputs = normalize(
            inputs, factor, offset, moments.mean, moments.variance, layer.epsilon
        )
    else:
        outputs, moments = normalize_batch(
            inputs, factor, offset, axes, layer.epsilon, mask
        )
    if virtual_size is not None:
        outputs = ops.reshape(outputs, shape)
    if layer.renorm:
        r, d = renorm_corrections(
            moments.mean,
            moments.variance,
            reshape_for_broadcast(layer.renorm_mean, inputs, channel_axes),
            reshape_for_broadcast(layer.renorm_stddev, inputs, channel_axes),
            layer.epsilon,
            layer.renorm_clipping,
        )
        outputs = outputs * r + d
    if not in_kernel:
        outputs = outputs if gamma is None else outputs * gamma
        outputs = outputs if beta is None else outputs + beta
    update_moving_statistics(layer, moments)
    return outputs
