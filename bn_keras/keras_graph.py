"""A model as a flat list of operation calls, nested models inlined.

Knows Keras' node graph (the semi-private attributes of Keras are used in this module
only) and nothing of batch normalization.
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
        shape: with None for unknown sizes.
        dtype: name.
        producer: the call it comes from, None for a model input.
        consumers: the calls it goes to, one entry for each argument.
        is_output: whether the model returns it.
    """

    shape: tuple
    dtype: str
    producer: "Call | None" = None
    consumers: list["Call"] = field(default_factory=list)
    is_output: bool = False


@dataclass(eq=False)
class Call:
    """One call of an operation of the original model.

    Args:
        operation: the original layer or operation, never changed.
        path: its name, behind those of the nested models around it.
        arguments: `(args, kwargs)`, with edges for tensors.
        outputs: the edges it produces.
        label: the path, with the call's number if there are several.
        affine: set where a multiply-add takes the operation's place.
        weights: new float64 values by attribute, if changed.
        settings: constructor arguments to change along with the weights.
    """

    operation: Any
    path: str
    arguments: tuple
    outputs: list[Edge]
    label: str = ""
    affine: Any = None
    weights: dict | None = None
    settings: dict = field(default_factory=dict)

    @property
    def inputs(self):
        """The edges among the arguments, masks apart, in calling order."""
        args, kwargs = self.arguments
        kwargs = {key: kwargs[key] for key in kwargs if key != "mask"}
        return [x for x in tree.flatten((args, kwargs)) if isinstance(x, Edge)]

    @property
    def training(self):
        """The `training` argument of the call, None if it was not given."""
        args, kwargs = self.arguments
        return kwargs.get("training", args[1] if len(args) > 1 else None)


@dataclass(eq=False)
class Graph:
    """The calls of a model in an order in which they can run.

    Args:
        name: of the model.
        input_tensors: the original symbolic inputs, as the model takes them.
        inputs: one edge for each of them, flat.
        output_structure: the original symbolic outputs, as the model returns them.
        output_names: one for each output, flat.
    """

    name: str
    input_tensors: Any
    inputs: list[Edge]
    output_structure: Any
    output_names: list[str]
    outputs: list[Edge] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def remove(self, call):
        """Take out a call of one input: its consumers read the input instead."""
        (source,), (target,) = call.inputs, call.outputs
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


def read_graph(model):
    """The graph of a built Functional or Sequential model.

    Raises:
        TypeError: for a subclassed model.
        ValueError: for a model that is not built.
    """
    function = _function(model)
    if function is None:
        if isinstance(model, keras.Sequential):
            raise ValueError(
                "The model must be built before it is folded: give it a `keras.Input`, "
                f"or call it once. Received: unbuilt Sequential {model.name!r}"
            )
        raise TypeError(
            "Expected a Functional or Sequential keras.Model: a subclassed model's "
            "`call` is Python code and has no graph to fold. Fold the Functional "
            f"models inside it instead. Received: {type(model).__name__}"
        )
    inputs = [Edge(x.shape, x.dtype) for x in function.inputs]
    graph = Graph(
        model.name, function._inputs_struct, inputs, function._outputs_struct,
        [x._keras_history.operation.name for x in function.outputs],
    )  # fmt: skip
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


def sublayers(operation):
    """All layers inside a layer, however deep, itself left out."""
    if not isinstance(operation, keras.Layer):
        return []
    return list(operation._flatten_layers(include_self=False, recursive=True))


def layer_keys(graph):
    """A key for each call: calls of equal key can go on sharing a layer.

    They can if they shared one and their new weights agree to the last bit.
    """
    counts = collections.Counter(call.operation for call in graph.calls)
    keys = {}
    for call in graph.calls:
        changed = None
        if counts[call.operation] > 1:
            changed = call.weights
            if call.affine is not None:
                changed = {"scale": call.affine.scale, "shift": call.affine.shift}
        if changed is not None:
            changed = tuple(array.tobytes() for array in changed.values())
        keys[call] = (id(call.operation), changed)
    return keys


