"""The paths and documents of TensorFlow Serving's REST interface, independent of HTTP.

A method, a path and a body are turned into a request for the dispatcher, and its
response into a document.
"""

import functools
import json
import re
import urllib.parse
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.dispatch.deadline import UNLIMITED, Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.workers import Workers
from bn_keras_serving.rest import json_answers, json_requests
from bn_keras_serving.rest.converters import ConverterPools
from bn_keras_serving.rest.framing import Bytes

# From here on, documents are converted in other processes: a body of so many bytes, an
# answer of so many numbers. Below, Python is busy with one for a millisecond at most.
LARGE_BODY = 2**16
LARGE_ANSWER = 2**13
# From here on, a document can take seconds; shorter ones do not wait for it.
LONG_BODY = 2**22
LONG_ANSWER = 2**19
_BYTES_PER_NUMBER = 64  # of a string that is written as fast as a number
# model_servers/http_server.cc; every other code is 500.
HTTP_STATUSES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}

_VERSION = r"(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_INFERENCE_PATH = re.compile(
    rf"/v1/models/([^/:]+){_VERSION}:(classify|regress|predict)", re.IGNORECASE
)
_INFORMATION_PATH = re.compile(
    rf"/v1/models(?:/([^/:]+))?{_VERSION}(?:/(metadata))?", re.IGNORECASE
)


class Body(NamedTuple):
    """The body of a request as received.

    Attributes:
        parts: Its bytes, which a conversion removes from the list.
        encoding: Its `Content-Encoding`.
        maximum_bytes: Maximum size of the body without its encoding.
    """

    parts: list[Any]
    encoding: str
    maximum_bytes: int

    def may_exceed(self, size: int) -> bool:
        """Return whether the document may have more bytes than that."""
        # A compressed byte can stand for a thousand.
        compressed = self.encoding.lower() != "identity"
        return compressed or sum(map(len, self.parts)) > size


class Target(NamedTuple):
    """What a path refers to; `verb` is "" unless a model is to run."""

    model_name: str
    version: int | None = None
    label: str | None = None
    verb: str = ""
    metadata: bool = False

    def model_spec(self) -> model_pb2.ModelSpec:
        """Return the model and version as a protocol buffer."""
        spec = model_pb2.ModelSpec(name=self.model_name)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec


def parse_path(method: str, path: str) -> Target:
    """Parse a percent-encoded path below `/v1/`.

    Raises:
        InvalidRequestError: If the path and the method do not refer to anything.
    """
    pattern = {"POST": _INFERENCE_PATH, "GET": _INFORMATION_PATH}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise InvalidRequestError(f"Malformed request: {method} {path}")
    name, version, label, suffix = match.groups()
    if name is None:
        raise InvalidRequestError("Missing model name in request.")
    if version is not None and int(version[:20]) >= 2**63:
        raise InvalidRequestError(f"Failed to convert version: {version} to numeric.")
    return Target(
        model_name=_percent_decode(name),
        version=None if version is None else int(version),
        label=None if label is None else _percent_decode(label),
        verb=suffix.lower() if method == "POST" else "",
        metadata=method == "GET" and suffix is not None,
    )


def get_information(
    dispatcher: Dispatcher, target: Target, spec: model_pb2.ModelSpec
) -> bytes:
    """Return the state of a model's versions, or the signatures of one version.

    Args:
        dispatcher: Answers requests.
        target: Whether it is the state or the signatures.
        spec: Model and version. The version that answers is written to it.

    Raises:
        StatusError: If the request cannot be answered.
    """
    if not target.metadata:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        response = dispatcher.answer("GetModelStatus", request)
        return _to_json(_to_dict(response))
    response, signatures = get_metadata(dispatcher, spec)
    spec.CopyFrom(response.model_spec)
    return _to_json(
        {
            "model_spec": _to_dict(response.model_spec),
            "metadata": {"signature_def": _to_dict(signatures)},
        }
    )


