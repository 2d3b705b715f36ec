"""Trace a model into a TensorFlow graph whose weights are inputs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from bn_keras.export.contract import Contract
from bn_keras.export.determinism import refuse_random_and_stateful
from bn_keras.export.graph_definitions import keep_nodes, names_used
from bn_keras.export.weight_expressions import evaluate_weight_expressions

# Constants of at least this many bytes, and all in int8, are stored with the weights.
LARGE = 16 * 1024


class Table(NamedTuple):
    """The content of a lookup table, sorted by its keys, as eager tensors."""

    keys: Any
    values: Any


@dataclass
class TracedModel:
    """The graph of a model, without the values of its weights.

    All names are those of tensors in the graph.

    Args:
        graph_def: A `tf.compat.v1.GraphDef` with the operations only.
        inputs: The names of the inputs, in the flat order of the model.
        outputs: The names of the outputs, in the flat order of the model.
        weights: The values of the weights that the graph uses, as eager tensors.
        variables: The values of the `tf.Variable`s that layers hold outside of Keras'
            weights, by the name of their handle.
        tables: The lookup tables, by the name of their handle.
        paths: A readable name for each of the weights, variables and tables.
    """

    graph_def: Any
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)


def trace_model(model: keras.Model, contract: Contract) -> TracedModel:
    """Return the graph of a model for inference.

    The weights are arguments of the traced function, so no graph ever holds their
    values, which TensorFlow would copy with every copy of the graph.

    Raises:
        ValueError: If an operation is random or stateful, or uses statistics of the
            batch.
    """
    import tensorflow as tf

    variables, count = model.variables, len(contract.inputs)
    assigned: list[str] = []

    def infer(*tensors: Any) -> list[Any]:
        inputs = tree.pack_sequence_as(contract.structure, tensors[:count])
        with _TracingScope(zip(variables, tensors[count:], strict=True)) as scope:
            outputs = model(inputs, training=False)
        assigned[:] = scope.assigned
        return tree.flatten(outputs)

    specs = [
        *(tf.TensorSpec(*spec) for spec in contract.inputs.values()),
        *(tf.TensorSpec(x.shape, x.dtype) for x in variables),
    ]
    function = tf.function(infer, autograph=False).get_concrete_function(*specs)
    graph = function.graph
    graph_def = graph.as_graph_def()
    refuse_random_and_stateful(graph_def, [x.name for x in function.outputs])
    if assigned:
        raise ValueError(
            "An export must always give the same outputs for the same inputs. "
            "Received: a stateful operation, which changes the variable "
            f"{assigned[0]!r}. Remove that layer"
        )
    names = [tensor.name for tensor in function.inputs]
    traced = TracedModel(graph_def, names[:count], [x.name for x in function.outputs])
    for name, variable in zip(names[count:], variables, strict=False):
        traced.weights[name] = tf.convert_to_tensor(variable.value)
        traced.paths[name] = variable.path
    _add_captures(traced, graph, model)
    _move_large_constants(traced)
    expressions = evaluate_weight_expressions(
        graph, graph_def, traced.weights, traced.outputs
    )
    for name, value in expressions.items():
        traced.weights[name] = value
        traced.paths[name] = name.partition(":")[0]
    _remove_unused(traced)
    return traced


class _TracingScope(keras.StatelessScope):
    """A scope in which variables have given values, and assignments are noted."""

    def __init__(self, state_mapping: Iterable[tuple[Any, Any]]) -> None:
        super().__init__(state_mapping)
        self.assigned: list[str] = []

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Note the assignment of a value to a variable."""
        self.assigned.append(update[0].path)
        super().add_update(update)


def _add_captures(traced: TracedModel, graph: Any, model: keras.Model) -> None:
    """Add the variables, tables and tensors that layers hold on their own."""
    import tensorflow as tf
    from tensorflow.python.ops.lookup_ops import LookupInterface

    held_variables = {id(x.handle): x for x in graph.variables}
    held_tables = {
        id(x.resource_handle): x
        for x in tf.train.TrackableView(model).descendants()
        if isinstance(x, LookupInterface)
    }
    for value, placeholder in graph.captures:
        name = placeholder.name
        traced.paths[name] = placeholder.op.name
        if id(value) in held_variables:
            traced.variables[name] = held_variables[id(value)].read_value()
        elif id(value) in held_tables:
            traced.tables[name] = _read_table(held_tables[id(value)])
        elif value.dtype == tf.resource:
            raise ValueError(
                "An export may hold weights, constants and lookup tables that are "
                "attributes of layers. Received: another resource of TensorFlow, "
                f"{placeholder.op.name!r}. Remove the layer that uses it"
            )
        else:
            traced.weights[name] = value


def _read_table(table: Any) -> Table:
    import tensorflow as tf

    keys, values = (array.numpy() for array in table.export())
    # The order in a hash table depends on the process.
    order = np.argsort(keys)
    return Table(tf.constant(keys[order]), tf.constant(values[order]))


def _move_large_constants(traced: TracedModel) -> None:
    import tensorflow as tf

    kept = set()
    for node in traced.graph_def.node:
        # A constant with an input, which is a control dependency, belongs to a branch.
        if node.op == "Const" and not node.input and _is_weight(node):
            name = f"{node.name}:0"
            traced.weights[name] = tf.constant(
                tf.make_ndarray(node.attr["value"].tensor)
            )
            traced.paths[name] = node.name
        else:
            kept.add(node.name)
    keep_nodes(traced.graph_def, kept)


def _is_weight(node: Any) -> bool:
    # Integers of an int8 layer are weights, however few.
    import tensorflow as tf

    is_int8 = tf.as_dtype(node.attr["dtype"].type) == tf.qint8
    return is_int8 or node.ByteSize() >= LARGE


def _remove_unused(traced: TracedModel) -> None:
    """Keep only the operations that the outputs depend on, and what they use."""
    stored = (traced.weights, traced.variables, traced.tables)
    given = {*traced.inputs, *(name for values in stored for name in values)}
    used = names_used(traced.graph_def, traced.outputs, given)
    keep_nodes(traced.graph_def, used)
    for values in stored:
        for name in values.keys() - used:
            del values[name]