def copy_stateless(operation, name):
    """A copy of an operation without variables, with no calls of its own yet."""
    duplicate = copy.copy(operation)
    duplicate._inbound_nodes, duplicate._outbound_nodes = [], []
    duplicate.name = name
    return duplicate


def copy_variables(source, target):
    """Give a built layer the weights and random states of another of its kind."""
    pairs = zip([source, *sublayers(source)], [target, *sublayers(target)], strict=True)
    for old, new in pairs:
        # As in saving, so that layers with own ways (Normalization) find them.
        store = {}
        old.save_own_variables(store)
        if store:
            new.load_own_variables(store)
    weights = {id(variable) for variable in target.weights}
    for new, old in zip(target.variables, source.variables, strict=True):
        if id(new) not in weights:
            new.assign(old.value)


def _prune(graph):
    # A nested model may return tensors that the model around it does not use.
    for call in graph.calls[::-1]:
        if not any(edge.consumers or edge.is_output for edge in call.outputs):
            for edge in _edges(call):
                edge.consumers.remove(call)
            graph.calls.remove(call)


def _function(operation):
    # A model or function whose `call` is Keras' own, so that its nodes tell all.
    if isinstance(operation, keras.Sequential):
        own = type(operation).call is keras.Sequential.call
        return operation._functional if own else None
    if isinstance(operation, Function):
        own = type(operation).call in (Functional.call, Function.call)
        return operation if own else None
    return None


def _inline(graph, function, inputs, prefix, context):
    edges = {id(x): edge for x, edge in zip(function.inputs, inputs, strict=True)}
    nodes_by_depth = function._nodes_by_depth
    for depth in sorted(nodes_by_depth, reverse=True):
        # Keras lists the calls of equal depth last to first.
        for node in reversed(nodes_by_depth[depth]):
            if node.is_input or any(id(x) not in edges for x in node.input_tensors):
                continue  # an input layer, or a node that belongs to another model
            args, kwargs = node.arguments.fill_in(edges)
            outputs = _call(graph, node, args, dict(kwargs), prefix, context)
            edges.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
    return [edges[id(x)] for x in function.outputs]


def _call(graph, node, args, kwargs, prefix, context):
    operation = node.operation
    path = prefix + operation.name
    # As in Functional.call: what an enclosing model was called with goes first.
    accepted = getattr(operation, "_call_has_context_arg", {})
    kwargs.update((key, context[key]) for key in context if accepted.get(key))
    function = _function(operation)
    if function is not None and not _has_own_mask(node):
        inputs = _nested_inputs(graph, function, args, kwargs, path)
        if inputs is not None:
            known = getattr(operation, "_call_context_args", ())
            given = {k: kwargs[k] for k in known if kwargs.get(k) is not None}
            return _inline(graph, function, inputs, path + "/", {**context, **given})
    outputs = [Edge(x.shape, x.dtype) for x in node.outputs]
    return _append(graph, Call(operation, path, (args, kwargs), outputs)).outputs


def _has_own_mask(node):
    # A mask given by hand would be lost by inlining; Keras' own travels on tensors.
    mask = node.arguments.kwargs.get("mask")
    recorded = [getattr(x, "_keras_mask", None) for x in node.input_tensors]
    return any(
        x is not None and not any(x is own for own in recorded)
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
    # What a nested model does to its inputs on entry. None: it is better left whole.
    given = args[0] if args else kwargs.get("inputs")
    struct = function._inputs_struct
    if isinstance(given, dict) and not isinstance(struct, dict):
        given = [given.get(x.name) for x in function.inputs]
    given = tree.flatten(given)
    if len(given) != len(function.inputs):
        return None
    inputs = []
    for edge, tensor in zip(given, function.inputs, strict=True):
        if not isinstance(edge, Edge) or len(edge.shape) != len(tensor.shape):
            return None
        if edge.dtype != tensor.dtype:
            if "float" not in edge.dtype or "float" not in tensor.dtype:
                return None
            cast = keras.layers.Identity(dtype=tensor.dtype, name="cast")
            outputs = [Edge(edge.shape, tensor.dtype)]
            _append(graph, Call(cast, f"{path}/cast", ((edge,), {}), outputs))
            edge = outputs[0]
        inputs.append(edge)
    return inputs
