"""Reject models whose outputs depend on more than their inputs."""

import inspect
import re
from collections.abc import Iterable
from typing import Any

import keras

from bn_keras.export.graph_definitions import names_used
from bn_keras.keras_graph import read_graph

_RANDOM = re.compile(
    "Random|Multinomial|TruncatedNormal|Shuffle|CandidateSampler|Skipgram"
    "|SampleDistorted|Rng|Bernoulli|Dropout"
)
# Operations that read a variable or a table. Those that change one are others.
_READING = {
    "HashTableV2",
    "LookupTableFindV2",
    "LookupTableSizeV2",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VarHandleOp",
}
# Operations that call functions of the graph; the functions are searched as well.
_CALLS = {"StatefulPartitionedCall", "If", "While", "Case", "Assert"}
# TensorFlow calls the sources of `tf.data` pipelines stateful only to exempt them from
# constant folding. They have no state.
_DECODING = {
    "DatasetToSingleElement",
    "RangeDataset",
    "TensorDataset",
    "TensorSliceDataset",
}


def refuse_training_mode(model: keras.Model) -> None:
    """Raise an error for a layer that is called with `training=True`.

    `model.predict(x)` ignores that argument and `model(x)` does not, so it is unclear
    which output an export should have. Layers with `training=True` as the default of
    their `call`, such as Keras' random augmentations, are accepted: they do nothing in
    `predict` and in an export.

    Args:
        model: A Functional or Sequential model.

    Raises:
        ValueError: If a layer is called with `training=True`. The message names it.
    """
    for call in read_graph(model).calls:
        if call.training is True and not _trains_by_default(call.operation):
            raise ValueError(
                "An export must always give the same outputs for the same inputs. "
                f"Received: {call.label!r} ({type(call.operation).__name__}), called "
                "with training=True. Call every layer without `training=True`"
            )


def _trains_by_default(operation: keras.Operation) -> bool:
    # Keras records the default value as if the caller had passed it.
    parameters = inspect.signature(operation.call).parameters
    return "training" in parameters and parameters["training"].default is True


def refuse_random_and_stateful(graph_def: Any, outputs: Iterable[str]) -> None:
    """Raise an error for an operation whose result depends on more than its inputs.

    Args:
        graph_def: A `tf.compat.v1.GraphDef`.
        outputs: The names of the tensors that are computed. Operations that they do not
            depend on are not looked at, except those inside of functions.

    Raises:
        ValueError: If there is a random or stateful operation, or one that uses
            statistics of the batch. The message names the operation and the layer.
    """
    from tensorflow.python.framework import op_def_registry

    used = names_used(graph_def, outputs)
    functions = graph_def.library.function
    nodes = [
        *(node for node in graph_def.node if node.name in used),
        *(node for function in functions for node in function.node_def),
    ]
    for node in nodes:
        problem = None
        if _RANDOM.search(node.op):
            problem = "a random operation"
        elif "BatchNorm" in node.op and _is_training(node):
            problem = "an operation with statistics of the batch"
        elif node.op not in _CALLS | _READING | _DECODING:
            # Functions of the graph are not in the registry of operations.
            definition = op_def_registry.get(node.op)
            if definition is not None and definition.is_stateful:
                problem = "a stateful operation"
        if problem:
            raise ValueError(
                "An export must always give the same outputs for the same inputs. "
                f"Received: {problem}, {node.op}, in {node.name!r}. Remove that layer"
            )


def _is_training(node: Any) -> bool:
    return "is_training" not in node.attr or node.attr["is_training"].b
