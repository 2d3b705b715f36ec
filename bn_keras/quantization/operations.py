"""The int8 operations of oneDNN in TensorFlow, in the forms that were tried.

TensorFlow's graph rewriter creates these operations in graphs that a tool of Intel's
has prepared. They have no Python function, and hardly any checks: inputs in another
order give wrong results or end the process. `tests/quantization/test_operations.py`
compares each form with NumPy.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONVOLUTION = "_FusedQuantizedConv2D"
DEPTHWISE = "_FusedQuantizedDepthwiseConv2D"


@dataclass(frozen=True)
class Scale:
    """How 8-bit integers stand for numbers.

    Args:
        limit: The largest absolute value.
        signed: Whether the integers are -127 to 127, instead of 0 to 255.
    """

    limit: float
    signed: bool

    @property
    def step(self) -> float:
        """The difference of two neighboring numbers."""
        return self.limit / (127 if self.signed else 255)

    @property
    def bounds(self) -> tuple[np.float32, np.float32]:
        """The smallest and the largest number."""
        smallest = -self.limit if self.signed else 0.0
        return np.float32(smallest), np.float32(self.limit)


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor of 8-bit integers."""

    values: Any
    scale: Scale


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights in int8, with a scale for each output channel.

    Args:
        values: The integers, in int8: `(height, width, inputs, outputs)`, or `(inputs,
            outputs)` of a matrix.
        limits: The largest absolute value of each channel, in float32.
        bias: In float32, one for each channel.
    """

    values: np.ndarray
    limits: np.ndarray
    bias: np.ndarray


def quantize(values: Any, scale: Scale) -> QuantizedTensor:
    """Return float values as the closest 8-bit integers."""
    import tensorflow as tf

    result = tf.raw_ops.QuantizeV2(
        input=values,
        min_range=scale.bounds[0],
        max_range=scale.bounds[1],
        T=_dtype(scale),
        mode="SCALED",
        round_mode="HALF_TO_EVEN",
        # The default would widen the range of small values.
        ensure_minimum_range=0.0,
        narrow_range=scale.signed,
    )
    return QuantizedTensor(result.output, scale)


def dequantize(tensor: QuantizedTensor) -> Any:
    """Return the float values that 8-bit integers stand for."""
    import tensorflow as tf

    lowest, highest = tensor.scale.bounds
    return tf.raw_ops.Dequantize(
        input=tensor.values,
        min_range=lowest,
        max_range=highest,
        mode="SCALED",
        narrow_range=tensor.scale.signed,
    )


def convolve(
    operation: str,
    tensor: QuantizedTensor,
    weights: QuantizedWeights,
    scale: Scale,
    *,
    strides: tuple[int, int],
    dilations: tuple[int, int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
    relu: bool = False,
    summand: QuantizedTensor | None = None,
    name: str = "convolution",
) -> QuantizedTensor:
    """Return a convolution with bias, as 8-bit integers.

    Args:
        operation: `CONVOLUTION` or `DEPTHWISE`.
        tensor: The images, `(batch, height, width, channels)`.
        weights: The weights.
        scale: The scale of the result.
        strides: For height and width.
        dilations: For height and width.
        padding: `"SAME"`, `"VALID"`, or the number of zeros before and after the height
            and the width.
        relu: Whether negative results become zero.
        summand: What is added before that, unsigned, with `relu` and an unsigned result
            only. Its memory becomes that of the result: nothing may read it later.
        name: A name for the operation.
    """
    import tensorflow as tf

    fused = ["BiasAdd", "Requantize"]
    if relu:
        fused.insert(1, "Relu")
    inputs = [tensor.values, _constant(weights.values), _constant(weights.bias)]
    if summand is not None:
        assert relu
        assert not scale.signed
        assert not summand.scale.signed
        fused.insert(1, "Sum")
        inputs.append(summand.values)
    inputs += [
        *map(_constant, tensor.scale.bounds),
        _constant(-weights.limits),
        _constant(weights.limits),
    ]
    if summand is not None:
        # In the other order, the result is wrong.
        inputs += map(_constant, summand.scale.bounds)
    inputs += map(_constant, scale.bounds)
    attributes: dict[str, Any] = {
        "Tinput": tensor.values.dtype,
        "Tfilter": tf.qint8,
        "Tbias": tf.float32,
        # Without a summand the kernel is chosen by it nevertheless.
        "Tsummand": _dtype(scale),
        "out_type": _dtype(scale),
        "strides": [1, *strides, 1],
        "dilations": [1, *dilations, 1],
        "padding": padding if isinstance(padding, str) else "EXPLICIT",
        "fused_ops": fused,
    }
    if not isinstance(padding, str):
        pads = [(0, 0), *padding, (0, 0)]
        attributes["explicit_paddings"] = [x for pair in pads for x in pair]
    outputs = [_dtype(scale), tf.float32, tf.float32]
    values, *_ = _create(operation, inputs, outputs, attributes, name)
    _set_convolution_shape(values, tensor.values, operation, weights, attributes)
    return QuantizedTensor(values, scale)


def multiply(
    tensor: QuantizedTensor,
    weights: QuantizedWeights,
    scale: Scale | None,
    *,
    relu: bool = False,
    name: str = "product",
) -> Any:
    """Return the product with a matrix, plus a bias.

    Args:
        tensor: Rows, `(batch, inputs)`.
        weights: The matrix.
        scale: The scale of the result, or None for float numbers.
        relu: Whether negative results become zero.
        name: A name for the operation.

    Returns:
        A `QuantizedTensor`, or a float tensor.
    """
    import tensorflow as tf

    fused = ["BiasAdd", *(["Relu"] if relu else [])]
    fused.append("Dequantize" if scale is None else "Requantize")
    inputs = [
        tensor.values,
        _constant(weights.values),
        _constant(weights.bias),
        *map(_constant, tensor.scale.bounds),
        _constant(-weights.limits),
        _constant(weights.limits),
    ]
    dtype = tf.float32 if scale is None else _dtype(scale)
    outputs = [dtype]
    if scale is not None:
        inputs += map(_constant, scale.bounds)
        outputs += [tf.float32, tf.float32]
    attributes = {
        "T1": tensor.values.dtype,
        "T2": tf.qint8,
        "Tbias": tf.float32,
        "U": tf.float32,
        "Tout": dtype,
        "fused_ops": fused,
    }
    values, *_ = _create("_QuantizedMatMul", inputs, outputs, attributes, name)
    values.set_shape([tensor.values.shape[0], weights.values.shape[1]])
    return values if scale is None else QuantizedTensor(values, scale)


def pool(
    kind: str,
    tensor: QuantizedTensor,
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: str,
) -> QuantizedTensor:
    """Return the maximum (`kind="max"`) or the average (`"average"`) of windows."""
    import tensorflow as tf

    operations = {
        "max": tf.raw_ops.QuantizedMaxPool,
        "average": tf.raw_ops.QuantizedAvgPool,
    }
    lowest, highest = tensor.scale.bounds
    result = operations[kind](
        input=tensor.values,
        min_input=lowest,
        max_input=highest,
        ksize=[1, *size, 1],
        strides=[1, *strides, 1],
        padding=padding,
    )
    return QuantizedTensor(result.output, tensor.scale)


def concatenate(tensors: Sequence[QuantizedTensor], axis: int) -> QuantizedTensor:
    """Return tensors of the same scale one after the other."""
    import tensorflow as tf

    scale = tensors[0].scale
    assert all(tensor.scale == scale for tensor in tensors)
    # `QuantizedConcat` would compare the scales again.
    values = tf.raw_ops.ConcatV2(values=[x.values for x in tensors], axis=axis)
    return QuantizedTensor(values, scale)


def pad(tensor: QuantizedTensor, padding: Sequence[tuple[int, int]]) -> QuantizedTensor:
    """Return images with zeros around them."""
    import tensorflow as tf

    dtype = tensor.values.dtype
    # The operation has no kernel for quantized types.
    plain = tf.bitcast(tensor.values, tf.int8 if tensor.scale.signed else tf.uint8)
    padded = tf.pad(plain, [(0, 0), *padding, (0, 0)])
    return QuantizedTensor(tf.bitcast(padded, dtype), tensor.scale)


def reshape(tensor: QuantizedTensor, shape: Sequence[int]) -> QuantizedTensor:
    """Return the same numbers in another shape."""
    import tensorflow as tf

    return QuantizedTensor(tf.reshape(tensor.values, shape), tensor.scale)


def _dtype(scale: Scale) -> Any:
    import tensorflow as tf

    return tf.qint8 if scale.signed else tf.quint8


def _constant(values: Any) -> Any:
    import tensorflow as tf

    values = np.asarray(values)
    if values.dtype == np.int8:
        values = values.view(tf.qint8.as_numpy_dtype)
    return tf.constant(values)


def _create(
    operation: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    attributes: dict[str, Any],
    name: str,
) -> Sequence[Any]:
    """Add an operation to the current graph and return its outputs."""
    import tensorflow as tf
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    attributes = {
        **attributes,
        # Which of the two lists the inputs are in makes no difference on a CPU.
        "Tdevice_inputs": [x.dtype for x in inputs],
        "Thost_inputs": [],
        "Tdevice_outputs": list(outputs),
        "Thost_outputs": [],
    }

    def encode(value: Any) -> AttrValue:
        if isinstance(value, tf.DType):
            return AttrValue(type=value.as_datatype_enum)
        if isinstance(value, str):
            return AttrValue(s=value.encode())
        result = AttrValue(list=AttrValue.ListValue())
        for item in value:
            if isinstance(item, tf.DType):
                result.list.type.append(item.as_datatype_enum)
            elif isinstance(item, str):
                result.list.s.append(item.encode())
            else:
                result.list.i.append(item)
        return result

    graph = tf.compat.v1.get_default_graph()
    created = graph.create_op(
        operation,
        list(inputs),
        list(outputs),
        name=re.sub(r"[^A-Za-z0-9_.\-/]", "_", name).lstrip("_-/") or "int8",
        attrs={key: encode(value) for key, value in attributes.items()},
    )
    return created.outputs


def _set_convolution_shape(
    values: Any,
    images: Any,
    operation: str,
    weights: QuantizedWeights,
    attributes: dict[str, Any],
) -> None:
    """Set the shape of a convolution's result, which TensorFlow does not infer."""
    sizes: list[int | None] = []
    for axis in (1, 2):
        size, stride = images.shape[axis], attributes["strides"][axis]
        if size is None:
            sizes.append(None)
            continue
        if attributes["padding"] == "SAME":
            sizes.append(-(-size // stride))
            continue
        if attributes["padding"] == "EXPLICIT":
            size += sum(attributes["explicit_paddings"][2 * axis : 2 * axis + 2])
        reach = (weights.values.shape[axis - 1] - 1) * attributes["dilations"][axis]
        sizes.append((size - reach - 1) // stride + 1)
    values.set_shape([images.shape[0], *sizes, len(weights.limits)])
