"""Evaluate the parts of a graph that depend on weights alone."""

from collections.abc import Iterable
from typing import Any

from bn_keras.export.graph_definitions import tensor_name


def evaluate_weight_expressions(
    graph: Any,
    graph_def: Any,
    weights: dict[str, Any],
    outputs: Iterable[str],
) -> dict[str, Any]:
    """Return the values of the tensors that depend on weights alone.

    A layer in float16 casts its float32 weights in every call. TensorFlow folds such
    expressions of constants when it loads a graph, but not those of variables.
    Expressions that are larger than the weights in them are left to be computed.

    Args:
        graph: The `tf.Graph` of the model.
        graph_def: The same as a `tf.compat.v1.GraphDef`.
        weights: The value of each weight, by the name of its tensor.
        outputs: The names of the tensors that the model returns.

    Returns:
        The eager tensors that replace expressions, by the name of the tensor.
    """
    import tensorflow as tf

    outputs = set(outputs)
    sizes = {name: _bytes(value) for name, value in weights.items()}
    constants = {
        f"{node.name}:0": node
        for node in graph_def.node
        if node.op == "Const" and not node.input
    }
    evaluated: list[str] = []
    # The weights and constants in expressions, and what the other operations read.
    used: set[str] = set()
    needed: set[str] = set()
    expressions = tf.compat.v1.GraphDef(versions=graph_def.versions)
    for node in graph_def.node:
        inputs = [tensor_name(x) for x in node.input]
        results = graph.get_operation_by_name(node.name).outputs
        names = [tensor.name for tensor in results]
        if (
            any(x in sizes for x in inputs)
            and all(x in sizes or x in constants for x in inputs)
            and outputs.isdisjoint(names)
            and _is_pure(node)
            and all(x.shape.is_fully_defined() and x.dtype.size for x in results)
            and sum(map(_bytes, results)) <= sum(sizes.get(x, 0) for x in inputs)
        ):
            sizes.update((x.name, _bytes(x)) for x in results)
            evaluated += names
            used.update(inputs)
            expressions.node.append(node)
        else:
            # The others read the results, so these become weights.
            needed.update(inputs)
    names = [name for name in evaluated if name in needed]
    if not names:
        return {}
    expressions.node.extend(node for name, node in constants.items() if name in used)
    arguments = {name: value for name, value in weights.items() if name in used}

    def compute(*values: Any) -> list[Any]:
        mapping = dict(zip(arguments, values, strict=True))
        return tf.graph_util.import_graph_def(expressions, mapping, names)

    results = tf.function(compute, autograph=False)(*arguments.values())
    return dict(zip(names, results, strict=True))


def _is_pure(node: Any) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(node.op)
    return (
        definition is not None
        and not definition.is_stateful
        and not any(x.HasField("func") for x in node.attr.values())
    )


def _bytes(tensor: Any) -> int:
    return tensor.shape.num_elements() * tensor.dtype.size
