"""A loaded version of a model."""

import gc
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

# This is tf.compat.v1.saved_model.loader.load without its deprecation warning.
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from bn_keras_serving.common.errors import SignatureNotFoundError
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.configuration import BatchingParameters
from bn_keras_serving.servable.batching import batch_function, can_batch
from bn_keras_serving.servable.signature import DEFAULT_SIGNATURE, Function, Signature

TAGS = ["serve"]

_logger = logging.getLogger(__name__)


class Servable:
    """One loaded version of a model, saved by TensorFlow 1 or 2.

    The model is loaded into a session, as in TensorFlow Serving: all signatures share
    one graph, which takes less memory than the functions of `tf.saved_model.load`, and
    a deadline can interrupt a run. The batching kernel runs functions only, so with
    batching the model is loaded as functions; if one of its signatures cannot be
    batched, it is loaded both ways.

    Args:
        version: Number of the version.
        path: Directory of the version, which contains `saved_model.pb`.
        batching: How concurrent requests are combined into batches; None runs each
            request on its own. A signature is not batched if one of its inputs lacks a
            first axis of unknown size.
        limits: Limits on the inputs of a request; defaults to `Limits()`.

    Attributes:
        version: Number of the version.
        signatures: Signature name to `Signature`.
        signature_definitions: Signature name to the exported `SignatureDef`, including
            TensorFlow's internal ones.

    Raises:
        ValueError: If the SavedModel has no signature that can be served. Errors that
            TensorFlow raises while reading the SavedModel are passed on.
    """

    def __init__(
        self,
        version: int,
        path: Path,
        batching: BatchingParameters | None = None,
        limits: Limits | None = None,
    ):
        self.version = version
        self._root = self._session = None
        loader = SavedModelLoader(str(path))
        meta_graph = loader.get_meta_graph_def_from_tags(TAGS)
        # Copy each definition: a reference to a part of a message keeps the whole
        # message in memory, the weights included.
        self.signature_definitions: dict[str, meta_graph_pb2.SignatureDef] = {
            name: meta_graph_pb2.SignatureDef.FromString(definition.SerializeToString())
            for name, definition in meta_graph.signature_def.items()
        }
        self.signatures: dict[str, Signature] = {
            name: Signature(definition, limits or Limits())
            for name, definition in self.signature_definitions.items()
            if _can_serve(name, definition)
        }
        if not self.signatures:
            raise ValueError(
                "A SavedModel must have at least one serving signature. Received: a "
                "SavedModel without any. Save the model with "
                "signatures={'serving_default': ...}."
            )
        batched, unbatched = [], []
        for name, signature in self.signatures.items():
            if batching is not None and can_batch(signature.inputs):
                batched.append(name)
            else:
                unbatched.append(name)
        if batching is not None and unbatched:
            names = ", ".join(unbatched)
            _logger.info("Signatures that cannot be batched at %s: %s.", path, names)
        if batching is not None and batched:
            # Keep the root object: the variables live only as long as it does.
            self._root = tf.saved_model.load(str(path), tags=TAGS)
            for name in batched:
                signature = self.signatures[name]
                signature.function = batch_function(
                    self._root.signatures[name], signature.inputs, batching
                )
        if unbatched:
            self._session = tf.compat.v1.Session(
                graph=tf.Graph(),
                config=tf.compat.v1.ConfigProto(allow_soft_placement=True),
            )
            loader.load(self._session, TAGS)
            for name in unbatched:
                self.signatures[name].function = _session_function(
                    self._session, self.signature_definitions[name]
                )

    def close(self) -> None:
        """Release the model. It must not be used afterwards.

        This runs Python's garbage collector, which visits every object of the process,
        TensorFlow's included, and stops all other threads meanwhile. A program that
        only serves should call `gc.freeze` before it loads a model.
        """
        self.signatures = {}
        if self._session is not None:
            self._session.close()
            self._session = None
        self._root = None
        gc.collect()  # a loaded model is full of reference cycles

    def signature(self, name: str = "") -> Signature:
        """Return a signature; `serving_default` if the name is empty.

        Raises:
            SignatureNotFoundError: If the model has no signature of that name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise SignatureNotFoundError(f'Serving signature key "{name}" not found.')
        return self.signatures[name]


def _can_serve(name: str, definition: meta_graph_pb2.SignatureDef) -> bool:
    """Return whether a signature is not TensorFlow's own and has only dense tensors."""
    infos: Iterable[meta_graph_pb2.TensorInfo] = [
        *definition.inputs.values(),
        *definition.outputs.values(),
    ]
    if name.startswith("__saved_model") or not definition.outputs:
        return False
    if all(info.WhichOneof("encoding") == "name" for info in infos):
        return True
    _logger.warning(
        "Signature %s is not served: only dense tensors are supported.", name
    )
    return False


def _session_function(
    session: tf.compat.v1.Session, definition: meta_graph_pb2.SignatureDef
) -> Function:
    """Return a function that feeds and fetches the tensors of a signature by name."""
    inputs, outputs = sorted(definition.inputs), sorted(definition.outputs)
    feeds = [definition.inputs[name].name for name in inputs]
    fetches = {name: definition.outputs[name].name for name in outputs}
    # Prepared once: it skips most of the work that `Session.run` does per call.
    run_all = session.make_callable(
        list(fetches.values()), feed_list=feeds, accept_options=True
    )

    def function(
        arrays: dict[str, np.ndarray], requested: list[str], seconds: float | None
    ) -> dict[str, np.ndarray]:
        options = None
        if seconds is not None:
            milliseconds = int(min(max(1, 1000 * seconds), 2**31 - 1))
            options = tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)
        values = [arrays[name] for name in inputs]
        if requested == outputs:
            results = run_all(*values, options=options)
        else:  # compute only what was requested
            results = session.run(
                [fetches[name] for name in requested],
                dict(zip(feeds, values, strict=True)),
                options=options,
            )
        return {
            # A session returns scalars as plain Python or NumPy values.
            name: np.asarray(value, object)
            if isinstance(value, bytes)
            else np.asarray(value)
            for name, value in zip(requested, results, strict=True)
        }

    return function
