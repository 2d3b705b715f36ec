"""Which axes of an input keep statistics, and which positions count.

Knows shapes and their errors; no arithmetic.
"""

from operator import index

from keras import ops


def standardize_axis(axis):
    """`axis` as an int, or as a tuple of ints.

    Args:
        axis: an integer of any type, or a list or tuple of them.

    Raises:
        ValueError: for anything else.
    """
    try:
        if isinstance(axis, list | tuple):
            return tuple(index(one) for one in axis)
        return index(axis)
    except TypeError:
        raise ValueError(
            f"`axis` must be an integer or a tuple of integers. Received: axis={axis!r}"
        ) from None


def resolve_channel_axes(axis, shape):
    """The axes with statistics of their own: checked, ascending, not negative.

    Args:
        axis: an int or several, negative ones counted from the end.
        shape: the inputs' shape.

    Returns:
        A list of ints.

    Raises:
        ValueError: for an axis out of range, repeated, or of unknown or zero size.
    """
    rank = len(shape)
    given = (axis,) if isinstance(axis, int) else axis
    if not given or any(not -rank <= one < rank for one in given):
        raise ValueError(
            f"`axis` must name axes of the input, {-rank} to {rank - 1}. "
            f"Received: axis={axis}, input shape {tuple(shape)}"
        )
    kept = sorted(one % rank for one in given)
    if len(set(kept)) < len(kept):
        raise ValueError(
            f"`axis` must not name an axis twice. Received: axis={axis}, "
            f"input shape {tuple(shape)}"
        )
    if any(not shape[one] for one in kept):
        raise ValueError(
            "Every axis that keeps statistics must have a known size of at least 1. "
            f"Received: axis={axis}, input shape {tuple(shape)}"
        )
    return kept


def reshape_for_broadcast(weight, inputs, kept):
    """A weight of the kept axes, shaped and cast to meet `inputs`; None stays None.

    Args:
        weight: of the kept axes' sizes, in ascending order.
        inputs: `(batch, ...)`.
        kept: what `resolve_channel_axes` returned.
    """
    if weight is None:
        return None
    shape = [size if axis in kept else 1 for axis, size in enumerate(inputs.shape)]
    return ops.reshape(ops.cast(weight, inputs.dtype), shape)


def expand_mask(mask, inputs):
    """A mask of the inputs' rank that broadcasts to them; None stays None.

    Args:
        mask: boolean, of the inputs' shape, or of that shape without the last axis, as
            Keras passes it; sizes of 1 are broadcast.
        inputs: `(batch, ...)`.

    Raises:
        ValueError: for a mask of another rank or size.
    """
    if mask is None:
        return None
    shape, full = tuple(mask.shape), tuple(inputs.shape)
    ranks = (len(full), len(full) - 1)
    if len(shape) not in ranks or any(
        size not in (1, None, expected) and expected is not None
        for size, expected in zip(shape, full, strict=False)
    ):
        raise ValueError(
            "The mask must have the inputs' shape, or that shape without the last "
            f"axis. Received: mask shape {shape}, input shape {full}"
        )
    mask = ops.cast(mask, "bool")
    return mask if len(shape) == len(full) else ops.expand_dims(mask, -1)
