"""What a graph that answers the same whenever it is asked must not hold.

Knows TensorFlow's operations by name and how layers were called; not how a graph came
about.
"""

import inspect
import re

from bn_keras.keras_graph import read_graph

_RANDOM = re.compile(
    "Random|Multinomial|TruncatedNormal|Shuffle|CandidateSampler|Skipgram"
    "|SampleDistorted|Rng|Bernoulli|Dropout"
)
# Reads of a variable, and calls of functions that are scanned themselves.
_VARIABLES = {"VarHandleOp", "ReadVariableOp", "ResourceGather", "ResourceGatherNd"}
_CALLS = {"StatefulPartitionedCall", "If", "While", "Case", "Assert"}
# TensorFlow calls the sources of its pipelines stateful to keep them from being
# constant-folded; they have no state.
_DECODING = {
    "DatasetToSingleElement",
    "RangeDataset",
    "TensorDataset",
    "TensorSliceDataset",
}


def refuse_training_mode(model):
    """Raise for a layer that was called with `training=True`.

    `predict` would overrule it, `model(x)` would not: which one is meant is not known.
    Layers that train unless told otherwise, as Keras' random augmentations do, are
    idle in `predict` and in an export.

    Args:
        model: a Functional or Sequential `keras.Model`.

    Raises:
        ValueError: that names the layer.
    """
    for call in read_graph(model).calls:
        if call.training is True and not _trains_by_default(call.operation):
            raise ValueError(
                "An export must answer the same whenever it is asked: call every layer "
                f"without `training=True`. Received: {call.label!r} "
                f"({type(call.operation).__name__}), called with training=True"
            )


def _trains_by_default(operation):
    # Keras records a default as if it had been given.
    parameters = inspect.signature(operation.call).parameters
    return "training" in parameters and parameters["training"].default is True


def refuse_random_and_stateful(graph_def, variables=False, decoding=False):
    """Raise for an operation whose answer depends on more than its inputs.

    Args:
        graph_def: a `GraphDef`.
        variables: whether variables may be read, before they are frozen.
        decoding: whether a tf.data pipeline may stand in it.

    Raises:
        ValueError: that names the operation and the layer.
    """
    from tensorflow.python.framework import op_def_registry

    allowed = _CALLS | (_VARIABLES if variables else set())
    allowed |= _DECODING if decoding else set()
    functions = graph_def.library.function
    nodes = [*graph_def.node, *(node for one in functions for node in one.node_def)]
    for node in nodes:
        found = None
        if _RANDOM.search(node.op):
            found = "a random operation"
        elif "BatchNorm" in node.op and _trains(node):
            found = "statistics of the batch"
        elif node.op not in allowed:
            definition = op_def_registry.get(node.op)
            if definition is not None and definition.is_stateful:
                found = "a stateful operation"
        if found:
            raise ValueError(
                "An export must answer the same whenever it is asked: take out the "
                f"layer that does not. Received: {found}, {node.op}, in {node.name!r}"
            )


def _trains(node):
    return "is_training" not in node.attr or node.attr["is_training"].b
