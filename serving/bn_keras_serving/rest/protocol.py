"""The paths and documents of TensorFlow Serving's REST interface, independent of HTTP.

A method, a path and a body are turned into a request for the dispatcher, and its
response into a document.
"""

import json
import re
import urllib.parse
import zlib
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.dispatch.deadline import UNLIMITED, Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.rest import json_answers, json_examples, json_tensors, json_text
from bn_keras_serving.servable.signature import DEFAULT_SIGNATURE

# A compressed body of a few bytes can expand to any size.
MAXIMUM_DECOMPRESSED = 2**26
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
_REQUEST_CLASSES = {
    "predict": predict_pb2.PredictRequest,
    "classify": classification_pb2.ClassificationRequest,
    "regress": regression_pb2.RegressionRequest,
}


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


def decompress(body: bytes, encoding: str, maximum_bytes: int) -> bytes:
    """Return a body without its `Content-Encoding`.

    Args:
        body: The body as received.
        encoding: `identity` or `gzip`.
        maximum_bytes: Maximum size of the decompressed body; `MAXIMUM_DECOMPRESSED`
            applies as well.

    Raises:
        InvalidRequestError: If the encoding is not supported, or the body is damaged or
            too long.
    """
    if encoding.lower() == "identity":
        return body
    if encoding.lower() != "gzip":
        raise InvalidRequestError(
            "The Content-Encoding of a body must be gzip or identity. Received: "
            f"{encoding[:20]!r}. Send the body uncompressed."
        )
    limit = min(maximum_bytes, MAXIMUM_DECOMPRESSED)
    gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        decompressed = gzip.decompress(body, limit)
    except zlib.error:
        decompressed = None
    # If the input ends before the gzip stream does, the body has been cut off.
    if decompressed is None or not (gzip.eof or gzip.unconsumed_tail):
        raise InvalidRequestError(
            "A body with Content-Encoding: gzip must be in gzip format. Received: "
            "other bytes. Send the body uncompressed."
        )
    if not gzip.eof:
        raise InvalidRequestError(
            f"A compressed body must contain at most {limit} bytes. Received: more. "
            "Send the body uncompressed."
        )
    return decompressed


def get_information(dispatcher: Dispatcher, target: Target) -> bytes:
    """Return the state of a model's versions, or the signatures of one version.

    Raises:
        StatusError: If the request cannot be answered.
    """
    if not target.metadata:
        request = get_model_status_pb2.GetModelStatusRequest(
            model_spec=target.model_spec()
        )
        response = dispatcher.answer("GetModelStatus", request)
        return _to_json(_to_dict(response))
    response, signatures = get_metadata(dispatcher, target)
    return _to_json(
        {
            "model_spec": _to_dict(response.model_spec),
            "metadata": {"signature_def": _to_dict(signatures)},
        }
    )


def run_inference(
    dispatcher: Dispatcher, target: Target, body: bytes, deadline: Deadline
) -> bytes:
    """Run a model on the document of a request.

    Args:
        dispatcher: Answers requests.
        target: Model, version and verb.
        body: The document.
        deadline: Time left for the request.

    Returns:
        The document of the response.

    Raises:
        ServingError: If the document is invalid or no time is left.
        StatusError: If the request cannot be answered.
    """
    # Parsing a large document takes long; do not start it for nothing.
    deadline.remaining()
    document = json_text.parse(body)
    request = _REQUEST_CLASSES[target.verb](model_spec=target.model_spec())
    name = json_tensors.signature_name(document)
    request.model_spec.signature_name = name
    if target.verb == "predict":
        _, signatures = get_metadata(dispatcher, target, deadline)
        infos = _input_infos(signatures, name or DEFAULT_SIGNATURE)
        tensors, by_row = json_tensors.decode_inputs(document, infos)
        for alias, tensor in tensors.items():
            request.inputs[alias].CopyFrom(tensor)
        response = dispatcher.answer("Predict", request, deadline)
        return json_answers.encode_predictions(response.outputs, by_row)
    request.input.CopyFrom(json_examples.decode_examples(document))
    if target.verb == "classify":
        response = dispatcher.answer("Classify", request, deadline)
        return json_answers.encode_classifications(response.result)
    response = dispatcher.answer("Regress", request, deadline)
    return json_answers.encode_regressions(response.result)


def get_metadata(
    dispatcher: Dispatcher, target: Target, deadline: Deadline = UNLIMITED
) -> tuple[
    get_model_metadata_pb2.GetModelMetadataResponse,
    get_model_metadata_pb2.SignatureDefMap,
]:
    """Return the response of GetModelMetadata, and the signatures packed in it.

    Raises:
        StatusError: If the request cannot be answered.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=target.model_spec(), metadata_field=["signature_def"]
    )
    response = dispatcher.answer("GetModelMetadata", request, deadline)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return response, signatures


def _input_infos(
    signatures: get_model_metadata_pb2.SignatureDefMap, name: str
) -> json_tensors.TensorInfos:
    if name not in signatures.signature_def:
        raise InvalidRequestError(
            f'Serving signature name: "{name}" not found in signature def'
        )
    infos = signatures.signature_def[name].inputs
    if not infos:
        raise InvalidRequestError(f"Failed to get input map for signature: {name}")
    return infos


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
