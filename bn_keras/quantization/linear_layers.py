"""Convolutions and products with a matrix, as arrays, and their weights in int8."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from keras import layers

from bn_keras.keras_graph import Call
from bn_keras.layer.scale_shift import ScaleShift
from bn_keras.quantization.operations import QuantizedWeights, Scale

# More groups than this would be more operations than they save.
LARGEST_GROUPS = 8
# The layers that may be int8. Their subclasses may override `call`.
LINEAR_LAYERS = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)

Kind = Literal["convolution", "depthwise", "matrix"]


@dataclass(frozen=True)
class Linear:
    """A linear layer.

    Args:
        kind: What it does.
        kernel: `(height, width, inputs, outputs)`, `(height, width, channels,
            multiplier)` or `(inputs, outputs)`.
        bias: One number for each output channel.
        strides: For height and width.
        dilations: For height and width.
        padding: `"SAME"` or `"VALID"`.
        groups: How many groups the channels of a convolution are in.
    """

    kind: Kind
    kernel: np.ndarray
    bias: np.ndarray
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "VALID"
    groups: int = 1


class NotQuantizableError(Exception):
    """A layer is not supported in int8; the message states the reason."""


def read_linear(call: Call) -> Linear | None:
    """Return the linear layer that a call is, or None.

    Raises:
        NotQuantizableError: If it is one without a form in int8.
    """
    layer: Any = call.operation
    layer_type = type(layer)
    if layer_type not in LINEAR_LAYERS:
        return None
    if layer.compute_dtype != "float32":
        raise NotQuantizableError(f"it computes in {layer.compute_dtype}")
    kernel = np.asarray(layer.kernel)
    if layer_type is layers.Dense:
        return Linear("matrix", kernel, _read_bias(layer, kernel.shape[1]))
    if layer.data_format != "channels_last":
        raise NotQuantizableError("its channels are not the last axis")
    is_depthwise = layer_type is layers.DepthwiseConv2D
    channels = kernel.shape[2] * kernel.shape[3] if is_depthwise else kernel.shape[3]
    linear = Linear(
        "depthwise" if is_depthwise else "convolution",
        kernel,
        _read_bias(layer, channels),
        tuple(layer.strides),
        tuple(layer.dilation_rate),
        layer.padding.upper(),
        1 if is_depthwise else layer.groups,
    )
    if linear.groups > LARGEST_GROUPS:
        raise NotQuantizableError(
            f"it has {linear.groups} groups; int8 supports up to {LARGEST_GROUPS}"
        )
    if is_depthwise and linear.strides[0] != linear.strides[1]:
        raise NotQuantizableError(f"its strides are {linear.strides}")
    if (
        linear.padding == "SAME"
        and not takes_explicit_padding(linear)
        and (kernel.shape[0] - 1) * linear.dilations[0] < linear.strides[0]
    ):
        raise NotQuantizableError(
            "it has a depth multiplier, and its padding may be along the width only"
        )
    return linear


def takes_explicit_padding(linear: Linear) -> bool:
    """Return whether zeros around the images may become part of a layer in int8.

    With a depth multiplier and signed inputs, oneDNN's kernel for AVX-512 forgets zeros
    along the width unless there are some along the height: its results are wrong.
    """
    if linear.kind == "depthwise":
        return linear.kernel.shape[3] == 1
    return linear.kind == "convolution"


def read_multiply_add(call: Call) -> Linear | None:
    """Return the multiply-add that folding left, as a depthwise convolution, or None.

    One of a folded model is a `Rescaling` or `ScaleShift` along the channels.
    """
    layer: Any = call.operation
    edge = call.inputs[0] if call.inputs else None
    if edge is None or len(edge.shape) != 4 or edge.shape[3] is None:
        return None
    if type(layer) is layers.Rescaling:
        scale, shift = layer.scale, layer.offset
    elif type(layer) is ScaleShift and layer.axes == (3,):
        scale, shift = np.asarray(layer.scale), np.asarray(layer.shift)
    else:
        return None
    if layer.compute_dtype != "float32":
        return None
    channels = (edge.shape[3],)
    kernel = np.broadcast_to(np.asarray(scale, np.float32), channels)
    bias = np.broadcast_to(np.asarray(shift, np.float32), channels)
    return Linear("depthwise", kernel[None, None, :, None], bias)


def quantize_weights(
    linear: Linear, scale: Scale, reduce_range: bool = False
) -> QuantizedWeights:
    """Return the weights of a layer in int8, symmetric in each output channel.

    Args:
        linear: The layer.
        scale: The scale of its input.
        reduce_range: Whether to use 7 of the 8 bits, -63 to 63.
    """
    channels = _channels_last(linear)
    limits = np.abs(channels).max(axis=tuple(range(channels.ndim - 1)))
    levels = 63 if reduce_range else 127
    # The bias is added as an integer of 32 bits, in steps of the product.
    smallest = np.abs(linear.bias) / scale.step / 2**29 * levels
    limits = np.maximum(limits, np.maximum(smallest, 1e-20))
    integers = np.rint(channels / limits * levels)
    values = np.clip(integers, -levels, levels).astype(np.int8)
    # The operations take steps of 1 / 127 of the limit.
    limits = (limits * (127 / levels)).astype(np.float32)
    bias = linear.bias.astype(np.float32)
    return QuantizedWeights(values.reshape(linear.kernel.shape), limits, bias)


def rounded_weights(linear: Linear, scale: Scale, reduce_range: bool) -> np.ndarray:
    """Return the numbers that the int8 weights of a layer stand for."""
    weights = quantize_weights(linear, scale, reduce_range)
    channels = weights.values.reshape(_channels_last(linear).shape)
    numbers = channels * (weights.limits / 127)
    return numbers.reshape(linear.kernel.shape).astype(np.float32)


def count_multiply_adds(linear: Linear, output_shape: tuple[int | None, ...]) -> int:
    """Return the multiply-adds for one example; unknown sizes count as one."""
    positions = int(np.prod([size or 1 for size in output_shape[1:-1]], initial=1))
    return positions * linear.kernel.size


def _channels_last(linear: Linear) -> np.ndarray:
    """Return the kernel with all output channels on the last axis."""
    kernel = linear.kernel.astype(np.float64)
    if linear.kind == "depthwise":
        kernel = kernel.reshape(*kernel.shape[:2], -1)
    return kernel


def _read_bias(layer: Any, channels: int) -> np.ndarray:
    if layer.bias is None:
        return np.zeros(channels, np.float32)
    return np.asarray(layer.bias)
