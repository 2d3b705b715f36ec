"""Operations that multiply by a constant or add one: affine maps themselves."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from bn_keras.folding.algebra import Affine
from bn_keras.folding.commuting_rules import is_keras_op
from bn_keras.folding.linear_rules import to_float64
from bn_keras.keras_graph import Call, Edge

# Scale and shift of `x <operation> c` and of `c <operation> x`.
_MAPS: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {
    "Add": (lambda c: (1, c), lambda c: (1, c)),
    "Subtract": (lambda c: (1, -c), lambda c: (-1, c)),
    "Multiply": (lambda c: (c, 0), lambda c: (c, 0)),
    "Divide": (lambda c: (1 / c, 0), None),
    "TrueDivide": (lambda c: (1 / c, 0), None),
}


def read_constants(call: Call) -> Affine | None:
    """Return the map of an operation with constants, or None if it is another one.

    These are `keras.layers.Rescaling`, and `keras.ops` or operators with a number or
    an array: `x * 2`, `x + offsets`, `1 - x`, `x / 255`, `-x`.
    """
    if len(call.inputs) != 1 or len(call.outputs) != 1:
        return None
    (source,), (target,) = call.inputs, call.outputs
    # Without the operation nothing would broadcast or cast the values.
    if source.shape != target.shape or source.dtype != target.dtype:
        return None
    if type(call.operation) is layers.Rescaling:
        if keras.config.image_data_format() == "channels_first":
            return None  # then the scale varies along another axis than the offset
        scale, shift = call.operation.scale, call.operation.offset
    else:
        names = [name for name in _MAPS if is_keras_op(call, name)]
        operands = [*call.arguments[0], *call.arguments[1].values()]
        if is_keras_op(call, "Negative"):
            scale, shift = -1.0, 0.0
        elif not names or len(operands) != 2:
            return None
        else:
            direct, reverse = _MAPS[names[0]]
            to_map = direct if isinstance(operands[0], Edge) else reverse
            constant = operands[1] if to_map is direct else operands[0]
            if to_map is None:
                return None
            with np.errstate(divide="ignore"):  # the folded weights are checked anyway
                scale, shift = to_map(to_float64(constant))
    affine = _along_axes(to_float64(scale), to_float64(shift), target.shape)
    if (
        affine is not None
        and is_keras_op(call, "Add")
        and _is_taken_for_bias(affine, target.shape)
    ):
        return None
    return affine


def _is_taken_for_bias(affine: Affine, shape: tuple[int | None, ...]) -> bool:
    """Return whether `keras.ops.add` adds a constant along another axis than its own.

    On TensorFlow it takes a constant such as `(1, n, 1)` for a bias of the last axis if
    that has the same size, and otherwise for a bias of axis 1.
    """
    if len(affine.axes) != 1:
        return False
    (axis,), size = affine.axes, affine.shift.size
    taken = len(shape) - 1 if shape[-1] == size else 1 if shape[1] == size else axis
    return taken != axis


def _along_axes(
    scale: np.ndarray, shift: np.ndarray, shape: tuple[int | None, ...]
) -> Affine | None:
    try:
        scale, shift = np.broadcast_arrays(scale, shift)
    except ValueError:
        return None
    sizes = (1,) * (len(shape) - scale.ndim) + scale.shape
    if len(sizes) > len(shape) or sizes[0] != 1:
        return None
    axes = tuple(axis for axis, size in enumerate(sizes) if size > 1)
    # Along an axis of unknown size nothing tells which constant belongs to what.
    if any(shape[axis] is None for axis in axes):
        return None
    kept = [sizes[axis] for axis in axes]
    return Affine(scale.reshape(kept), shift.reshape(kept), axes)
