"""Shapes in a normalization: channel axes, masks and virtual batches."""

from collections.abc import Sequence
from operator import index
from typing import Any

from keras import ops

Shape = Sequence[int | None]


def standardize_axis(axis: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return `axis` as an int or a tuple of ints.

    Args:
        axis: An integer of any type, or a list or tuple of integers.

    Returns:
        The same axis or axes as Python integers, which JSON can represent.

    Raises:
        ValueError: If `axis` is anything else.
    """
    try:
        if isinstance(axis, list | tuple):
            return tuple(index(element) for element in axis)
        # `index` accepts integers of NumPy, but neither floats nor strings.
        return index(axis)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise ValueError(
            f"`axis` must be an integer or a tuple of integers. Received: axis={axis!r}"
        ) from None


def resolve_channel_axes(axis: int | Sequence[int], shape: Shape) -> list[int]:
    """Return the channel axes: those along which each position has its own statistics.

    Args:
        axis: One axis or several. Negative axes are counted from the end.
        shape: The shape of the inputs.

    Returns:
        The axes in ascending order, none of them negative.

    Raises:
        ValueError: If an axis is out of range, repeated, or of unknown or zero size.
    """
    rank = len(shape)
    axes = (axis,) if isinstance(axis, int) else axis
    if not axes or any(not -rank <= element < rank for element in axes):
        raise ValueError(
            f"`axis` must be an axis of the input or a tuple of them, from {-rank} to "
            f"{rank - 1}. Received: axis={axis}, input shape {tuple(shape)}"
        )
    channel_axes = sorted(element % rank for element in axes)
    if len(set(channel_axes)) < len(channel_axes):
        raise ValueError(
            f"`axis` must not contain the same axis twice. Received: axis={axis}, "
            f"input shape {tuple(shape)}"
        )
    if any(not shape[element] for element in channel_axes):
        raise ValueError(
            "Every axis in `axis` must have a known size of at least 1. "
            f"Received: axis={axis}, input shape {tuple(shape)}"
        )
    return channel_axes


def reshape_for_broadcast(weight: Any, inputs: Any, channel_axes: Sequence[int]) -> Any:
    """Reshape and cast a weight so that it broadcasts to `inputs`.

    Args:
        weight: A tensor with the sizes of the channel axes, or None.
        inputs: A tensor `(batch, ...)`.
        channel_axes: The result of `resolve_channel_axes`.

    Returns:
        A tensor of the rank of `inputs`, with size 1 along all other axes; None if
        `weight` is None.
    """
    if weight is None:
        return None
    shape = [
        size if axis in channel_axes else 1 for axis, size in enumerate(inputs.shape)
    ]
    return ops.reshape(ops.cast(weight, inputs.dtype), shape)


def expand_mask(mask: Any, inputs: Any) -> Any:
    """Return a boolean mask that has the rank of `inputs` and broadcasts to them.

    Args:
        mask: A boolean tensor of the inputs' shape, or of that shape without the last
            axis, as Keras passes it. Axes of size 1 are broadcast. May be None.
        inputs: A tensor `(batch, ...)`.

    Returns:
        The mask; None if `mask` is None.

    Raises:
        ValueError: If the mask has another rank or size.
    """
    if mask is None:
        return None
    mask_shape, input_shape = tuple(mask.shape), tuple(inputs.shape)
    ranks = (len(input_shape), len(input_shape) - 1)
    if len(mask_shape) not in ranks or any(
        size not in (1, None, expected) and expected is not None
        for size, expected in zip(mask_shape, input_shape, strict=False)
    ):
        raise ValueError(
            "`mask` must have the inputs' shape, or that shape without the last axis. "
            f"Received: mask shape {mask_shape}, input shape {input_shape}"
        )
    mask = ops.cast(mask, "bool")
    if len(mask_shape) == len(input_shape):
        return mask
    return ops.expand_dims(mask, -1)


def split_virtual_batches(
    inputs: Any, mask: Any, channel_axes: Sequence[int], size: int
) -> tuple[Any, Any]:
    """Split a batch, and its mask, into virtual batches along a new first axis.

    Args:
        inputs: A tensor `(batch, ...)`.
        mask: A boolean tensor that broadcasts to `inputs`, or None.
        channel_axes: The result of `resolve_channel_axes`.
        size: The number of examples in a virtual batch.

    Returns:
        `(inputs, mask)`, both of shape `(batch // size, size, ...)`; the mask is None
        if it was None.

    Raises:
        ValueError: If `size` does not divide the batch, or if the batch is a channel
            axis. A batch whose size is known only at run time is not checked here.
    """
    batch = inputs.shape[0]
    if 0 in channel_axes or (batch is not None and batch % size):
        raise ValueError(
            "`virtual_batch_size` must divide the batch, which is the first axis. "
            f"Received: virtual_batch_size={size}, channel axes {channel_axes}, input "
            f"shape {tuple(inputs.shape)}"
        )
    shape = (-1, size, *ops.shape(inputs)[1:])
    if mask is not None:
        mask = ops.reshape(ops.broadcast_to(mask, ops.shape(inputs)), shape)
    return ops.reshape(inputs, shape), mask
