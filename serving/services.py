"""Answer TensorFlow Serving's gRPC calls from the servables below.

Knows no TensorFlow, no file format and no port. The only place with status codes.
"""

import contextlib
import logging
import re
from collections.abc import Iterator

import grpc
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
)

MAXIMUM_DETAIL_BYTES = 1024

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


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict and GetModelMetadata."""

    def __init__(self, servables: Servables):
        self._servables = servables

    def Predict(self, request, context):  # noqa: N802 - the protocol's name
        """Run one signature of one version."""
        with (
            _statuses(context, self._servables),
            _lent(self._servables, request) as servable,
        ):
            spec = request.model_spec
            signature = servable.signature(spec.signature_name)
            inputs = signature.parse(request.inputs)
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
        """Tell the signatures of one version."""
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
        """Refuse: not built."""
        _not_served(context, "Classify")

    def Regress(self, request, context):  # noqa: N802
        """Refuse: not built."""
        _not_served(context, "Regress")

    def MultiInference(self, request, context):  # noqa: N802
        """Refuse: not built."""
        _not_served(context, "MultiInference")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers GetModelStatus."""

    def __init__(self, servables: Servables):
        self._servables = servables

    def GetModelStatus(self, request, context):  # noqa: N802
        """Tell the states of one version or of all."""
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
        """Refuse: not built."""
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
        code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
        details = str(error)
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
