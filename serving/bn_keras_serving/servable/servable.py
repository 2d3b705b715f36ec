"""One version of a model, loaded.

Knows no other version, no request and no transport.
"""

import gc
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

# tf.compat.v1.saved_model.loader.load without its note that it is old.
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from bn_keras_serving.common.errors import SignatureNotFoundError
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.configuration import BatchingParameters
from bn_keras_serving.servable.batching import batched, can_batch
from bn_keras_serving.servable.signature import DEFAULT_SIGNATURE, Function, Signature

TAGS = ["serve"]

_logger = logging.getLogger(__name__)


class Servable:
    """One loaded version of a model, of TensorFlow 1 or 2.

    It is loaded into a session, as TensorFlow Serving does: the signatures share one
    graph, with less memory than functions of `tf.saved_model.load` take, and a deadline
    ends a run. The kernel that gathers batches runs functions only, so for signatures
    in batches the model is loaded as functions, and as both where one of its signatures
    cannot be batched.

    Args:
        version: Its number.
        path: Its directory, with `saved_model.pb` in it.
        batching: How requests are gathered into batches; None for each by itself. A
            signature with an input that has no first axis of any size is not batched.
        limits: Caps on what a request may hold.

    Attributes:
        version: Its number.
        signatures: Signature name to `Signature`.
        signature_definitions: Signature name to `SignatureDef`, as exported;
            TensorFlow's internal ones are among them.

    Raises:
        ValueError: The SavedModel has no serving signature. What TensorFlow
            raises for a SavedModel it cannot read is passed on.
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
        # Copies: a part of a message keeps the whole of it, the weights too.
        self.signature_definitions = {
            name: meta_graph_pb2.SignatureDef.FromString(one.SerializeToString())
            for name, one in meta_graph.signature_def.items()
        }
        self.signatures = {
            name: Signature(definition, limits or Limits())
            for name, definition in self.signature_definitions.items()
            if _can_serve(name, definition)
        }
        if not self.signatures:
            raise ValueError(
                "Expected a SavedModel with serving signatures. Received: none; "
                "save it with signatures={'serving_default': ...}."
            )
        in_batches, alone = [], []
        for name, signature in self.signatures.items():
            if batching is not None and can_batch(signature.inputs):
                in_batches.append(name)
            else:
                alone.append(name)
        if batching is not None and alone:
            _logger.info("Not batched at %s: %s.", path, ", ".join(alone))
        if batching is not None and in_batches:
            # Variables live as long as the root object only.
            self._root = tf.saved_model.load(str(path), tags=TAGS)
            for name in in_batches:
                signature = self.signatures[name]
                signature.function = batched(
                    self._root.signatures[name], signature.inputs, batching
                )
        if alone:
            self._session = tf.compat.v1.Session(
                graph=tf.Graph(),
                config=tf.compat.v1.ConfigProto(allow_soft_placement=True),
            )
            loader.load(self._session, TAGS)
            for name in alone:
                self.signatures[name].function = _in_session(
                    self._session, self.signature_definitions[name]
                )

    def close(self) -> None:
        """Let go of the model; nothing may use it any more.

        Python's collector then looks at all objects of the process, TensorFlow's too,
        while nothing else runs: a program that only serves calls `gc.freeze` before it
        loads.
        """
        self.signatures = {}
        if self._session is not None:
            self._session.close()
            self._session = None
        self._root = None
        gc.collect()  # what was loaded is full of reference cycles

    def signature(self, name: str = "") -> Signature:
        """Return a signature; without a name, `serving_default`.

        Raises:
            SignatureNotFoundError: The model has none of that name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise SignatureNotFoundError(f'Serving signature key "{name}" not found.')
        return self.signatures[name]


def _can_serve(name: str, definition: meta_graph_pb2.SignatureDef) -> bool:
    """Tell a signature of tensors from TensorFlow's own and from those of others."""
    infos: Iterable = [*definition.inputs.values(), *definition.outputs.values()]
    if name.startswith("__saved_model") or not definition.outputs:
        return False
    if all(info.WhichOneof("encoding") == "name" for info in infos):
        return True
    _logger.warning("Signature %s is not served: it has sparse or other tensors.", name)
    return False


def _in_session(
    session: tf.compat.v1.Session, definition: meta_graph_pb2.SignatureDef
) -> Function:
    """Make a function of a signature, its tensors fed and fetched by name."""
    inputs, outputs = sorted(definition.inputs), sorted(definition.outputs)
    feeds = [definition.inputs[name].name for name in inputs]
    fetches = {name: definition.outputs[name].name for name in outputs}
    run_all = session.make_callable(
        list(fetches.values()), feed_list=feeds, accept_options=True
    )

    def function(
        arrays: dict[str, np.ndarray], wanted: list[str], seconds: float | None
    ) -> dict[str, np.ndarray]:
        options = None
        if seconds is not None:
            milliseconds = int(min(max(1, 1000 * seconds), 2**31 - 1))
            options = tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)
        values = [arrays[name] for name in inputs]
        if wanted == outputs:
            results = run_all(*values, options=options)
        else:  # what is not wanted is not computed
            results = session.run(
                [fetches[name] for name in wanted],
                dict(zip(feeds, values, strict=True)),
                options=options,
            )
        return {
            # A session turns scalars into numbers.
            name: np.asarray(value, object)
            if isinstance(value, bytes)
            else np.asarray(value)
            for name, value in zip(wanted, results, strict=True)
        }

    return function
