"""What a batch-normalization layer does in training mode."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from bn_keras.layer.axes import reshape_for_broadcast
from bn_keras.layer.formulas import normalize
from bn_keras.layer.kernels import normalize_batch
from bn_keras.layer.moments import Array
from bn_keras.layer.moving_statistics import batch_statistics, update_moving_statistics
from bn_keras.layer.renormalization import renorm_corrections
from bn_keras.layer.replicas import in_several_replicas
from bn_keras.layer.tensorflow_kernels import normalize_frozen_tensorflow
from bn_keras.layer.virtual_batches import normalize_virtual_batches


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
        inputs: A tensor `(batch, ...)` of any floating-point type.
        gamma: The layer's factor, of a shape that broadcasts to `inputs`, or None.
        beta: The layer's offset, likewise.
        channel_axes: The axes that have their own statistics, in ascending order.
        mask: A boolean tensor that broadcasts to `inputs`, or None.

    Returns:
        A tensor of the shape of `inputs`.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 1; Ioffe 2017, Algorithm 1, with `renorm`.
    """
    if layer.virtual_batch_size is not None:
        outputs, statistics = normalize_virtual_batches(
            layer, inputs, gamma, beta, channel_axes, mask
        )
        update_moving_statistics(layer, statistics)
        return outputs
    if layer.renorm:  # the corrections are as exact as the statistics
        inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    # The kernels apply gamma and beta in the same pass, unless the corrections of
    # renormalization come between.
    factor, offset = (None, None) if layer.renorm else (gamma, beta)
    outputs, moments = normalize_batch(
        inputs,
        factor,
        offset,
        _other_axes(inputs, channel_axes),
        layer.epsilon,
        mask,
        layer.synchronized and in_several_replicas(),
    )
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
        outputs = outputs if gamma is None else outputs * gamma
        outputs = outputs if beta is None else outputs + beta
    update_moving_statistics(layer, batch_statistics(layer, moments))
    return outputs


def normalize_by_moving_statistics(
    layer: Any,
    inputs: Array,
    gamma: Array,
    beta: Array,
    channel_axes: Sequence[int],
    training: bool | None,
) -> Array:
    """Normalize by the moving statistics: in inference mode, or if they are frozen.

    Args:
        layer: A built `BatchNormalization`.
        inputs: A tensor `(batch, ...)` of any floating-point type.
        gamma: The layer's factor, of a shape that broadcasts to `inputs`, or None.
        beta: The layer's offset, likewise.
        channel_axes: The axes that have their own statistics, in ascending order.
        training: Whether gradients are going to be taken.
    """
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    mean, variance = (
        reshape_for_broadcast(weight, inputs, channel_axes)
        for weight in (layer.moving_mean, layer.moving_variance)
    )
    if training and keras.backend.backend() == "tensorflow":
        axes = tuple(_other_axes(inputs, channel_axes))
        return normalize_frozen_tensorflow(
            inputs, gamma, beta, mean, variance, axes, layer.epsilon
        )
    return normalize(inputs, gamma, beta, mean, variance, layer.epsilon)


def _other_axes(inputs: Array, channel_axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(inputs.shape)) if axis not in channel_axes]
