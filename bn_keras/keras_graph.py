"""A Keras model as a flat list of operation calls, with nested models inlined.

Attributes of Keras' node graph that are not public are used in this module only.
"""

import collections
import copy
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional
from keras.src.ops.function import Function


@dataclass(eq=False)
class Edge:
    """A tensor between two calls.

    Args:
        shape: Its shape, with None for unknown sizes.
        dtype: The name of its data type.
        producer: The call that returns it, or None for an input of the model.
        consumers: The calls that use it, one entry for each argument.
        is_output: Whether the model returns it.
    """

    shape: tuple[int | None, ...]
    dtype: str
    producer: "Call | None" = None
    consumers: list["Call"] = field(default_factory=list)
    is_output: bool = False


@dataclass(eq=False)
class Call:
    """One call of an operation of the original model.

    Args:
        operation: The original layer or operation, which is never changed.
        path: The names of the nested models around it, and its own name.
        arguments: `(args, kwargs)`, with edges in place of tensors.
        outputs: The edges that it returns.
        label: The path, with the number of the call if there are several.
        affine: The affine map that replaces the operation, if any.
        weights: The new float64 weights by attribute, or None if they do not change.
        settings: The constructor arguments that change along with the weights.
    """

    operation: Any
    path: str
    arguments: tuple[Any, Any]
    outputs: list[Edge]
    label: str = ""
    affine: Any = None
    weights: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Edge]:
        """The edges among the arguments, without masks, in calling order."""
        args, kwargs = self.arguments
        kwargs = {key: kwargs[key] for key in kwargs if key != "mask"}
        return [x for x in tree.flatten((args, kwargs)) if isinstance(x, Edge)]

    @property
    def training(self) -> bool | None:
        """The `training` argument of the call, or None if it was not passed."""
        args, kwargs = self.arguments
        return kwargs.get("training", args[1] if len(args) > 1 else None)


@dataclass(eq=False)
class Graph:
    """The calls of a model, in an order in which they can be executed.

    Args:
        name: The name of the model.
        input_tensors: The original symbolic inputs, in the structure that the model
            takes.
        inputs: A flat list with an edge for each input.
        output_structure: The original symbolic outputs, in the structure that the model
            returns.
        output_names: A flat list with a name for each output.
        outputs: A flat list with an edge for each output.
        calls: The calls.
    """

    name: str
    input_tensors: Any
    inputs: list[Edge]
    output_structure: Any
    output_names: list[str]
    outputs: list[Edge] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def remove(self, call: Call) -> None:
        """Remove a call with one input, which then takes the place of its output."""
        (source,), (target,) = call.inputs, call.outputs
        # Not only `call.inputs`: its mask loses a consumer, too.
        for edge in _edges(call):
            edge.consumers.remove(call)
        for consumer in target.consumers:
            consumer.arguments = tree.map_structure(
                lambda x: source if x is target else x, consumer.arguments
            )
            source.consumers.append(consumer)
        source.is_output = source.is_output or target.is_output
        self.outputs = [source if x is target else x for x in self.outputs]
        self.calls.remove(call)


def read_graph(model: keras.Model) -> Graph:
    """Return the graph of a built Functional or Sequential model.

    Args:
        model: The model, which is not changed.

    Returns:
        A `Graph` with the calls of nested models in place of the calls of the models.

    Raises:
        TypeError: If the model is subclassed.
        ValueError: If the model is not built.
    """
    function = _as_function(model)
    if function is None:
        if isinstance(model, keras.Sequential):
            raise ValueError(
                "The model must be built. Received: unbuilt Sequential "
                f"{model.name!r}. Add a `keras.Input`, or call the model once."
            )
        raise TypeError(
            "The model must be a Functional or Sequential keras.Model: the `call` of a "
            "subclassed model is Python code, which has no graph. Received: "
            f"{type(model).__name__}. Use the Functional models inside it instead."
        )
    inputs = [Edge(x.shape, x.dtype) for x in function.inputs]
    graph = Graph(
        model.name,
        function._inputs_struct,
        inputs,
        function._outputs_struct,
        [x._keras_history.operation.name for x in function.outputs],
    )
    graph.outputs = _inline(graph, function, inputs, "", {})
    for edge in graph.outputs:
        edge.is_output = True
    _prune(graph)
    calls_of = {}
    for call in graph.calls:
        calls_of.setdefault(call.path, []).append(call)
    for path, calls in calls_of.items():
        for number, call in enumerate(calls, 1):
            call.label = path if len(calls) == 1 else f"{path} (call {number})"
    return graph


def sublayers(operation: Any) -> list[Any]:
    """Return all layers inside a layer, at any depth, without the layer itself."""
    if not isinstance(operation, keras.Layer):
        return []
    return list(operation._flatten_layers(include_self=False, recursive=True))


def layer_keys(graph: Graph) -> dict[Call, tuple[Any, ...]]:
    """Return a key for each call, equal for calls that can still share a layer.

    These are the calls that share one in the original model and whose new weights are
    bitwise equal.
    """
    counts = collections.Counter(call.operation for call in graph.calls)
    keys = {}
    for call in graph.calls:
        changed = None
        # Without another call of the layer there is nothing to compare, and the bytes
        # of its weights would be copied for nothing.
        if counts[call.operation] > 1:
            changed = call.weights
            if call.affine is not None:
                changed = {"scale": call.affine.scale, "shift": call.affine.shift}
        if changed is not None:
            changed = tuple(array.tobytes() for array in changed.values())
        keys[call] = (id(call.operation), changed)
    return keys


