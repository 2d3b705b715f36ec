"""Shapes in a normalization: channel axes and masks."""

from collections.abc import Sequence
from typing import Any

from keras import backend, ops

Shape = Sequence[int | None]


def resolve_channel_axes(axis: int | Sequence[int], shape: Shape) -> list[int]:
    """Return the channel axes: those along which each position has its own statistics.

    Args:
        axis: One axis or several. Negative axes are counted from the end.
        shape: The shape of the inputs.

    Returns:
        The axes in ascending order, none of them negative.

    Raises:
        ValueError: If an axis is out of range or repeated.
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
    return channel_axes


def resolve_weight_shape(axis: int | Sequence[int], shape: Shape) -> tuple[int, ...]:
    """Return the sizes of the channel axes, which are the shape of the weights.

    Args:
        axis: One axis or several.
        shape: The shape of the inputs with which a layer is built.

    Raises:
        ValueError: As in `resolve_channel_axes`, or if a size is unknown or zero.
    """
    sizes = tuple(shape[element] for element in resolve_channel_axes(axis, shape))
    known_sizes = tuple(size for size in sizes if size)
    if known_sizes != sizes:
        raise ValueError(
            "Every axis in `axis` must have a known size of at least 1. "
            f"Received: axis={axis}, input shape {tuple(shape)}"
        )
    return known_sizes


def restore_channel_sizes(
    inputs: Any, channel_axes: Sequence[int], sizes: Sequence[int]
) -> Any:
    """Return inputs whose static shape has the sizes of the channel axes.

    Data from a Python generator, for example, may have no static shape beyond its rank.
    The sizes are checked at run time.

    Args:
        inputs: A tensor `(batch, ...)`.
        channel_axes: The result of `resolve_channel_axes`.
        sizes: The size of each of them.
    """
    if all(inputs.shape[axis] is not None for axis in channel_axes):
        return inputs
    sizes_now: Any = ops.shape(inputs)
    shape = list(sizes_now)
    for axis, size in zip(channel_axes, sizes, strict=True):
        shape[axis] = size
    return ops.reshape(inputs, shape)


def reshape_for_broadcast(weight: Any, inputs: Any, channel_axes: Sequence[int]) -> Any:
    """Reshape and cast a weight so that it broadcasts to `inputs`.

    Args:
        weight: A tensor with the sizes of the channel axes, or None.
        inputs: A tensor `(batch, ...)`.
        channel_axes: The result of `resolve_channel_axes`.

    Returns:
        A tensor of the rank of `inputs`, with size 1 along all other axes; None if
        `weight` is None. Its dtype is that of the inputs, or float32 if they are less
        exact.
    """
    if weight is None:
        return None
    shape = [
        size if axis in channel_axes else 1 for axis, size in enumerate(inputs.shape)
    ]
    dtype = backend.result_type(inputs.dtype, "float32")
    return ops.reshape(ops.cast(weight, dtype), shape)


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
