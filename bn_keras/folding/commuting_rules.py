"""Move an affine map past the operations that commute with it."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from bn_keras.folding.algebra import Affine
from bn_keras.folding.linear_rules import NotFoldableError
from bn_keras.keras_graph import Call, Edge

# Layers that return their input at inference.
IDENTITIES = (
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.AlphaDropout,
    layers.ActivityRegularization,
)
AVERAGES = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.AdaptiveAveragePooling1D,
    layers.AdaptiveAveragePooling2D,
    layers.AdaptiveAveragePooling3D,
)
MAXIMA = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AdaptiveMaxPooling1D,
    layers.AdaptiveMaxPooling2D,
    layers.AdaptiveMaxPooling3D,
)
GLOBAL_AVERAGES = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
GLOBAL_MAXIMA = (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
UPSAMPLINGS = (layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
PADDINGS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
CROPPINGS = (layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
SPATIAL = (
    *AVERAGES, *MAXIMA, *GLOBAL_AVERAGES, *GLOBAL_MAXIMA,
    *UPSAMPLINGS, *PADDINGS, *CROPPINGS,
)  # fmt: skip


def move_backward(call: Call, affine: Affine) -> list[tuple[Edge, Affine]]:
    """Move a map from the output of an operation to its inputs.

    Args:
        call: The call of the operation.
        affine: The map, along axes of the call's output.

    Returns:
        Pairs of an input edge and the map to apply to it.

    Raises:
        NotFoldableError: If the operation does not commute with the map.
    """
    operation_type = type(call.operation)
    if operation_type is layers.Concatenate or is_keras_op(call, "Concatenate"):
        return _split(call, affine)
    if operation_type in (layers.Add, layers.Subtract, layers.Average) or is_keras_op(
        call, "Add", "Subtract"
    ):
        return _distribute(call, affine)
    return [(call.inputs[0], _move(call, affine, forward=False))]


def move_forward(call: Call, affine: Affine) -> Affine:
    """Move a map from the only input of an operation to its output."""
    return _move(call, affine, forward=True)


def _move(call: Call, affine: Affine, forward: bool) -> Affine:
    operation, operation_type = call.operation, type(call.operation)
    if operation_type in IDENTITIES or (
        operation_type is layers.Activation
        and operation.activation is keras.activations.linear
    ):
        # With `training=True` dropout and noise act at inference too.
        if call.training not in (None, False):
            raise NotFoldableError(
                f"{call.label!r} is called with training={call.training}"
            )
        return affine
    if operation_type in SPATIAL:
        return _move_past_spatial(call, affine, forward)
    if operation_type in (layers.Flatten, layers.Reshape) or is_keras_op(
        call, "Reshape", "ExpandDims", "Squeeze"
    ):
        return _move_past_reshape(call, affine, forward)
    # Axis `i` of the output is axis `source_axes[i]` of the input.
    source_axes = None
    if operation_type is layers.Permute:
        source_axes = (0, *operation.dims)
    elif operation_type is layers.RepeatVector:
        source_axes = (0, None, 1)
    elif is_keras_op(call, "Mean"):
        source_axes = _axes_of_mean(call)
    elif is_keras_op(call, "Transpose") and operation.axes is not None:
        rank = len(call.inputs[0].shape)
        source_axes = tuple(axis % rank for axis in operation.axes)
    if source_axes is not None and source_axes[0] == 0:
        return _rename_axes(call, affine, source_axes, forward)
    relation = "precedes" if forward else "follows"
    raise NotFoldableError(
        f"it {relation} {call.label!r} ({operation_type.__name__}), which it cannot "
        "pass"
    )


def _move_past_spatial(call: Call, affine: Affine, forward: bool) -> Affine:
    operation, operation_type = call.operation, type(call.operation)
    name = f"{call.label!r} ({operation_type.__name__})"
    # max(s * x) is s * max(x) for a positive scale and s * min(x) for a negative one.
    if operation_type in (*MAXIMA, *GLOBAL_MAXIMA) and not (affine.scale > 0).all():
        raise NotFoldableError(
            f"a scale that is not positive would turn the maximum of {name} into a "
            "minimum"
        )
    # Padding after the map adds zeros; padding before it would add `shift`.
    if operation_type in PADDINGS and affine.shift.any():
        raise NotFoldableError(
            f"{name} pads with zeros, so the shift would be wrong at the border"
        )
    # A shift passes only a weighted mean. The weights of cubic and Lanczos kernels,
    # cut off at the border, need not sum to 1.
    if getattr(operation, "interpolation", "nearest") not in ("nearest", "bilinear"):
        raise NotFoldableError(
            f"{name} interpolates with weights that may not sum to 1"
        )
    rank = len(call.inputs[0].shape)
    channel_axis = 1 if _channels_first(operation) else rank - 1
    input_axes = (0, channel_axis)
    # Global pooling drops the positions, which leaves `(batch, channels)`.
    keeps_rank = rank == len(call.outputs[0].shape)
    output_axes = input_axes if keeps_rank else (0, 1)
    old, new = (input_axes, output_axes) if forward else (output_axes, input_axes)
    if not set(affine.axes) <= set(old):
        raise NotFoldableError(f"its axes {affine.axes} are not the channels of {name}")
    return affine.with_axes([new[old.index(axis)] for axis in affine.axes])


def _axes_of_mean(call: Call) -> tuple[int | None, ...] | None:
    """Return the input axis of each output axis, None for one of size 1."""
    operation, rank = call.operation, len(call.inputs[0].shape)
    if operation.axis is None:
        return None
    axes = (
        operation.axis if isinstance(operation.axis, tuple | list) else [operation.axis]
    )
    averaged = {axis % rank for axis in axes}
    kept = [None if axis in averaged else axis for axis in range(rank)]
    if operation.keepdims:
        return tuple(kept)
    return tuple(axis for axis in kept if axis is not None)


def _rename_axes(
    call: Call, affine: Affine, source_axes: Sequence[int | None], forward: bool
) -> Affine:
    new = {}
    for axis, source in enumerate(source_axes):
        if source is not None:
            new.update([(source, axis) if forward else (axis, source)])
    # An average is that of the values before the map only if the map is the same for
    # all of them; and only then may they be one value that is repeated.
    if not set(affine.axes) <= set(new):
        raise NotFoldableError(
            f"it varies along an axis that {call.label!r} "
            f"({type(call.operation).__name__}) averages or repeats"
        )
    return affine.with_axes([new[axis] for axis in affine.axes])


def _move_past_reshape(call: Call, affine: Affine, forward: bool) -> Affine:
    # `Any`, because the sizes may be None only until the next line.
    input_sizes: Any = call.inputs[0].shape[1:]
    output_sizes: Any = call.outputs[0].shape[1:]
    if None in (*input_sizes, *output_sizes) or 0 in affine.axes:
        raise NotFoldableError(f"{call.label!r} reshapes axes of unknown size")
    if np.prod(input_sizes) != np.prod(output_sizes):
        raise NotFoldableError(f"{call.label!r} reshapes the batch")
    # Flatten moves the channels to the last axis before it flattens.
    moves_channels = type(call.operation) is layers.Flatten and _channels_first(
        call.operation
    )

    def reshape(array: np.ndarray) -> np.ndarray:
        if forward:
            if moves_channels:
                array = np.moveaxis(array, 0, -1)
            return array.reshape(output_sizes)
        if moves_channels:
            channels, *positions = input_sizes
            return np.moveaxis(array.reshape(*positions, channels), -1, 0)
        return array.reshape(input_sizes)

    # Reshaping mixes axes, so the map is first written out for every position and
    # afterwards reduced to the axes along which it still varies.
    tiled = affine.tile(input_sizes if forward else output_sizes)
    new_sizes = output_sizes if forward else input_sizes
    axes = tuple(range(1, len(new_sizes) + 1))
    reshaped = Affine(reshape(tiled.scale), reshape(tiled.shift), axes)
    return reshaped.without_constant_axes()


def _channels_first(operation: keras.Operation) -> bool:
    return getattr(operation, "data_format", None) == "channels_first"


def is_keras_op(call: Call, *names: str) -> bool:
    """Return whether a call is of one of the functions `keras.ops.<name>`."""
    # Their classes cannot be imported publicly, but their names are those of the public
    # functions.
    operation_type = type(call.operation)
    return (
        operation_type.__module__ == "keras.src.ops.numpy"
        and operation_type.__name__ in names
    )


def _split(call: Call, affine: Affine) -> list[tuple[Edge, Affine]]:
    axis = call.operation.axis % len(call.outputs[0].shape)
    maps, start = [], 0
    for edge in call.inputs:
        size = edge.shape[axis]
        if axis in affine.axes and size is None:
            raise NotFoldableError(
                f"{call.label!r} concatenates along an axis of unknown size"
            )
        stop = start + (size or 0)
        maps.append((edge, affine.select(axis, start, stop)))
        start = stop
    return maps


def _distribute(call: Call, affine: Affine) -> list[tuple[Edge, Affine]]:
    shape, edges = call.outputs[0].shape, call.inputs
    if len(edges) < 2:
        raise NotFoldableError(
            f"{call.label!r} adds a constant whose axes are not clear"
        )
    for edge in edges:
        if len(edge.shape) != len(shape) or any(
            edge.shape[axis] != shape[axis] for axis in affine.axes
        ):
            raise NotFoldableError(
                f"{call.label!r} broadcasts along the normalized axis"
            )
    # An average of s * x + t and s * y + t is that of x and y, times s, plus t.
    if type(call.operation) is layers.Average:
        return [(edge, affine) for edge in edges]
    # s * (x + y) + t is (s * x + t) + s * y: the scale goes into every term, the shift
    # into the first, which a subtraction does not negate.
    unshifted = Affine(affine.scale, np.zeros_like(affine.shift), affine.axes)
    return [(edge, affine if i == 0 else unshifted) for i, edge in enumerate(edges)]
