"""Rewrite the graph of a folded model, so that each call is one step of inference."""

from typing import Any

import keras
from keras import layers

from bn_keras.keras_graph import Call, Copier, Edge, Graph
from bn_keras.quantization.linear_layers import LINEAR_LAYERS

# Layers that do nothing in inference.
_IDENTITIES = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D),
    *(layers.SpatialDropout3D, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.AlphaDropout, layers.ActivityRegularization, layers.Identity),
)


def simplify(graph: Graph) -> None:
    """Remove layers that do nothing, and split those that do two things.

    A separable convolution becomes two layers, and an activation of a convolution or
    dense layer a layer of its own. The new layers have copies of the weights.

    Args:
        graph: The graph of a model without batch normalization. It is changed in place.
    """
    split: dict[tuple[Any, str], Any] = {}
    for call in list(graph.calls):
        if _is_identity(call):
            graph.remove(call)
        elif type(call.operation) is layers.SeparableConv2D:
            first, second = _split_separable(call.operation, split)
            _replace(graph, call, first, second)
    for call in list(graph.calls):
        layer = call.operation
        if type(layer) in LINEAR_LAYERS and layer.activation not in (
            None,
            keras.activations.linear,
        ):
            first, second = _split_activation(layer, split)
            _replace(graph, call, first, second)


def is_relu(call: Call) -> float | None:
    """Return the limit of a ReLU, infinite without one; None for anything else."""
    operation: Any = call.operation
    if type(operation) is layers.ReLU:
        if operation.negative_slope or operation.threshold:
            return None
        limit = operation.max_value
        return float("inf") if limit is None else float(limit)
    function = getattr(operation, "activation", None)
    if type(operation) is layers.Activation:
        known = {
            keras.activations.relu: float("inf"),
            keras.activations.relu6: 6.0,
        }
        return known.get(function)
    # Operations of `keras.ops` have no public classes.
    if not isinstance(operation, keras.Layer):
        return {"Relu": float("inf"), "Relu6": 6.0}.get(type(operation).__name__)
    return None


def _is_identity(call: Call) -> bool:
    operation: Any = call.operation
    is_linear = type(operation) is layers.Activation and operation.activation in (
        keras.activations.linear,
    )
    return (
        (type(operation) in _IDENTITIES or is_linear)
        and len(call.inputs) == len(call.outputs) == 1
        and call.inputs[0].dtype == call.outputs[0].dtype
        # The name of an output may be that of this layer, but the order is kept.
        and call.inputs[0].producer is not None
    )


def _split_separable(layer: Any, split: dict[Any, Any]) -> tuple[Any, Any]:
    key = (id(layer), "separable")
    if key not in split:
        common = {"dtype": layer.dtype_policy, "data_format": layer.data_format}
        depthwise = layers.DepthwiseConv2D(
            layer.kernel_size,
            layer.strides,
            layer.padding,
            layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            name=f"{layer.name}_depthwise",
            **common,
        )
        pointwise = layers.Conv2D(
            layer.filters,
            1,
            activation=layer.activation,
            use_bias=layer.use_bias,
            name=layer.name,
            **common,
        )
        channels = layer.pointwise_kernel.shape[2]
        depthwise.build((None, None, None, layer.depthwise_kernel.shape[2]))
        pointwise.build((None, None, None, channels))
        depthwise.kernel.assign(layer.depthwise_kernel)
        pointwise.kernel.assign(layer.pointwise_kernel)
        if layer.use_bias:
            pointwise.bias.assign(layer.bias)
        split[key] = depthwise, pointwise
    return split[key]


def _split_activation(layer: Any, split: dict[Any, Any]) -> tuple[Any, Any]:
    key = (id(layer), "activation")
    if key not in split:
        linear = Copier().copy(layer, layer.name)
        linear.activation = keras.activations.linear
        activation = layers.Activation(
            layer.activation, name=f"{layer.name}_activation", dtype=layer.dtype_policy
        )
        split[key] = linear, activation
    return split[key]


def _replace(graph: Graph, call: Call, first: Any, second: Any) -> None:
    """Let two layers in a row take the place of a call."""
    (target,) = call.outputs
    source = call.inputs[0]
    shape = first.compute_output_shape(source.shape)
    between = Edge(tuple(shape), target.dtype)
    calls = [
        Call(first, call.path, ((source,), {}), [between], label=call.label),
        Call(second, call.path, ((between,), {}), [target], label=call.label),
    ]
    if first.name != call.operation.name:
        calls[0].label = f"{call.label} (depthwise)"
    if second.name != call.operation.name:
        calls[1].label = f"{call.label} (activation)"
    source.consumers[source.consumers.index(call)] = calls[0]
    between.producer, between.consumers = calls[0], [calls[1]]
    target.producer = calls[1]
    place = graph.calls.index(call)
    graph.calls[place : place + 1] = calls
