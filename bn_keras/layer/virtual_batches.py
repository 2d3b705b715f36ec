"""Normalization of virtual ("ghost") batches."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from bn_keras.layer.kernels import normalize_batch
from bn_keras.layer.moments import Array
from bn_keras.layer.moving_statistics import BatchStatistics, batch_statistics


def normalize_virtual_batches(
    layer: Any,
    inputs: Array,
    gamma: Array,
    beta: Array,
    channel_axes: Sequence[int],
    mask: Array,
) -> tuple[Array, BatchStatistics]:
    """Normalize each virtual batch by its own moments.

    What remains of the batch after the last whole virtual batch is a smaller one.

    Args:
        layer: A built `BatchNormalization` with a `virtual_batch_size`.
        inputs: A tensor `(batch, ...)` of any floating-point type.
        gamma: The layer's factor, of a shape that broadcasts to `inputs`, or None.
        beta: The layer's offset, likewise.
        channel_axes: The axes that have their own statistics, in ascending order.
        mask: A boolean tensor that broadcasts to `inputs`, or None.

    Returns:
        `(outputs, statistics)`: a tensor of the shape of `inputs`, and the means over
        the virtual batches with usable moments.

    Raises:
        ValueError: If the batch is a channel axis.

    Reference:
        Hoffer, Hubara & Soudry 2017, "Train longer, generalize better", Algorithm 1.
    """
    if 0 in channel_axes:
        raise ValueError(
            "`axis` must not contain the batch, which is the first axis, together with "
            f"`virtual_batch_size`. Received: channel axes {list(channel_axes)}"
        )
    shape: Any = ops.shape(inputs)
    axes = [axis for axis in range(1, len(shape) + 1) if axis - 1 not in channel_axes]
    size = layer.virtual_batch_size
    if mask is not None:
        mask = ops.broadcast_to(mask, shape)

    def normalize_part(values, mask, size):
        """Return the outputs, and sums over the virtual batches of `size` examples."""
        shape_now: Any = ops.shape(values)
        split = (-1, size, *shape_now[1:])
        virtual = ops.reshape(values, split)
        mask = None if mask is None else ops.reshape(mask, split)
        groups: Any = ops.shape(virtual)[0]

        def repeat(weight: Any) -> Any:
            if weight is None:
                return None
            own_shape: Any = ops.shape(weight)
            return ops.broadcast_to(weight, (groups, *own_shape))

        outputs, moments = normalize_batch(
            virtual, repeat(gamma), repeat(beta), axes, layer.epsilon, mask
        )
        mean, variance, population, usable = batch_statistics(layer, moments)
        if usable is None:
            usable = ops.zeros_like(population, "bool")
        sums = [
            ops.sum(ops.where(usable, x, 0), axis=0)
            for x in (mean, variance, population, ops.ones_like(population))
        ]
        return (ops.reshape(outputs, ops.shape(values)), *sums)

    def normalize_whole():
        return normalize_part(inputs, mask, size)

    def normalize_with_remainder():
        sizes = (shape[0] - remainder, remainder)
        masks = (None, None) if mask is None else _split(mask, sizes)
        parts = [
            normalize_part(*part)
            for part in zip(
                _split(inputs, sizes), masks, (size, remainder), strict=True
            )
        ]
        outputs, *sums = zip(*parts, strict=True)
        return (ops.concatenate(outputs), *(a + b for a, b in sums))

    remainder = shape[0] % size
    if isinstance(remainder, int) and shape[0] <= size:
        # An empty batch has no virtual batches, of a size that is not 0.
        outputs, *sums = normalize_part(inputs, mask, max(shape[0], 1))
    elif isinstance(remainder, int):
        whole = remainder == 0
        outputs, *sums = normalize_whole() if whole else normalize_with_remainder()
    else:
        # Concatenating the parts is a pass over the batch, which most batches save.
        results: Any = ops.cond(
            remainder == 0, normalize_whole, normalize_with_remainder
        )
        outputs, *sums = results
    *sums, count = sums
    mean, variance, population = (x / ops.maximum(count, 1) for x in sums)
    return outputs, BatchStatistics(mean, variance, population, count > 0)


def _split(values, sizes):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # The gradient of a slice is a sum of padded tensors; that of a split is not.
        return tf.split(values, sizes)
    return values[: sizes[0]], values[sizes[0] :]
