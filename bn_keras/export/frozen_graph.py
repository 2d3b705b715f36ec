"""Turn a model into a TensorFlow graph without variables and process-wide counters."""

import re
from typing import Any

import keras
from keras import tree

from bn_keras.export.contract import Contract
from bn_keras.export.determinism import refuse_random_and_stateful

# A protobuf message has at most 2 GiB; the rest of the graph is small.
LARGEST_WEIGHTS = 2**31 - 2**26


def freeze_model(
    model: keras.Model, contract: Contract
) -> tuple[Any, list[str], list[str]]:
    """Return the model as a graph without variables, and its input and output names."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    size = sum(variable.value.numpy().nbytes for variable in model.variables)
    if size > LARGEST_WEIGHTS:
        raise ValueError(
            "The weights of an exported model, which become constants of its graph, "
            f"must be at most {LARGEST_WEIGHTS:,} bytes. Received: {size:,} bytes. "
            "Export a smaller model"
        )

    def infer(*tensors: Any) -> list[Any]:
        inputs = tree.pack_sequence_as(contract.structure, tensors)
        return tree.flatten(model(inputs, training=False))

    specs = [tf.TensorSpec(*spec) for spec in contract.inputs.values()]
    traced = tf.function(infer, autograph=False).get_concrete_function(*specs)
    # The graph is searched again at the end. But freezing fails on an operation that
    # assigns to a variable, and its error does not name the layer.
    refuse_random_and_stateful(traced.graph.as_graph_def(), variables=True)
    frozen = convert_variables_to_constants_v2(traced)
    graph_def = frozen.graph.as_graph_def()
    for node in graph_def.node:
        # Colocation constraints may name a constant that is moved out of this graph.
        node.attr.pop("_class", None)
    input_names = [x.name for x in frozen.inputs]
    return graph_def, input_names, [x.name for x in frozen.outputs]


def share_constants(graph_def: Any) -> dict[str, Any]:
    """Move the constants of a graph into the current graph.

    Every signature imports the rest of the graph. If the constants were imported with
    it, the file would hold the weights once for each signature.

    Args:
        graph_def: A `tf.compat.v1.GraphDef`, from which the constants are removed.

    Returns:
        The tensors of the constants in the current graph, by their former names.
    """
    import tensorflow as tf

    constants = tf.compat.v1.GraphDef(versions=graph_def.versions)
    others = []
    # `^name` among a node's inputs is a control dependency: the node runs after that
    # one. An import can replace tensors, but not control dependencies, so a constant
    # must stay if one points to it or if it has any itself.
    controlling = {
        x[1:] for node in graph_def.node for x in node.input if x.startswith("^")
    }
    for node in graph_def.node:
        is_free = node.op == "Const" and not node.input and node.name not in controlling
        (constants.node if is_free else others).append(node)
    # Fields of protobuf messages cannot be assigned, only emptied and extended.
    del graph_def.node[:]
    graph_def.node.extend(others)
    names = [f"{node.name}:0" for node in constants.node]
    # The prefix `weights/` is where `server_files.checksum` finds the constants.
    tensors = tf.graph_util.import_graph_def(
        constants, return_elements=names, name="weights"
    )
    return dict(zip(names, tensors, strict=True))


def _function_counter(function: Any) -> int:
    return int([0, *re.findall(r"\d+", function.signature.name)][-1])


def remove_counters(graph_def: Any) -> None:
    """Rename the functions of a graph, so that equal models give equal bytes.

    TensorFlow ends the name of a function with a counter, which depends on the
    functions that the process has created before.
    """
    functions = graph_def.library.function
    # In order of their counters, the functions of equal models correspond.
    functions.sort(key=_function_counter)
    new_names = {
        function.signature.name: f"function_{number}"
        for number, function in enumerate(functions)
    }
    for function in functions:
        function.signature.name = new_names[function.signature.name]
    nodes = [*graph_def.node, *(node for x in functions for node in x.node_def)]
    for node in nodes:
        for key, attribute in node.attr.items():
            if attribute.HasField("func"):
                name = attribute.func.name
                attribute.func.name = new_names.get(name, name)
            elif key == "metadata":
                # `tf.data` counts its datasets here.
                attribute.s = b""
