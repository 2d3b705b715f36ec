"""Answer TensorFlow Serving's gRPC calls from the servables below.

Knows no TensorFlow and no file format. The only place with status codes.
"""

import atexit
import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import tensors
from serving.servables import (
    DEFAULT_SIGNATURE,
    Servable,
    ServableNotFoundError,
    Servables,
    UnknownLabelError,
)
from serving.signatures import (
    ExecutionError,
    InvalidRequestError,
    SignatureNotFoundError,
    parse_inputs,
)

MAXIMUM_MESSAGE_BYTES = 2**31 - 1
MAXIMUM_DETAIL_BYTES = 1024
HEALTH_NAMES = (
    "",
    "ModelService",
    "PredictionService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)

_CODES = {
    ServableNotFoundError: grpc.StatusCode.NOT_FOUND,
    UnknownLabelError: grpc.StatusCode.INVALID_ARGUMENT,
    SignatureNotFoundError: grpc.StatusCode.FAILED_PRECONDITION,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
}
_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
# A device such as /job:localhost/replica:0 only looks like a path.
_PATH = re.compile(r"(?<![\w.:/])/(?!job:)[\w.@+-][^\s\"',;:(){}]*")

_logger = logging.getLogger(__name__)


class _RefusedError(Exception):
    """A request refused before any servable is asked."""

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code = code


class PredictionServer:
    """Serves the latest version of one model over gRPC.

    Answers `PredictionService` (Predict, GetModelMetadata), `ModelService`
    (GetModelStatus) and `grpc.health.v1`, written to the sources of TensorFlow
    Serving.

    Args:
        directory: Directory of numbered versions, `DIRECTORY/1/saved_model.pb`.
        model_name: Name to serve under; the directory's last part by default.
        host: Address or name of the interface to listen on.
        port: Port to listen on; 0 takes a free one.

    Attributes:
        address: `host:port` that clients reach, known once started.

    Raises:
        ValueError: From `start`: no version that loads, or a port out of range.
        OSError: From `start`: the address cannot be listened on.

    Example:
        ```python
        import tempfile

        import numpy as np
        import tensorflow as tf

        from serving import PredictionClient, PredictionServer

        model = tf.Module()
        model.double = tf.function(
            lambda x: {"y": 2 * x},
            input_signature=[tf.TensorSpec([None], tf.float32, "x")],
            autograph=False,
        )
        with tempfile.TemporaryDirectory() as directory:
            tf.saved_model.save(model, f"{directory}/1", signatures=model.double)
            with PredictionServer(directory, "double", port=0) as server:
                with PredictionClient(server.address, "double") as client:
                    client.predict(np.ones(3, np.float32))["y"]  # [2., 2., 2.]
        ```
    """

    def __init__(
        self,
        directory: str | Path,
        model_name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8500,
    ):
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._port = port
        self._servables = Servables(directory, model_name)
        self._health = health.HealthServicer()
        self._server: grpc.Server | None = None
        self._workers: futures.ThreadPoolExecutor | None = None

    def __enter__(self) -> "PredictionServer":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Load the model, listen, and turn health to SERVING."""
        if self._workers is not None:
            raise RuntimeError(
                "Expected one start for each server. Received: a second one; make a "
                "new PredictionServer."
            )
        self._workers = futures.ThreadPoolExecutor(
            max_workers=max(8, 2 * (os.cpu_count() or 1)),
            thread_name_prefix="predictions",
        )
        self._server = grpc.server(
            self._workers,
            options=[
                # Two servers may share a port by default, and clients' requests.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAXIMUM_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAXIMUM_MESSAGE_BYTES),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(self._servables), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(self._servables), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            # A taken port is told before the model's long load.
            self._listen(self._server)
            self._servables.start()
        except BaseException:
            # gRPC gives a port back only from a server that was started.
            self._server.start()
            self.stop(0)
            raise
        for name in HEALTH_NAMES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        atexit.register(self.stop)  # a forgotten stop must not race the shutdown

    def stop(self, grace: float = 5.0) -> None:
        """Turn health to NOT_SERVING, take no more requests, finish those begun.

        Args:
            grace: Seconds given to requests under way; then they are cancelled.
        """
        atexit.unregister(self.stop)
        self._health.enter_graceful_shutdown()
        if self._server is not None:
            self._server.stop(grace).wait()
        if self._workers is not None:
            self._workers.shutdown()
        self._servables.close()

    def wait(self) -> None:
        """Block until the server has stopped."""
        if self._server is not None:
            self._server.wait_for_termination()

    def _listen(self, server: grpc.Server) -> None:
        if not 0 <= self._port < 2**16:
            raise ValueError(
                "Expected a port from 0 to 65535, 0 for any free one. "
                f"Received: {self._port}; choose one with --port."
            )
        try:
            bound = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise OSError(
                errno.EADDRINUSE,
                "Expected an address free to listen on. Received: "
                f"{self.address}, taken or not of this machine; choose another "
                "port with --port, 0 for any free one.",
            ) from error
        self.address = f"{self.address.rpartition(':')[0]}:{bound}"


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, servables: Servables):
        self._servables = servables

    def Predict(self, request, context):  # noqa: N802 - the protocol's name
        with (
            _statuses(context, self._servables),
            _lent(self._servables, request) as servable,
        ):
            spec = request.model_spec
            signature = servable.signature(spec.signature_name)
            signature.check_names(request.inputs)
            inputs = parse_inputs(request.inputs)
            _check_deadline(context)
            outputs = signature.run(inputs, request.output_filter)
            response = predict_pb2.PredictResponse(
                outputs={
                    alias: tensors.to_typed_fields(array)
                    for alias, array in outputs.items()
                }
            )
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = (
                spec.signature_name or DEFAULT_SIGNATURE
            )
            return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        with _statuses(context, self._servables):
            _check_model_spec(request)
            if not request.metadata_field:
                raise _RefusedError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    "GetModelMetadataRequest must specify at least one metadata_field",
                )
            for field in request.metadata_field:
                if field != "signature_def":
                    raise _RefusedError(
                        grpc.StatusCode.INVALID_ARGUMENT,
                        f"Metadata field {field} is not supported",
                    )
            with _lent(self._servables, request) as servable:
                response = get_model_metadata_pb2.GetModelMetadataResponse()
                response.model_spec.name = request.model_spec.name
                response.model_spec.version.value = servable.version
                response.metadata["signature_def"].Pack(
                    get_model_metadata_pb2.SignatureDefMap(
                        signature_def=servable.signature_definitions
                    )
                )
                return response

    def Classify(self, request, context):  # noqa: N802
        _not_served(context, "Classify")

    def Regress(self, request, context):  # noqa: N802
        _not_served(context, "Regress")

    def MultiInference(self, request, context):  # noqa: N802
        _not_served(context, "MultiInference")


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, servables: Servables):
        self._servables = servables

    def GetModelStatus(self, request, context):  # noqa: N802
        with _statuses(context, self._servables):
            _check_model_spec(request)
            spec = request.model_spec
            found = self._servables.versions(spec.name)
            missing = f"any versions of model {spec.name}"
            if spec.HasField("version"):
                found = [one for one in found if one.version == spec.version.value]
                missing = f"version {spec.version.value} of model {spec.name}"
            if not found:
                raise _RefusedError(
                    grpc.StatusCode.NOT_FOUND, f"Could not find {missing}"
                )
            response = get_model_status_pb2.GetModelStatusResponse()
            for one in found:
                answer = response.model_version_status.add(
                    version=one.version, state=one.state.value
                )
                if one.error is not None:
                    answer.status.error_code = grpc.StatusCode.UNKNOWN.value[0]
                    answer.status.error_message = _public(one.error, self._servables)
            return response

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        _not_served(context, "HandleReloadConfigRequest")


@contextlib.contextmanager
def _statuses(context: grpc.ServicerContext, servables: Servables) -> Iterator[None]:
    """Turn what is raised inside into the status that the client sees."""
    try:
        _check_deadline(context)
        yield
        return
    except _RefusedError as error:
        code, details = error.code, str(error)
    except tuple(_CODES) as error:
        code, details = _CODES[type(error)], str(error)
    except ExecutionError as error:
        # TensorFlow numbers its errors as gRPC does.
        number = getattr(error.__cause__, "error_code", 2)
        code = _CODES_BY_NUMBER[number]
        details = _public(str(error), servables)
    except Exception:
        _logger.exception("A request failed.")
        code = grpc.StatusCode.INTERNAL
        details = "Internal error; the server's log tells its cause."
    context.abort(code, _cut(details))


@contextlib.contextmanager
def _lent(servables: Servables, request) -> Iterator[Servable]:
    _check_model_spec(request)
    spec = request.model_spec
    if not spec.name:
        raise _RefusedError(
            grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."
        )
    version = spec.version.value if spec.HasField("version") else None
    label = spec.version_label if spec.HasField("version_label") else None
    with servables.use(spec.name, version, label) as servable:
        yield servable


def _check_model_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")


def _check_deadline(context: grpc.ServicerContext) -> None:
    """Refuse work whose answer nobody awaits any more."""
    remaining = context.time_remaining()
    if not context.is_active() or (remaining is not None and remaining <= 0):
        raise _RefusedError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "The deadline passed, or the client left, before the model could run.",
        )


def _not_served(context: grpc.ServicerContext, method: str) -> None:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{method} is not served here; Predict, GetModelMetadata and GetModelStatus "
        "are.",
    )


def _public(text: str, servables: Servables) -> str:
    """Take the server's file system out of an error's text."""
    text = text.replace(str(servables.directory), servables.model_name)
    return _PATH.sub("<path>", text)


def _cut(details: str) -> str:
    encoded = details.encode()
    if len(encoded) <= MAXIMUM_DETAIL_BYTES:
        return details
    kept = encoded[:MAXIMUM_DETAIL_BYTES].decode(errors="ignore")
    return f"{kept}...TRUNCATED"
