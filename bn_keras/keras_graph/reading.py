"""Read a Keras model as a flat list of operation calls, with nested models inlined."""

import inspect
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional
from keras.src.ops.function import Function

from bn_keras.keras_graph import opening
from bn_keras.keras_graph.graph import Call, Edge, Graph, edges_of
from bn_keras.keras_graph.opening import NotTraceableError, sublayers


def read_graph(
    model: keras.Model, kinds: tuple[type, ...] = (), open_layers: bool = True
) -> Graph:
    """Return the graph of a built model.

    Args:
        model: The model, which is not changed.
        kinds: Classes of layers that are looked for.
        open_layers: Whether a layer of another class that has such a layer inside is
            replaced by the calls that it makes, if its `call` consists of layers and
            `keras.ops`. `object` among the classes stands for any content.

    Returns:
        A `Graph` with the calls of nested models in place of the calls of the models.

    Raises:
        TypeError: If the model is subclassed and its `call` cannot be followed.
        ValueError: If the model is not built.
    """
    function = _as_function(model)
    if function is None:
        function = _trace_model(model)
    return _read_function(model.name, function, kinds, open_layers)


def _read_function(
    name: str, function: Any, kinds: tuple[type, ...], open_layers: bool
) -> Graph:
    inputs = [Edge(x.shape, x.dtype) for x in function.inputs]
    graph = Graph(
        name,
        function._inputs_struct,
        inputs,
        function._outputs_struct,
        [x._keras_history.operation.name for x in function.outputs],
    )
    reader = _Reader(graph, kinds, open_layers)
    graph.outputs = reader.inline(function, inputs, "", {})
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


def _trace_model(model: Any) -> Function:
    if isinstance(model, keras.Sequential) and type(model).call is (
        keras.Sequential.call
    ):
        raise ValueError(
            "The model must be built. Received: unbuilt Sequential "
            f"{model.name!r}. Add a `keras.Input`, or call the model once."
        )
    try:
        if not isinstance(model, keras.Model):
            raise NotTraceableError("it is not a keras.Model")
        inputs = opening.symbolic_inputs(model)
        return opening.trace(model, inputs, (inputs,), {})
    except NotTraceableError as reason:
        raise TypeError(
            "The model must be Functional or Sequential, or a subclassed keras.Model "
            "that was called and whose `call` consists of layers and keras.ops. "
            f"Received: {type(model).__name__}; {reason}. Use the Functional models "
            "inside it instead."
        ) from reason


def _trace_alone(layer: Any) -> Function:
    """Return the graph of a layer that is called by code, not by a graph."""
    # The caller may pass whatever the layer takes; a model takes these.
    first, *others = inspect.signature(layer.call).parameters
    if not set(others) <= {"training", "mask"}:
        raise NotTraceableError(f"its `call` takes more than {first!r}")
    inputs = opening.symbolic_inputs(layer)
    return opening.trace(layer, inputs, (inputs,), {})


def _prune(graph):
    # A nested model may return tensors that the model around it does not use. From the
    # end, so that a call whose consumers were removed is removed, too.
    for call in graph.calls[::-1]:
        if not any(edge.consumers or edge.is_output for edge in call.outputs):
            for edge in edges_of(call):
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


