"""What the paths and documents of TensorFlow Serving's REST form ask for.

Knows no socket: a method, a path and a body in, a document out.
"""

import functools
import json
import re
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.dispatch.dispatcher import Inference
from bn_keras_serving.dispatch.handlers import Check
from bn_keras_serving.rest import json_answers, json_examples, json_tensors, json_text
from bn_keras_serving.servable.signature import DEFAULT_SIGNATURE

# model_servers/http_server.cc; what is not here is 500.
# A few bytes can claim any number of them.
MAXIMUM_DECOMPRESSED = 2**26
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

_WHICH = r"(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_PREDICTION = re.compile(
    rf"/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)", re.IGNORECASE
)
_INFORMATION = re.compile(
    rf"/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?", re.IGNORECASE
)
_REQUESTS = {
    "predict": predict_pb2.PredictRequest,
    "classify": classification_pb2.ClassificationRequest,
    "regress": regression_pb2.RegressionRequest,
}


class Target(NamedTuple):
    """What a path asks for: `verb` is "" unless a model is to run."""

    model_name: str
    version: int | None = None
    label: str | None = None
    verb: str = ""
    metadata: bool = False

    def model_spec(self) -> model_pb2.ModelSpec:
        """Return it as a protocol buffer."""
        spec = model_pb2.ModelSpec(name=self.model_name)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec


def target(method: str, path: str) -> Target:
    """Read a path below `/v1/`, percent-encoded.

    Raises:
        InvalidRequestError: Nothing is asked for by that path and method.
    """
    pattern = {"POST": _PREDICTION, "GET": _INFORMATION}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise InvalidRequestError(f"Malformed request: {method} {path}")
    name, version, label, what = match.groups()
    if name is None:
        raise InvalidRequestError("Missing model name in request.")
    if version is not None and int(version[:20]) >= 2**63:
        raise InvalidRequestError(f"Failed to convert version: {version} to numeric.")
    return Target(
        model_name=_decoded(name),
        version=None if version is None else int(version),
        label=None if label is None else _decoded(label),
        verb=what.lower() if method == "POST" else "",
        metadata=method == "GET" and what is not None,
    )


def decompressed(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body as it was before its `Content-Encoding`.

    Args:
        body: As received.
        encoding: `identity` or `gzip`.
        most: Bytes that it may have; and `MAXIMUM_DECOMPRESSED`, if it is compressed.

    Raises:
        InvalidRequestError: Another encoding, a damaged body or a longer one.
    """
    if encoding.lower() == "identity":
        return body
    if encoding.lower() != "gzip":
        raise InvalidRequestError(
            "Expected a body without Content-Encoding, or with gzip. Received: "
            f"{encoding[:20]!r}; send it as it is."
        )
    most = min(most, MAXIMUM_DECOMPRESSED)
    gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        found = gzip.decompress(body, most)
    except zlib.error:
        found = None
    if found is None or not (gzip.eof or gzip.unconsumed_tail):
        raise InvalidRequestError(
            "Expected a body in gzip's form, as its Content-Encoding says. Received: "
            "bytes that are not; send it as it is."
        )
    if not gzip.eof:
        raise InvalidRequestError(
            f"Expected at most {most} bytes in a compressed body. Received: more; send "
            "it as it is."
        )
    return found


def information(inference: Inference, wanted: Target) -> bytes:
    """Tell the state of a model's versions, or the signatures of one.

    Raises:
        StatusError: As the client is told.
    """
    if not wanted.metadata:
        request = get_model_status_pb2.GetModelStatusRequest(
            model_spec=wanted.model_spec()
        )
        response = inference.answer("GetModelStatus", request)
        return _written(_plain(response))
    response, signatures = metadata(inference.answer, wanted)
    return _written(
        {
            "model_spec": _plain(response.model_spec),
            "metadata": {"signature_def": _plain(signatures)},
        }
    )


def prediction(
    inference: Inference, wanted: Target, body: bytes, check: Check
) -> bytes:
    """Run a model on the JSON document of a request.

    Args:
        inference: Runs it.
        wanted: Model, version and verb.
        body: The document.
        check: Raises where nobody awaits the answer any more.

    Raises:
        ServingError: The document is not what the verb takes.
        StatusError: As the client is told.
    """
    check()
    answer = functools.partial(inference.answer, check=check)
    document = json_text.parse(body)
    request = _REQUESTS[wanted.verb](model_spec=wanted.model_spec())
    name = json_tensors.signature_name(document)
    request.model_spec.signature_name = name
    if wanted.verb == "predict":
        infos = _infos(metadata(answer, wanted)[1], name or DEFAULT_SIGNATURE)
        tensors, by_row = json_tensors.inputs(document, infos)
        for alias, tensor in tensors.items():
            request.inputs[alias].CopyFrom(tensor)
        return json_answers.predictions(answer("Predict", request).outputs, by_row)
    request.input.CopyFrom(json_examples.examples(document))
    if wanted.verb == "classify":
        return json_answers.classifications(answer("Classify", request).result)
    return json_answers.regressions(answer("Regress", request).result)


def metadata(answer: Callable, wanted: Target):
    """Return the answer of GetModelMetadata, and the signatures packed in it.

    Args:
        answer: `Inference.answer`, its further arguments given.
        wanted: Model and version.

    Raises:
        StatusError: As the client is told.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=wanted.model_spec(), metadata_field=["signature_def"]
    )
    response = answer("GetModelMetadata", request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return response, signatures


def _infos(signatures, name: str) -> Mapping:
    if name not in signatures.signature_def:
        raise InvalidRequestError(
            f'Serving signature name: "{name}" not found in signature def'
        )
    infos = signatures.signature_def[name].inputs
    if not infos:
        raise InvalidRequestError(f"Failed to get input map for signature: {name}")
    return infos


def _decoded(part: str) -> str:
    try:
        return urllib.parse.unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequestError(f"Failed to decode model name:{part}") from None


def _plain(message) -> dict:
    """Return a message as TensorFlow Serving writes it: no field is left out."""
    return json_format.MessageToDict(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
    )


def _written(document: dict) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
