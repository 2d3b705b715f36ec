"""Open layers whose `call` is Python code, by calling it with symbolic tensors.

Where `call` consists of layers and `keras.ops`, the result is the same kind of graph
that a Functional model has.
"""

import contextlib
import inspect
import itertools
import math
import types
from collections.abc import Iterator
from typing import Any

import keras
from keras import tree
from keras.src import backend
from keras.src.ops.function import Function


class NotTraceableError(Exception):
    """A layer cannot be opened; the message states the reason."""


def sublayers(operation: Any) -> list[Any]:
    """Return all layers inside a layer, at any depth, without the layer itself."""
    if not isinstance(operation, keras.Layer):
        return []
    return list(operation._flatten_layers(include_self=False, recursive=True))


def trace(operation: Any, inputs: Any, args: Any, kwargs: Any) -> Function:
    """Return the graph of one call of a layer or subclassed model.

    The layer stays as it is: what the call records in it or its layers is removed.

    Args:
        operation: The layer, which must be built.
        inputs: The symbolic tensors among the arguments, in any structure.
        args: The positional arguments of `call`.
        kwargs: The keyword arguments of `call`.

    Raises:
        NotTraceableError: If `call` does more than calling layers and `keras.ops`.
    """
    if getattr(operation, "quantization_mode", None) is not None:
        raise NotTraceableError("it is quantized")
    parameters = inspect.signature(operation.call).parameters
    # `predict` would overrule the default and a plain call would not.
    if "training" in parameters and parameters["training"].default is True:
        raise NotTraceableError("its `call` has training=True as the default")
    dtypes = operation.compute_dtype, operation.variable_dtype
    # The same scope as in `keras.Layer.__call__`: variables are cast when read.
    cast = contextlib.nullcontext()
    if dtypes[0] != dtypes[1]:
        cast = backend.AutocastScope(dtypes[0])
    with _restored(operation), keras.StatelessScope() as scope, cast:
        try:
            outputs = operation.call(*args, **kwargs)
        except Exception as error:  # whatever the user's code raises
            reason = " ".join(str(error).split())[:200]
            raise NotTraceableError(
                f"its `call` is not made of layers and keras.ops only: {reason}"
            ) from error
        if scope.state_mapping:
            raise NotTraceableError("its `call` changes variables")
        if not all(isinstance(x, keras.KerasTensor) for x in tree.flatten(outputs)):
            raise NotTraceableError("its `call` returns more than tensors")
        try:
            function = Function(inputs, outputs)
        except (KeyError, ValueError) as error:
            raise NotTraceableError(
                "its outputs do not depend on its inputs alone"
            ) from error
        _refuse_hidden_state(function)
        return function


# A saved model would hold larger constants as text.
_LARGEST_CONSTANT = 2**16


def _refuse_hidden_state(function: Function) -> None:
    """Raise an error for operations that keep more than their arguments show."""
    for node in itertools.chain(*function._nodes_by_depth.values()):
        for argument in tree.flatten((node.arguments.args, node.arguments.kwargs)):
            if isinstance(argument, keras.KerasTensor):
                continue
            # It may call layers, which no graph would show.
            if isinstance(argument, types.FunctionType | types.MethodType):
                raise NotTraceableError(
                    f"its `call` passes a function to {node.operation.name!r}"
                )
            if math.prod(getattr(argument, "shape", ())) > _LARGEST_CONSTANT:
                raise NotTraceableError("its `call` uses large variables directly")


# What Keras itself records during a call.
_RECORDS = {"_called", "_inbound_nodes", "_outbound_nodes", "_losses", "_loss_ids"}


@contextlib.contextmanager
def _restored(operation: Any) -> Iterator[None]:
    """Undo what calls inside the block record in a layer and its layers."""
    before = [
        (layer, dict(vars(layer)), _contents(layer))
        for layer in [operation, *sublayers(operation)]
    ]
    try:
        yield
        for layer, attributes, contents in before:
            for name, value in vars(layer).items():
                size = len(contents.get(name, ()))
                if name not in _RECORDS and (
                    value is not attributes.get(name)
                    or (isinstance(value, list | dict | set) and len(value) != size)
                ):
                    raise NotTraceableError(f"its `call` sets attributes ({name})")
    finally:
        for layer, attributes, contents in before:
            vars(layer).clear()
            vars(layer).update(attributes)
            for name, content in contents.items():
                _restore_content(attributes[name], content)


def _contents(layer: Any) -> dict[str, Any]:
    return {
        name: kind(value)
        for name, value in vars(layer).items()
        for kind in (list, dict, set)
        if isinstance(value, kind)
    }


def _restore_content(value: Any, content: Any) -> None:
    if len(value) == len(content):
        return
    # The methods of Keras' own lists and dictionaries would register the items.
    if isinstance(value, list):
        list.__setitem__(value, slice(None), content)
    else:
        kind: Any = dict if isinstance(value, dict) else set
        kind.clear(value)
        kind.update(value, content)


def symbolic_inputs(model: Any) -> Any:
    """Return new symbolic inputs for a model or layer, in the structure it takes.

    Raises:
        NotTraceableError: If it was never called, or takes several arguments.
    """
    # A Functional model whose `call` was overridden knows its inputs.
    known = getattr(model, "_inputs_struct", None)
    if known is not None:
        return tree.map_structure(
            lambda x: keras.Input(
                batch_shape=x.shape, dtype=x.dtype, name=x.name, sparse=x.sparse
            ),
            known,
        )
    shapes = getattr(model, "_build_shapes_dict", None)
    if not model.built or not shapes:
        raise NotTraceableError("it was never called on data")
    if len(shapes) > 1:
        raise NotTraceableError("its `call` takes several arguments with tensors")
    (shapes,) = shapes.values()
    name = next(iter(inspect.signature(model.call).parameters))
    # As Keras' own export does: a shape that was recorded says nothing of the dtype.
    return _inputs_of_shapes(shapes, name, model.input_dtype)


def _inputs_of_shapes(shapes: Any, name: str, dtype: str) -> Any:
    if isinstance(shapes, dict):
        return {key: _inputs_of_shapes(x, key, dtype) for key, x in shapes.items()}
    if all(isinstance(size, int | None) for size in shapes):
        return keras.Input(shape=tuple(shapes)[1:], dtype=dtype, name=name)
    return [
        _inputs_of_shapes(x, f"{name}_{index}", dtype) for index, x in enumerate(shapes)
    ]