class _Reader:
    """Reads the nodes of functions into a graph.

    Args:
        graph: The graph to which calls are appended.
        kinds: Layers with layers of these classes inside are opened.
        open_layers: Whether they are.
    """

    def __init__(
        self, graph: Graph, kinds: tuple[type, ...], open_layers: bool
    ) -> None:
        self.graph = graph
        self.kinds = kinds
        self.open_layers = open_layers

    def inline(
        self, function: Any, inputs: list[Edge], prefix: str, context: dict[str, Any]
    ) -> list[Edge]:
        """Append the calls of a function and return its output edges."""
        edges = {id(x): edge for x, edge in zip(function.inputs, inputs, strict=True)}
        nodes_by_depth = function._nodes_by_depth
        for depth in sorted(nodes_by_depth, reverse=True):
            # Keras lists the calls of equal depth in reverse order.
            for node in reversed(nodes_by_depth[depth]):
                # An input layer, or a node that belongs to another model.
                if node.is_input or any(id(x) not in edges for x in node.input_tensors):
                    continue
                args, kwargs = node.arguments.fill_in(edges)
                outputs = self._add_node(node, args, dict(kwargs), prefix, context)
                edges.update(
                    (id(x), y) for x, y in zip(node.outputs, outputs, strict=True)
                )
        return [edges[id(x)] for x in function.outputs]

    def _add_node(
        self, node: Any, args: Any, kwargs: Any, prefix: str, context: dict[str, Any]
    ) -> list[Edge]:
        """Append the call of a node, or the calls inside it; return its outputs."""
        operation = node.operation
        path = prefix + operation.name
        # As in Functional.call: the context of the enclosing models, such as
        # `training`, takes precedence over the arguments of the call.
        accepts = getattr(operation, "_call_has_context_arg", {})
        kwargs.update((key, context[key]) for key in context if accepts.get(key))
        names = getattr(operation, "_call_context_args", ())
        passed = {k: kwargs[k] for k in names if kwargs.get(k) is not None}
        function, reason_closed = _as_function(operation), ""
        if function is not None and not _has_explicit_mask(node):
            inputs = self._nested_inputs(function, args, kwargs, path)
            if inputs is not None:
                context = {**context, **passed}
                return self._inline_node(node, function, inputs, path, context)
        elif function is None and self._is_to_be_opened(operation):
            try:
                return self._open(node, args, kwargs, path, {**context, **passed})
            except NotTraceableError as reason:
                reason_closed = str(reason)
        outputs = [Edge(x.shape, x.dtype) for x in node.outputs]
        call = Call(operation, path, (args, kwargs), outputs)
        call.reason_closed = reason_closed
        if self.open_layers and not context.get("training"):
            call.inner = self._read_inner(operation)
            self.graph.opened += [f"{path}/{layer.name}" for layer in call.inner]
        return self._append(call).outputs

    def _inline_node(
        self,
        node: Any,
        function: Any,
        inputs: list[Edge],
        path: str,
        context: dict[str, Any],
    ) -> list[Edge]:
        outputs = self.inline(function, inputs, path + "/", context)
        # Here sizes may be known that the model inside was built without.
        for edge, tensor in zip(outputs, node.outputs, strict=True):
            edge.shape = tensor.shape
        return outputs

    def _read_inner(self, operation: Any) -> dict[Any, Graph]:
        """Return the graphs of the outermost layers inside one that have a graph."""
        graphs = {}
        for layer in getattr(operation, "_layers", ()):
            if isinstance(layer, self.kinds) or not self._holds_kinds(layer):
                continue
            try:
                function = _as_function(layer) or _trace_alone(layer)
            except NotTraceableError:
                graphs.update(self._read_inner(layer))
            else:
                graphs[layer] = _read_function(layer.name, function, self.kinds, True)
        return graphs

    def _is_to_be_opened(self, operation: Any) -> bool:
        # Keras' own wrappers and RNN layers repeat what is inside them.
        is_own = type(operation).__module__.startswith("keras.src.layers")
        return not is_own and (
            self._holds_kinds(operation)
            # Operations of `keras.ops` have nothing inside.
            or (object in self.kinds and isinstance(operation, keras.Layer))
        )

    def _holds_kinds(self, operation: Any) -> bool:
        return any(isinstance(layer, self.kinds) for layer in sublayers(operation))

    def _open(
        self, node: Any, args: Any, kwargs: Any, path: str, context: dict[str, Any]
    ) -> list[Edge]:
        operation = node.operation
        if not self.open_layers:
            raise NotTraceableError("the calls inside it have other outputs")
        if context.get("training"):
            raise NotTraceableError("it is called with training=True")
        masks = [getattr(x, "_keras_mask", None) for x in node.input_tensors]
        if kwargs.get("mask") is not None or any(x is not None for x in masks):
            raise NotTraceableError("it is called with a mask")
        if any(x.sparse or x.ragged for x in node.input_tensors):
            raise NotTraceableError("it is called with sparse or ragged tensors")
        found = [x for x in tree.flatten((args, kwargs)) if isinstance(x, Edge)]
        shapes = dict(zip(found, [x.shape for x in node.input_tensors], strict=True))
        dtypes = {edge: _converted_dtype(operation, edge.dtype) for edge in shapes}
        tensors = {
            edge: keras.KerasTensor(shapes[edge], dtypes[edge]) for edge in shapes
        }
        arguments: Any = tree.map_structure(
            lambda x: tensors[x] if isinstance(x, Edge) else x, (args, kwargs)
        )
        function = opening.trace(operation, list(tensors.values()), *arguments)
        traced = [_signature(x) for x in function.outputs]
        known = [_signature(x) for x in node.outputs]
        if traced != known:
            raise NotTraceableError(
                f"its `call` returns {traced}, which should be {known}"
            )
        self.graph.opened.append(path)
        inputs = [self._cast(edge, dtype, path) for edge, dtype in dtypes.items()]
        return self._inline_node(node, function, inputs, path, context)

    def _append(self, call: Call) -> Call:
        for edge in edges_of(call):
            edge.consumers.append(call)
        for edge in call.outputs:
            edge.producer = call
        self.graph.calls.append(call)
        return call

    def _cast(self, edge: Edge, dtype: str, path: str) -> Edge:
        if edge.dtype == dtype:
            return edge
        cast = keras.layers.Identity(dtype=dtype, name="cast")
        output = Edge(edge.shape, dtype)
        self._append(Call(cast, f"{path}/cast", ((edge,), {}), [output]))
        return output

    def _nested_inputs(
        self, function: Any, args: Any, kwargs: Any, path: str
    ) -> list[Edge] | None:
        # Does what a nested model does to its inputs: finds them by name, and casts
        # them. None means that it does more, so that the model must stay one call.
        inputs = args[0] if args else kwargs.get("inputs")
        struct = function._inputs_struct
        if isinstance(inputs, dict) and not isinstance(struct, dict):
            inputs = [inputs.get(x.name) for x in function.inputs]
        inputs = tree.flatten(inputs)
        if len(inputs) != len(function.inputs):
            return None
        for edge, tensor in zip(inputs, function.inputs, strict=True):
            if not isinstance(edge, Edge) or len(edge.shape) != len(tensor.shape):
                return None
            # Only casts between floating-point types can be a layer of their own.
            if edge.dtype != tensor.dtype and not (
                "float" in edge.dtype and "float" in tensor.dtype
            ):
                return None
        return [
            self._cast(edge, tensor.dtype, path)
            for edge, tensor in zip(inputs, function.inputs, strict=True)
        ]


def _signature(tensor: Any) -> tuple[Any, ...]:
    return (*tensor.shape, tensor.dtype)


def _converted_dtype(layer: Any, dtype: str) -> str:
    """Return the dtype to which a layer converts an argument."""
    converts = layer.autocast and layer._convert_input_args and "float" in dtype
    return layer.input_dtype if converts else dtype


def _has_explicit_mask(node):
    # Inlining would lose a mask that the user passed. Keras' own masks are attributes
    # of tensors, and are passed on by the calls inside the model.
    mask = node.arguments.kwargs.get("mask")
    keras_masks = [getattr(x, "_keras_mask", None) for x in node.input_tensors]
    return any(
        x is not None and not any(x is keras_mask for keras_mask in keras_masks)
        for x in tree.flatten(mask)
    )
