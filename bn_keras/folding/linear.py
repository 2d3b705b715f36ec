"""Which weights of which Keras layer an affine map folds into.

Knows the layouts of Keras' linear layers; the arithmetic is in `algebra`, the graph
elsewhere.
"""

import keras
import numpy as np
from keras import layers

from bn_keras.folding import algebra

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
# A subclass may override `call`, so types are compared exactly.
LINEAR = (
    layers.Dense,
    layers.EinsumDense,
    *CONVOLUTIONS,
    *DEPTHWISE,
    *SEPARABLE,
    *TRANSPOSED,
)


class NotFoldableError(Exception):
    """An affine map cannot move; the message is the reason."""


def fold_after(call, affine):
    """New weights and settings of a linear layer that does the map behind it too.

    Args:
        call: a `Call` of one of `LINEAR`.
        affine: on the axes of the call's output.

    Returns:
        Weights by attribute, in float64, and constructor arguments to change.

    Raises:
        NotFoldableError: with the reason.
    """
    layer, kind = call.operation, type(call.operation)
    _refuse_unless_plain(call)
    if layer.activation not in (None, keras.activations.linear):
        raise NotFoldableError(
            f"it stands behind the nonlinearity of {call.label!r} "
            f"({keras.activations.serialize(layer.activation)})"
        )
    weights = _weights(call)
    if kind is layers.EinsumDense:
        return _fold_einsum(call, weights, affine, algebra.fold_after_einsum)
    scale, shift = _along_channels(call, affine, len(call.outputs[0].shape))
    name = "pointwise_kernel" if kind in SEPARABLE else "kernel"
    if kind in DEPTHWISE:
        folded = algebra.fold_after_depthwise(
            weights[name], weights["bias"], scale, shift
        )
    else:
        axis = -2 if kind in TRANSPOSED else -1
        folded = algebra.fold_after(weights[name], weights["bias"], scale, shift, axis)
    return _checked(call, {**weights, name: folded[0], "bias": folded[1]})


def fold_before(call, affine):
    """As `fold_after`, for a map in front of the layer, on the axes of its input."""
    layer, kind = call.operation, type(call.operation)
    _refuse_unless_plain(call)
    weights = _weights(call)
    if kind is layers.EinsumDense:
        return _fold_einsum(call, weights, affine, algebra.fold_before_einsum)
    scale, shift = _along_channels(call, affine, len(call.inputs[0].shape))
    bias = weights["bias"]
    moved = shift.any()
    if moved and kind in TRANSPOSED:
        raise NotFoldableError(
            f"the shift is not uniform behind {call.label!r} ({kind.__name__})"
        )
    if moved and kind is not layers.Dense and _pads(layer):
        raise NotFoldableError(
            f"{call.label!r} pads with zeros (padding {layer.padding!r}): the shift "
            "would be wrong at the border"
        )
    name = "depthwise_kernel" if kind in SEPARABLE else "kernel"
    kernel = weights[name]
    if kind is layers.Dense:
        folded = algebra.fold_before_dense(kernel, bias, scale, shift)
    elif kind in CONVOLUTIONS:
        folded = algebra.fold_before_convolution(kernel, bias, scale, shift)
    elif kind in DEPTHWISE:
        folded = algebra.fold_before_depthwise(kernel, bias, scale, shift)
    elif kind in SEPARABLE:
        folded = algebra.fold_before_separable(
            kernel, weights["pointwise_kernel"], bias, scale, shift
        )
    else:
        folded = algebra.fold_before_transposed(kernel, bias, scale)
    return _checked(call, {**weights, name: folded[0], "bias": folded[1]})


def float64(variable):
    """The value of a variable as a float64 array."""
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype("float64")


def _weights(call):
    # Those of an earlier fold first, so that rounding happens once.
    if call.weights is not None:
        return dict(call.weights)
    kind = type(call.operation)
    names = (
        ("depthwise_kernel", "pointwise_kernel") if kind in SEPARABLE else ("kernel",)
    )
    weights = {name: float64(getattr(call.operation, name)) for name in names}
    bias = call.operation.bias
    return {**weights, "bias": None if bias is None else float64(bias)}


def _along_channels(call, affine, rank):
    layer = call.operation
    channels = rank - 1
    if getattr(layer, "data_format", None) == "channels_first":
        channels = 1
    if affine.axes != (channels,):
        raise NotFoldableError(
            f"its axes {affine.axes} are not the channel axis {channels} of "
            f"{call.label!r} ({type(layer).__name__})"
        )
    return affine.scale, affine.shift


def _pads(layer):
    return layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)


def _fold_einsum(call, weights, affine, fold):
    labels = algebra.einsum_labels(call.operation.equation, len(call.inputs[0].shape))
    outputs, bias = labels[2], weights["bias"]
    if bias is not None:
        bias = bias.reshape((1,) * (len(outputs) - bias.ndim) + bias.shape)
    try:
        kernel, bias = fold(labels, weights["kernel"], bias, affine)
    except ValueError as error:
        raise NotFoldableError(f"{call.label!r} (EinsumDense): {error}") from None
    had = call.settings.get("bias_axes", call.operation.bias_axes) or ""
    has = [i for i, one in enumerate(outputs) if bias.shape[i] > 1 or one in had] or [
        affine.axes[0]
    ]
    bias = bias.reshape(bias.shape[has[0] :])
    settings = {"bias_axes": "".join(outputs[i] for i in has)}
    return _checked(call, {"kernel": kernel, "bias": bias}, settings)


def _refuse_unless_plain(call):
    layer = call.operation
    if getattr(layer, "quantization_mode", None) is not None:
        raise NotFoldableError(
            f"{call.label!r} is quantized ({layer.quantization_mode})"
        )
    if getattr(layer, "lora_enabled", False):
        raise NotFoldableError(f"{call.label!r} has LoRA weights: merge them first")


def _checked(call, weights, settings=None):
    layer = call.operation
    dtypes = (layer.compute_dtype, layer.variable_dtype)
    narrow = "float16" if "float16" in dtypes else "float32"
    if dtypes == ("float64", "float64"):
        narrow = "float64"
    for name, array in weights.items():
        if not (np.abs(array) <= np.finfo(narrow).max).all():
            raise NotFoldableError(
                f"the folded {name} of {call.label!r} is not finite in {narrow}"
            )
    return weights, {"use_bias": True} if settings is None else settings
