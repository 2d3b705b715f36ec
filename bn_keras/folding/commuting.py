"""Which operations an affine map passes unchanged, split or on other axes.

Knows operations, not what the map is finally folded into.
"""

import keras
import numpy as np
from keras import layers

from bn_keras.folding.algebra import Affine
from bn_keras.folding.linear import NotFoldableError

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


def backward(call, affine):
    """The maps in front of an operation that equal a map behind it.

    Args:
        call: the `Call` of the operation.
        affine: on the axes of its output.

    Returns:
        Pairs of an input edge and the map on it.

    Raises:
        NotFoldableError: with the reason.
    """
    combination = _combination(call)
    if combination == "concatenation":
        return _split(call, affine)
    if combination == "addition":
        return _distribute(call, affine)
    return [(call.inputs[0], _through(call, affine, forward=False))]


def forward(call, affine):
    """The map behind an operation of one input that equals a map in front of it."""
    return _through(call, affine, forward=True)


def _through(call, affine, forward):
    operation, kind = call.operation, type(call.operation)
    linear = keras.activations.linear
    if kind in IDENTITIES or (
        kind is layers.Activation and operation.activation is linear
    ):
        if call.training not in (None, False):
            raise NotFoldableError(
                f"{call.label!r} is called with training={call.training}"
            )
        return affine
    if kind in SPATIAL:
        return _through_spatial(call, affine, forward)
    if kind in (layers.Flatten, layers.Reshape):
        return _through_reshape(call, affine, forward)
    if kind is layers.Permute:
        dims = (0, *operation.dims)
        if forward:
            return affine.on(tuple(dims.index(axis) for axis in affine.axes))
        return affine.on(tuple(dims[axis] for axis in affine.axes))
    where = "in front of" if forward else "behind"
    raise NotFoldableError(
        f"it stands {where} {call.label!r} ({kind.__name__}), which it cannot pass"
    )


def _through_spatial(call, affine, forward):
    operation, kind = call.operation, type(call.operation)
    name = f"{call.label!r} ({kind.__name__})"
    if kind in (*MAXIMA, *GLOBAL_MAXIMA) and not (affine.scale > 0).all():
        raise NotFoldableError(
            f"a scale that is not positive turns the maximum of {name}"
        )
    if kind in PADDINGS and affine.shift.any():
        raise NotFoldableError(
            f"{name} pads with zeros: the shift is wrong at the border"
        )
    if getattr(operation, "interpolation", "nearest") not in ("nearest", "bilinear"):
        raise NotFoldableError(
            f"{name} interpolates with weights that need not sum to 1"
        )
    rank = len(call.inputs[0].shape)
    channels = 1 if _channels_first(operation) else rank - 1
    kept = (0, channels)
    keeps_rank = rank == len(call.outputs[0].shape)
    behind = kept if keeps_rank else (0, 1)
    old, new = (kept, behind) if forward else (behind, kept)
    if not set(affine.axes) <= set(old):
        raise NotFoldableError(f"its axes {affine.axes} are not the channels of {name}")
    return affine.on(tuple(new[old.index(axis)] for axis in affine.axes))


def _through_reshape(call, affine, forward):
    sizes = [call.inputs[0].shape[1:], call.outputs[0].shape[1:]]
    if None in (*sizes[0], *sizes[1]) or 0 in affine.axes:
        raise NotFoldableError(f"{call.label!r} reshapes axes of unknown size")
    # Flatten moves the channels last before it flattens.
    moves = type(call.operation) is layers.Flatten and _channels_first(call.operation)

    def move(array):
        if forward:
            array = np.moveaxis(array, 0, -1) if moves else array
            return array.reshape(sizes[1])
        if moves:
            return np.moveaxis(array.reshape(*sizes[0][1:], sizes[0][0]), -1, 0)
        return array.reshape(sizes[0])

    tiled = affine.tiled(sizes[0] if forward else sizes[1])
    target = sizes[1] if forward else sizes[0]
    axes = tuple(range(1, len(target) + 1))
    moved = Affine(move(tiled.scale), move(tiled.shift), axes)
    return moved.without_constant_axes()


def _channels_first(operation):
    return getattr(operation, "data_format", None) == "channels_first"


def _combination(call):
    kind = type(call.operation)
    if kind is layers.Concatenate or _is_operation(kind, "Concatenate"):
        return "concatenation"
    if kind is layers.Add or _is_operation(kind, "Add"):
        return "addition"
    return ""


def _is_operation(kind, name):
    # The classes behind keras.ops are not public; their names are.
    return kind.__module__ == "keras.src.ops.numpy" and kind.__name__ == name


def _split(call, affine):
    axis = call.operation.axis % len(call.outputs[0].shape)
    parts, start = [], 0
    for edge in call.inputs:
        size = edge.shape[axis]
        if axis in affine.axes and size is None:
            raise NotFoldableError(f"{call.label!r} joins axes of unknown size")
        stop = start + (size or 0)
        parts.append((edge, affine.part(axis, start, stop)))
        start = stop
    return parts


def _distribute(call, affine):
    shape = call.outputs[0].shape
    edges = call.inputs
    if len(edges) < 2:
        raise NotFoldableError(f"{call.label!r} adds a constant")
    for edge in edges:
        if len(edge.shape) != len(shape) or any(
            edge.shape[axis] != shape[axis] for axis in affine.axes
        ):
            raise NotFoldableError(
                f"{call.label!r} broadcasts along the normalized axis"
            )
    unshifted = Affine(affine.scale, np.zeros_like(affine.shift), affine.axes)
    return [(edge, affine if i == 0 else unshifted) for i, edge in enumerate(edges)]
