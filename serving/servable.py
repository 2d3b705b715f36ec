"""One version of a model, loaded.

Knows no other version, no request and no transport.
"""

import logging
from pathlib import Path

import tensorflow as tf

# The one reader of all forms of saved_model.pb; the public loader keeps the
# tensor names of a signature to itself.
from tensorflow.python.saved_model.loader_impl import parse_saved_model

from serving.batching import batched, can_batch
from serving.configuration import BatchingParameters
from serving.errors import SignatureNotFoundError
from serving.limits import Limits
from serving.signatures import Signature

DEFAULT_SIGNATURE = "serving_default"

_logger = logging.getLogger(__name__)


class Servable:
    """One loaded version of a model, of TensorFlow 1 or 2.

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
        # Variables live as long as the root object only.
        self._root = tf.saved_model.load(str(path), tags=["serve"])
        self.signature_definitions = next(
            dict(graph.signature_def)
            for graph in parse_saved_model(str(path)).meta_graphs
            if "serve" in graph.meta_info_def.tags
        )
        self.signatures = {}
        for name, function in self._root.signatures.items():
            signature = Signature(
                function, self.signature_definitions[name], limits or Limits()
            )
            if batching is not None and can_batch(signature.inputs):
                signature.replace(batched(function, signature.inputs, batching))
            elif batching is not None:
                _logger.info("Signature %s of %s is not batched.", name, path)
            self.signatures[name] = signature
        if not self.signatures:
            raise ValueError(
                "Expected a SavedModel with serving signatures. Received: none; "
                "save it with signatures={'serving_default': ...}."
            )

    def signature(self, name: str = "") -> Signature:
        """Return a signature; without a name, `serving_default`.

        Raises:
            SignatureNotFoundError: The model has none of that name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise SignatureNotFoundError(f'Serving signature key "{name}" not found.')
        return self.signatures[name]
