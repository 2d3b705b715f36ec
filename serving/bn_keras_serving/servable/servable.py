"""A loaded version of a model."""

import gc
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

# This is tf.compat.v1.saved_model.loader.load without its deprecation warning.
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from bn_keras_serving.common.errors import SignatureNotFoundError
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.common.messages import DEFAULT_SIGNATURE
from bn_keras_serving.configuration import BatchingParameters, session_config
from bn_keras_serving.configuration.settings import Loading
from bn_keras_serving.servable.batching import batch_function, can_batch
from bn_keras_serving.servable.graph_scan import GraphScan
from bn_keras_serving.servable.memory import release_memory
from bn_keras_serving.servable.session_function import session_function
from bn_keras_serving.servable.signature import Signature

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
            first axis of unknown size. The shapes of a batched signature's inputs are
            always checked, since requests share a batch.
        limits: Limits on the inputs of a request; defaults to `Limits()`.
        loading: How the model is loaded and run; defaults to `Loading()`.

    Attributes:
        version: Number of the version.
        signatures: Signature name to `Signature`.
        signature_definitions: Signature name to the exported `SignatureDef`, including
            TensorFlow's internal ones.
        input_types: Signature name to input name to the `DataType` that the signature
            declares, for all of `signature_definitions`.

    Raises:
        ValueError: If the SavedModel has no signature that can be served, or a
            signature uses files, or could abort the process since an input has no rank,
            and `loading` does not allow it. Errors that TensorFlow raises while reading
            the SavedModel are passed on.
    """

    def __init__(
        self,
        version: int,
        path: Path,
        batching: BatchingParameters | None = None,
        limits: Limits | None = None,
        loading: Loading | None = None,
    ):
        loading = loading or Loading()
        tags = list(loading.tags)
        self.version = version
        self._root = self._session = None
        loader = SavedModelLoader(str(path))
        meta_graph = loader.get_meta_graph_def_from_tags(tags)
        assert meta_graph is not None
        # Copy each definition: a reference to a part of a message keeps the whole
        # message in memory, the weights included.
        self.signature_definitions: dict[str, meta_graph_pb2.SignatureDef] = {
            name: meta_graph_pb2.SignatureDef.FromString(definition.SerializeToString())
            for name, definition in meta_graph.signature_def.items()
        }
        self.input_types: dict[str, dict[str, int]] = {
            name: {alias: info.dtype for alias, info in definition.inputs.items()}
            for name, definition in self.signature_definitions.items()
        }
        self.signatures: dict[str, Signature] = {}
        batched, unbatched = [], []
        scan = GraphScan(meta_graph)
        for name, definition in self.signature_definitions.items():
            if not _can_serve(name, definition):
                continue
            if not loading.allow_file_operations:
                _refuse_file_operations(scan, name, definition)
            types = scan.graph_types(definition)
            signature = Signature(definition, limits, types)
            if batching is not None and can_batch(signature.inputs):
                batched.append(name)
            else:
                unbatched.append(name)
                unchecked = set(definition.inputs)
                if loading.shape_checks != "off":
                    unsafe = scan.unsafe_inputs(definition)
                    _refuse_unknown_ranks(scan, name, signature, unsafe)
                    unchecked -= unsafe
                if loading.shape_checks == "strict":
                    unchecked.clear()
                signature = Signature(definition, limits, types, unchecked)
            self.signatures[name] = signature
        del scan, meta_graph
        if not self.signatures:
            raise ValueError(
                "A SavedModel must have at least one serving signature. Received: a "
                "SavedModel without any. Save the model with "
                "signatures={'serving_default': ...}."
            )
        if batching is not None and unbatched:
            names = ", ".join(unbatched)
            _logger.info("Signatures that cannot be batched at %s: %s.", path, names)
        if batching is not None and batched:
            self._load_functions(path, batched, batching, loading)
        if unbatched:
            self._session = _Session(graph=tf.Graph(), config=session_config(loading))
            loader.load(self._session, tags)
            for name in unbatched:
                self.signatures[name].function = session_function(
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
        release_memory()

    def signature(self, name: str = "") -> Signature:
        """Return a signature; `serving_default` if the name is empty.

        Raises:
            SignatureNotFoundError: If the model has no signature of that name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise SignatureNotFoundError(f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    def _load_functions(
        self,
        path: Path,
        names: list[str],
        batching: BatchingParameters,
        loading: Loading,
    ) -> None:
        """Load the model as functions, and batch the calls of some signatures."""
        _set_process_threads(loading)
        # Keep the root object: the variables live only as long as it does.
        self._root = tf.saved_model.load(str(path), tags=list(loading.tags))
        for name in names:
            signature = self.signatures[name]
            signature.function = batch_function(
                self._root.signatures[name], signature.inputs, batching
            )


class _Session(tf.compat.v1.Session):
    """A session whose errors are those of TensorFlow's C++ code.

    TensorFlow searches their texts for names of nodes. With the text about a damaged
    graph, which quotes it, that takes minutes, and no other thread runs meanwhile.
    """

    def _do_call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)


def _set_process_threads(loading: Loading) -> None:
    """Set the threads of functions, which all functions of the process share."""
    threading = tf.config.threading
    try:
        if loading.intra_op_threads:
            threading.set_intra_op_parallelism_threads(loading.intra_op_threads)
        if loading.inter_op_threads:
            threading.set_inter_op_parallelism_threads(loading.inter_op_threads)
    except RuntimeError:
        _logger.warning(
            "The threads of batched signatures cannot be changed any more, because "
            "this process has run TensorFlow already."
        )


def _refuse_file_operations(
    scan: GraphScan, name: str, definition: meta_graph_pb2.SignatureDef
) -> None:
    """Check that a signature uses no files.

    Raises:
        ValueError: If it does.
    """
    found = scan.file_operation(definition)
    if found is not None:
        raise ValueError(
            "A served signature must not use files or sockets, or run Python, since "
            f"every client could do so through it. Received: signature {name!r} with "
            f"the operation {found.operation} (node {found.node!r}). If you trust the "
            "model and its clients, start the server with --allow_file_operations or "
            "Loading(allow_file_operations=True)."
        )


def _refuse_unknown_ranks(
    scan: GraphScan, name: str, signature: Signature, unsafe: Iterable[str]
) -> None:
    """Check that the inputs whose shapes must be checked declare one.

    Strings, of which many models declare no shape, are left out: parsers of examples
    and decoders check them.

    Raises:
        ValueError: If one declares none.
    """
    for alias in sorted(unsafe):
        spec = signature.inputs[alias]
        if spec.shape.rank is None and spec.dtype != tf.string:
            raise ValueError(
                "A served signature must declare the rank of its inputs if a wrong one "
                f"would end the server. Received: signature {name!r} with the input "
                f"{alias!r} of unknown rank and the operation "
                f"{scan.aborting_operation(signature.definition)}. Export it with a "
                "shape, or check it in the model by tf.ensure_shape. If you trust the "
                "clients, start the server with --shape_checks=off."
            )


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
