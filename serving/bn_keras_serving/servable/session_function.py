"""Execution of a signature in a TensorFlow session."""

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from bn_keras_serving.servable.signature import Function

_MAXIMUM_MILLISECONDS = 2**31 - 1
# TensorFlow prepares an executor for each set of outputs and keeps it, with a copy of
# the constants. Clients choose the set; after this many, all outputs are computed.
MAXIMUM_OUTPUT_SETS = 16


def session_function(
    session: tf.compat.v1.Session, definition: meta_graph_pb2.SignatureDef
) -> Function:
    """Return a function that feeds and fetches the tensors of a signature.

    The function calls the session as TensorFlow Serving does, with the part of
    `tf.compat.v1.Session.run` that is written in C++. The part in Python takes five
    times as long for a small model, and compares shapes with the graph, which may
    accept others. `session.make_callable` does neither, but fixes the time-out when it
    is made.

    Args:
        session: A session with the loaded graph.
        definition: The exported `SignatureDef`.

    Returns:
        A function for a `Signature`. It raises TensorFlow's errors.
    """
    graph = session.graph

    def handle(info: meta_graph_pb2.TensorInfo) -> object:
        return graph.get_tensor_by_name(info.name)._as_tf_output()

    feeds = {name: handle(info) for name, info in definition.inputs.items()}
    fetches = {name: handle(info) for name, info in sorted(definition.outputs.items())}
    names = list(fetches)
    output_sets: set[tuple[str, ...]] = set()
    # `Session.run` does this at each call, in case that the graph has grown.
    session._extend_graph()

    def choose_outputs(requested: list[str]) -> list[str]:
        # In a fixed order, since TensorFlow remembers every order.
        chosen = [name for name in names if name in requested]
        if tuple(chosen) not in output_sets:
            if len(output_sets) >= MAXIMUM_OUTPUT_SETS:
                return names
            output_sets.add(tuple(chosen))
        return chosen

    def function(
        arrays: dict[str, np.ndarray], requested: list[str], seconds: float | None
    ) -> dict[str, np.ndarray]:
        computed = names if requested == names else choose_outputs(requested)
        options = None if seconds is None else _new_options(seconds)
        try:
            results = session._call_tf_sessionrun(
                options,
                {feed: arrays[name] for name, feed in feeds.items()},
                [fetches[name] for name in computed],
                [],
                None,
            )
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)
        outputs = dict(zip(computed, results, strict=True))
        return {name: _to_array(outputs[name]) for name in requested}

    return function


def _new_options(seconds: float) -> pywrap_tf_session.TF_Buffer:
    """Return a buffer with `RunOptions`, which must be deleted."""
    milliseconds = int(min(max(1, 1000 * seconds), _MAXIMUM_MILLISECONDS))
    options = config_pb2.RunOptions(timeout_in_ms=milliseconds)
    return pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())


def _to_array(value: object) -> np.ndarray:
    # A session returns scalars as plain NumPy values, and those of strings as bytes.
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value, np.object_ if isinstance(value, bytes) else None)