def copy_stateless(operation: Any, name: str) -> Any:
    """Return a copy of an operation that has no variables, without recorded calls."""
    duplicate = copy.copy(operation)
    duplicate._inbound_nodes, duplicate._outbound_nodes = [], []
    duplicate.name = name
    return duplicate


def copy_variables(source: Any, target: Any) -> None:
    """Copy weights and random states to another built layer of the same class."""
    pairs = zip([source, *sublayers(source)], [target, *sublayers(target)], strict=True)
    for old, new in pairs:
        # As in saving: some layers, such as Normalization, do not keep all of their
        # state in `weights`.
        store = {}
        old.save_own_variables(store)
        if store:
            new.load_own_variables(store)
    # Seeds of random numbers are variables, but not weights, and are not saved.
    weights = {id(variable) for variable in target.weights}
    for new, old in zip(target.variables, source.variables, strict=True):
        if id(new) not in weights:
            new.assign(old.value)


def _prune(graph):
    # A nested model may return tensors that the model around it does not use. From the
    # end, so that a call whose consumers were removed is removed, too.
    for call in graph.calls[::-1]:
        if not any(edge.consumers or edge.is_output for edge in call.outputs):
            for edge in _edges(call):
                edge.consumers.remove(call)
            graph.calls.remove(call)


def _as_function(operation):
    # The graph of nodes describes a model completely only if its `call` is Keras' own.
    if isinstance(operation, keras.Sequential):
        has_keras_call = type(operation).call is keras.Sequential.call
        return operation._functional if has_keras_call else None
    if isinstance(operation, Function):
        has_keras_call = type(operation).call in (Functional.call, Function.call)
        return operation if has_keras_call else None
    return None


def _inline(graph, function, inputs, prefix, context):
    edges = {id(x): edge for x, edge in zip(function.inputs, inputs, strict=True)}
    nodes_by_depth = function._nodes_by_depth
    for depth in sorted(nodes_by_depth, reverse=True):
        # Keras lists the calls of equal depth in reverse order.
        for node in reversed(nodes_by_depth[depth]):
            if node.is_input or any(id(x) not in edges for x in node.input_tensors):
                continue  # an input layer, or a node that belongs to another model
            args, kwargs = node.arguments.fill_in(edges)
            outputs = _add_node(graph, node, args, dict(kwargs), prefix, context)
            edges.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
    return [edges[id(x)] for x in function.outputs]


def _add_node(graph, node, args, kwargs, prefix, context):
    """Add the call of a node, or the calls inside it, and return the output edges."""
    operation = node.operation
    path = prefix + operation.name
    # As in Functional.call: the context of the enclosing models, such as `training`,
    # takes precedence over the arguments of the call.
    accepts = getattr(operation, "_call_has_context_arg", {})
    kwargs.update((key, context[key]) for key in context if accepts.get(key))
    function = _as_function(operation)
    if function is not None and not _has_explicit_mask(node):
        inputs = _nested_inputs(graph, function, args, kwargs, path)
        if inputs is not None:
            names = getattr(operation, "_call_context_args", ())
            passed = {k: kwargs[k] for k in names if kwargs.get(k) is not None}
            return _inline(graph, function, inputs, path + "/", {**context, **passed})
    outputs = [Edge(x.shape, x.dtype) for x in node.outputs]
    return _append(graph, Call(operation, path, (args, kwargs), outputs)).outputs


def _has_explicit_mask(node):
    # Inlining would lose a mask that the user passed. Keras' own masks are attributes
    # of tensors, and are passed on by the calls inside the model.
    mask = node.arguments.kwargs.get("mask")
    keras_masks = [getattr(x, "_keras_mask", None) for x in node.input_tensors]
    return any(
        x is not None and not any(x is keras_mask for keras_mask in keras_masks)
        for x in tree.flatten(mask)
    )


def _append(graph, call):
    for edge in _edges(call):
        edge.consumers.append(call)
    for edge in call.outputs:
        edge.producer = call
    graph.calls.append(call)
    return call


def _edges(call):
    return [x for x in tree.flatten(call.arguments) if isinstance(x, Edge)]


def _nested_inputs(graph, function, args, kwargs, path):
    # Does what a nested model does to its inputs: finds them by name, and casts them.
    # None means that it does more, so that the model must stay one call.
    inputs = args[0] if args else kwargs.get("inputs")
    struct = function._inputs_struct
    if isinstance(inputs, dict) and not isinstance(struct, dict):
        inputs = [inputs.get(x.name) for x in function.inputs]
    inputs = tree.flatten(inputs)
    if len(inputs) != len(function.inputs):
        return None
    edges = []
    for edge, tensor in zip(inputs, function.inputs, strict=True):
        if not isinstance(edge, Edge) or len(edge.shape) != len(tensor.shape):
            return None
        if edge.dtype != tensor.dtype:
            # Only casts between floating-point types can be a layer of their own.
            if "float" not in edge.dtype or "float" not in tensor.dtype:
                return None
            cast = keras.layers.Identity(dtype=tensor.dtype, name="cast")
            outputs = [Edge(edge.shape, tensor.dtype)]
            _append(graph, Call(cast, f"{path}/cast", ((edge,), {}), outputs))
            edge = outputs[0]
        edges.append(edge)
    return edges
