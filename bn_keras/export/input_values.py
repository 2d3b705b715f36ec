"""Find out from the first layers of a model which values its inputs have."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from bn_keras.keras_graph import Call, Edge, read_graph, sublayers
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS

# Operations that move, copy or cast values; by name, since those of `keras.ops` have no
# public classes.
_MOVING = {
    *("Cast", "CenterCrop", "Concatenate", "Dropout", "ExpandDims", "Flatten", "Flip"),
    *("GetItem", "Identity", "Permute", "RandomCrop", "RandomFlip", "RandomRotation"),
    *("RandomTranslation", "RandomZoom", "RepeatVector", "Reshape", "Resizing"),
    *("Squeeze", "Stack", "Transpose", "ZeroPadding2D"),
}
_ARITHMETIC = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "TrueDivide": np.divide,
    "Divide": np.divide,
}


class Scaling(NamedTuple):
    """How a model scales its images itself.

    Args:
        layer: The path of the first layer or operation that does.
        takes_pixels: Whether its numbers fit only values from 0 to 255, not those from
            0 to 1 or -1 to 1.
    """

    layer: str
    takes_pixels: bool


def scaling_of_pixels(model: keras.Model) -> Scaling | None:
    """Return how a model of images scales them itself, or None if it does not.

    Args:
        model: A built Functional or Sequential model with one input.
    """
    (image,) = read_graph(model, (object,)).inputs
    found = list(_follow_scaling(image, np.ones(1), np.zeros(1), ""))
    if not found:
        return None
    return Scaling(found[0].layer, all(x.takes_pixels for x in found))


def _follow_scaling(
    edge: Edge, scale: np.ndarray, shift: np.ndarray, layer: str
) -> Iterator[Scaling]:
    """Yield what the layers up to the first one with weights do to an edge.

    Args:
        edge: Holds `scale * input + shift`.
        scale: As above, one number or one for each channel.
        shift: The same.
        layer: The path of the first layer that has scaled, empty if none.
    """
    for call in edge.consumers:
        if type(call.operation).__name__ in _MOVING:
            yield from _follow_scaling(call.outputs[0], scale, shift, layer)
        elif _may_scale(call):
            yield Scaling(layer or call.label, False)
        elif not layer and isinstance(call.operation, BATCH_NORMALIZATIONS):
            # It scales the input, whatever that is, by the statistics of its values.
            if _takes_pixels(*_standardization(call.operation)):
                yield Scaling(call.label, True)
        elif (values := _apply(call, edge, shift)) is not None:
            # The map is affine, so two of its values define it.
            ones = _apply(call, edge, scale + shift)
            yield from _follow_scaling(
                call.outputs[0], ones - values, values, layer or call.label
            )
        elif layer:
            yield Scaling(layer, _takes_pixels(scale, shift))
    if layer and edge.is_output:
        yield Scaling(layer, _takes_pixels(scale, shift))


def _takes_pixels(scale: np.ndarray, shift: np.ndarray) -> bool:
    # Values from 0 to 1 are not divided by 16 or more, and the value that becomes 0 is
    # among them or close.
    largest = np.abs(scale).max()
    return bool(largest <= 1 / 16 or np.abs(shift).max() > 2 * largest)


def _standardization(normalization: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = (
        keras.ops.convert_to_numpy(x).astype("float64")
        for x in (normalization.moving_mean, normalization.moving_variance)
    )
    scale = 1 / np.sqrt(variance + normalization.epsilon)
    return scale, -mean * scale


def _may_scale(call: Call) -> bool:
    # What these do cannot be told from their attributes.
    inside = (layers.Rescaling, layers.Normalization)
    return (
        isinstance(call.operation, layers.Lambda)
        # A layer without weights that could not be opened prepares its inputs.
        or bool(call.reason_closed and not call.operation.weights)
        or any(isinstance(x, inside) for x in sublayers(call.operation))
    )


def _apply(call: Call, edge: Edge, values: np.ndarray) -> Any:
    """Return an affine operation with constants of some values of its input."""
    operation = call.operation
    if isinstance(operation, layers.Rescaling):
        return values * np.asarray(operation.scale) + np.asarray(operation.offset)
    if isinstance(operation, layers.Normalization):
        mean, variance = (
            keras.ops.convert_to_numpy(x).reshape(-1).astype("float64")
            for x in (operation.mean, operation.variance)
        )
        deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
        if operation.invert:
            return mean + values * deviation
        return (values - mean) / deviation
    function = _ARITHMETIC.get(type(operation).__name__)
    args, _ = call.arguments
    if function is None or len(args) != 2 or len(call.inputs) != 1:
        return None
    operands = [
        values if x is edge else np.asarray(keras.ops.convert_to_numpy(x), "float64")
        for x in args
    ]
    return function(*operands)


def input_values(model: keras.Model) -> list[Sequence[Any] | None]:
    """Return the values that each input of a model can have, or None if unknown.

    Known are those of integers and strings that are looked up in an embedding or a
    vocabulary.

    Args:
        model: A built Functional or Sequential model.
    """
    result: list[Sequence[Any] | None] = []
    for edge in read_graph(model).inputs:
        found = [x for x in _follow_values(edge) if len(x)]
        # Those with the fewest values are valid for the others, too.
        result.append(min(found, key=len) if found else None)
    return result


def _follow_values(edge: Edge) -> Iterator[Sequence[Any]]:
    if "float" in edge.dtype:
        return
    for call in edge.consumers:
        operation = call.operation
        if type(operation).__name__ in _MOVING:
            yield from _follow_values(call.outputs[0])
            continue
        for layer in (operation, *sublayers(operation)):
            if isinstance(layer, layers.Embedding):
                yield range(layer.input_dim)
            elif isinstance(layer, layers.CategoryEncoding) and layer.num_tokens:
                yield range(layer.num_tokens)
            elif isinstance(
                layer,
                layers.StringLookup | layers.IntegerLookup | layers.TextVectorization,
            ):
                yield _vocabulary(layer)


def _vocabulary(layer: Any) -> list[Any]:
    if getattr(layer, "invert", False):
        return list(range(layer.vocabulary_size()))
    return list(layer.get_vocabulary(include_special_tokens=False))