async def run_inference(
    dispatcher: Dispatcher,
    workers: Workers,
    converters: ConverterPools,
    verb: str,
    spec: model_pb2.ModelSpec,
    body: Body,
    deadline: Deadline,
) -> Bytes:
    """Run a model on the document of a request.

    Args:
        dispatcher: Answers requests.
        workers: Threads that run models and convert small documents.
        converters: Processes that convert large documents.
        verb: `predict`, `classify` or `regress`.
        spec: Model and version. The version and the signature that answer are written
            to it, as soon as they are known.
        body: The document.
        deadline: Time left for the request.

    Returns:
        The document of the response.

    Raises:
        ServingError: If the document is invalid or no time is left.
        StatusError: If the request cannot be answered.
    """
    decode, run = {
        "predict": (json_requests.decode_predict, _predict),
        "classify": (json_requests.decode_examples, _classify),
        "regress": (json_requests.decode_examples, _regress),
    }[verb]

    def arguments() -> tuple[Any, ...]:
        options = body.encoding, body.maximum_bytes
        if verb != "predict":
            return options
        return *options, dispatcher.input_types(spec)

    def infer(decoded: Any) -> bytes | tuple[Any, ...]:
        deadline.remaining()
        if decoded is None:
            decoded = decode(b"".join(body.parts), *arguments())
        return run(dispatcher, spec, decoded, deadline)

    decoded = None
    if body.may_exceed(LARGE_BODY):
        pool = converters.long if body.may_exceed(LONG_BODY) else converters.short
        decoded = await pool.run(
            decode, await workers.run(arguments), deadline, body.parts
        )
    answer = await workers.run(functools.partial(infer, decoded))
    if isinstance(answer, bytes):
        return answer
    outputs, _ = answer
    is_long = sum(map(_size, outputs.values())) > LONG_ANSWER
    pool = converters.long if is_long else converters.short
    return await pool.run(json_answers.encode_predictions, answer, deadline)


def _predict(
    dispatcher: Dispatcher, spec: model_pb2.ModelSpec, decoded: Any, deadline: Deadline
) -> bytes | tuple[dict[str, np.ndarray], bool]:
    """Return the document, or what it is made from if it will be large."""
    spec.signature_name, (inputs, by_row) = decoded
    outputs = dispatcher.predict_arrays(spec, inputs, deadline)
    if sum(map(_size, outputs.values())) > LARGE_ANSWER:
        return outputs, by_row
    return b"".join(json_answers.encode_predictions(outputs, by_row))


def _classify(
    dispatcher: Dispatcher, spec: model_pb2.ModelSpec, decoded: Any, deadline: Deadline
) -> bytes:
    spec.signature_name, examples = decoded
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    request.input.ParseFromString(examples)
    response = dispatcher.answer("Classify", request, deadline)
    spec.CopyFrom(response.model_spec)
    return json_answers.encode_classifications(response.result)


def _regress(
    dispatcher: Dispatcher, spec: model_pb2.ModelSpec, decoded: Any, deadline: Deadline
) -> bytes:
    spec.signature_name, examples = decoded
    request = regression_pb2.RegressionRequest(model_spec=spec)
    request.input.ParseFromString(examples)
    response = dispatcher.answer("Regress", request, deadline)
    spec.CopyFrom(response.model_spec)
    return json_answers.encode_regressions(response.result)


def _size(array: np.ndarray) -> int:
    """Return about how many numbers take as long to write as an array."""
    if array.dtype != np.object_ or array.size > LARGE_ANSWER:
        return array.size
    return sum(map(len, array.flat)) // _BYTES_PER_NUMBER


def get_metadata(
    dispatcher: Dispatcher, spec: model_pb2.ModelSpec, deadline: Deadline = UNLIMITED
) -> tuple[
    get_model_metadata_pb2.GetModelMetadataResponse,
    get_model_metadata_pb2.SignatureDefMap,
]:
    """Return the response of GetModelMetadata, and the signatures packed in it.

    Raises:
        StatusError: If the request cannot be answered.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=spec, metadata_field=["signature_def"]
    )
    response = dispatcher.answer("GetModelMetadata", request, deadline)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return response, signatures


def _percent_decode(part: str) -> str:
    try:
        return urllib.parse.unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequestError(f"Failed to decode model name:{part}") from None


def _to_dict(message: Message) -> dict[str, Any]:
    """Convert a message as TensorFlow Serving does, without omitting any field."""
    return json_format.MessageToDict(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
    )


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
