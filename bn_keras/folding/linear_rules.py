"""The fold rules of linear layers: an affine map becomes part of the weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from bn_keras.folding import algebra
from bn_keras.folding.algebra import Affine
from bn_keras.keras_graph import Call

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
# A subclass may override `call`, so a layer's type must be exactly one of these.
LINEAR = (
    layers.Dense,
    layers.EinsumDense,
    *CONVOLUTIONS,
    *DEPTHWISE,
    *SEPARABLE,
    *TRANSPOSED,
)
# A map after one of these changes every row of its table.
TABLES = (layers.Embedding,)

# New weights by attribute, and constructor arguments that change along with them.
FoldedWeights = tuple[dict[str, Any], dict[str, Any]]


class NotFoldableError(Exception):
    """An affine map cannot be moved; the message states the reason."""


def linear_layer(operation: Any) -> Any:
    """Return the linear layer of an operation, or None.

    It is the operation itself, or the layer inside a `TimeDistributed`.
    """
    if type(operation) is layers.TimeDistributed:
        operation = operation.layer
    return operation if type(operation) in (*LINEAR, *TABLES) else None


def fold_after(call: Call, affine: Affine) -> FoldedWeights:
    """Return weights with which a linear layer also applies the map that follows it.

    Args:
        call: The call of an operation that has a `linear_layer`.
        affine: The map, along axes of the call's output.

    Returns:
        The float64 weights by attribute, and the constructor arguments to change.

    Raises:
        NotFoldableError: If the layer cannot absorb the map.
    """
    layer = linear_layer(call.operation)
    layer_type = type(layer)
    _refuse_unless_plain(call)
    affine = _at_each_step(call, affine)
    rank = len(call.outputs[0].shape) - _step_axes(call)
    weights = _read_weights(call)
    if layer_type in TABLES:
        scale, shift = _along_channels(call, affine, rank)
        table = weights["embeddings"] * scale + shift
        return _require_finite(call, {"embeddings": table}, {})
    if layer.activation not in (None, keras.activations.linear):
        raise NotFoldableError(
            f"it follows the nonlinearity of {call.label!r} "
            f"({keras.activations.serialize(layer.activation)})"
        )
    if layer_type is layers.EinsumDense:
        return _fold_einsum(call, weights, affine, algebra.fold_after_einsum)
    scale, shift = _along_channels(call, affine, rank)
    # The pointwise convolution is the last step of a separable one.
    name = "pointwise_kernel" if layer_type in SEPARABLE else "kernel"
    kernel, bias = weights[name], weights["bias"]
    if layer_type in DEPTHWISE:
        kernel, bias = algebra.fold_after_depthwise(kernel, bias, scale, shift)
    else:
        # Keras stores transposed kernels as `(..., outputs, inputs)`.
        axis = -2 if layer_type in TRANSPOSED else -1
        kernel, bias = algebra.fold_after_linear(kernel, bias, scale, shift, axis)
    return _require_finite(call, {**weights, name: kernel, "bias": bias})


def fold_before(call: Call, affine: Affine) -> FoldedWeights:
    """Return the same as `fold_after` for a map before the layer, along input axes."""
    layer = linear_layer(call.operation)
    layer_type = type(layer)
    _refuse_unless_plain(call)
    if layer_type in TABLES:
        raise NotFoldableError(
            f"{call.label!r} ({layer_type.__name__}) uses its output as indices"
        )
    affine = _at_each_step(call, affine)
    rank = len(call.inputs[0].shape) - _step_axes(call)
    weights = _read_weights(call)
    if layer_type is layers.EinsumDense:
        return _fold_einsum(call, weights, affine, algebra.fold_before_einsum)
    scale, shift = _along_channels(call, affine, rank)
    has_shift = shift.any()
    # With strides or at the border, the outputs of a transposed convolution sum a
    # different number of inputs, so no single bias replaces the shift.
    if has_shift and layer_type in TRANSPOSED:
        raise NotFoldableError(
            f"the shift would not be uniform after {call.label!r} "
            f"({layer_type.__name__})"
        )
    # The zeros of the padding are not shifted, but the bias would shift them too.
    if has_shift and layer_type is not layers.Dense and _pads(layer):
        raise NotFoldableError(
            f"{call.label!r} pads with zeros (padding {layer.padding!r}), so the shift "
            "would be wrong at the border"
        )
    # The depthwise convolution is the first step of a separable one.
    name = "depthwise_kernel" if layer_type in SEPARABLE else "kernel"
    kernel, bias = weights[name], weights["bias"]
    if layer_type is layers.Dense:
        kernel, bias = algebra.fold_before_dense(kernel, bias, scale, shift)
    elif layer_type in CONVOLUTIONS:
        kernel, bias = algebra.fold_before_convolution(kernel, bias, scale, shift)
    elif layer_type in DEPTHWISE:
        kernel, bias = algebra.fold_before_depthwise(kernel, bias, scale, shift)
    elif layer_type in SEPARABLE:
        kernel, bias = algebra.fold_before_separable(
            kernel, weights["pointwise_kernel"], bias, scale, shift
        )
    else:
        kernel, bias = algebra.fold_before_transposed(kernel, bias, scale)
    return _require_finite(call, {**weights, name: kernel, "bias": bias})


def to_float64(variable: Any) -> np.ndarray:
    """Return the value of a variable as a float64 array."""
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype("float64")


def _read_weights(call: Call) -> dict[str, Any]:
    # Weights that an earlier fold has changed are still in float64, so that they are
    # rounded only once, at the end.
    if call.weights is not None:
        return dict(call.weights)
    layer = linear_layer(call.operation)
    if type(layer) in TABLES:
        return {"embeddings": to_float64(layer.embeddings)}
    separable = type(layer) in SEPARABLE
    names = ("depthwise_kernel", "pointwise_kernel") if separable else ("kernel",)
    weights = {name: to_float64(getattr(layer, name)) for name in names}
    return {**weights, "bias": None if layer.bias is None else to_float64(layer.bias)}


def _step_axes(call: Call) -> int:
    """Return 1 for a layer inside a `TimeDistributed`, which hides the step axis."""
    return int(linear_layer(call.operation) is not call.operation)


def _at_each_step(call: Call, affine: Affine) -> Affine:
    """Return a map along the axes that the layer inside a `TimeDistributed` sees."""
    hidden = _step_axes(call)
    if hidden and min(affine.axes) < 2:
        raise NotFoldableError(f"it varies along the steps of {call.label!r}")
    axes = tuple(axis - hidden for axis in affine.axes)
    return Affine(affine.scale, affine.shift, axes)


def _along_channels(
    call: Call, affine: Affine, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    layer = linear_layer(call.operation)
    channel_axis = rank - 1
    # Dense layers have no `data_format`: their channels are always last.
    if getattr(layer, "data_format", None) == "channels_first":
        channel_axis = 1
    if affine.axes != (channel_axis,):
        raise NotFoldableError(
            f"its axes {affine.axes} are not the channel axis {channel_axis} of "
            f"{call.label!r} ({type(layer).__name__})"
        )
    return affine.scale, affine.shift


def _pads(layer: Any) -> bool:
    # A kernel of size 1 never reaches beyond the border, whatever the padding.
    return layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)


def _fold_einsum(
    call: Call, weights: dict[str, Any], affine: Affine, fold: Callable[..., Any]
) -> FoldedWeights:
    layer = linear_layer(call.operation)
    rank = len(call.inputs[0].shape) - _step_axes(call)
    labels = algebra.einsum_labels(layer.equation, rank)
    output_labels, bias = labels[2], weights["bias"]
    if bias is not None:
        # Keras leaves out the leading axes of size 1.
        bias = bias.reshape((1,) * (len(output_labels) - bias.ndim) + bias.shape)
    try:
        kernel, bias = fold(labels, weights["kernel"], bias, affine)
    except ValueError as error:
        raise NotFoldableError(f"{call.label!r} (EinsumDense): {error}") from None
    # The bias now also varies along the axes of the map; `bias_axes` must name them
    # all. Axes that it named before stay, even those of size 1.
    named = call.settings.get("bias_axes", layer.bias_axes) or ""
    bias_axes = [
        axis
        for axis, label in enumerate(output_labels)
        if bias.shape[axis] > 1 or label in named
    ] or [affine.axes[0]]
    bias = bias.reshape(bias.shape[bias_axes[0] :])
    settings = {"bias_axes": "".join(output_labels[axis] for axis in bias_axes)}
    return _require_finite(call, {"kernel": kernel, "bias": bias}, settings)


def _refuse_unless_plain(call: Call) -> None:
    layer = linear_layer(call.operation)
    if getattr(layer, "quantization_mode", None) is not None:
        raise NotFoldableError(
            f"{call.label!r} is quantized ({layer.quantization_mode})"
        )
    if getattr(layer, "lora_enabled", False):
        raise NotFoldableError(f"{call.label!r} has LoRA weights; merge them first")


def _require_finite(
    call: Call, weights: dict[str, Any], settings: dict[str, Any] | None = None
) -> FoldedWeights:
    # Compare with the narrowest type that the weights pass through: they may be stored
    # in float32 and cast to float16 for the computation.
    layer = linear_layer(call.operation)
    dtypes = (layer.compute_dtype, layer.variable_dtype)
    narrowest = "float16" if "float16" in dtypes else "float32"
    if dtypes == ("float64", "float64"):
        narrowest = "float64"
    for name, array in weights.items():
        # Without a copy of the array. NaN is a minimum that compares false, and so is
        # refused too.
        limit = np.finfo(narrowest).max
        if not (-limit <= array.min() and array.max() <= limit):
            raise NotFoldableError(
                f"the folded {name} of {call.label!r} is not finite in {narrowest}"
            )
    return weights, {"use_bias": True} if settings is None else settings
