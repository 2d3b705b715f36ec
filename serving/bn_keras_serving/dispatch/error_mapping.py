"""Give each failure the status and the words that the client sees.

Knows no model and no transport. The one table from errors to status codes.
"""

import logging
import re

import grpc

from bn_keras_serving.common.errors import (
    ExecutionError,
    InvalidRequestError,
    ServableNotFoundError,
    SignatureNotFoundError,
    StatusError,
    UnknownLabelError,
    UnmetConditionError,
    UnsupportedError,
)

MAXIMUM_DETAIL_BYTES = 1024

_CODES = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    ServableNotFoundError: grpc.StatusCode.NOT_FOUND,
    SignatureNotFoundError: grpc.StatusCode.FAILED_PRECONDITION,
    UnknownLabelError: grpc.StatusCode.INVALID_ARGUMENT,
    UnmetConditionError: grpc.StatusCode.FAILED_PRECONDITION,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
}
_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
# A device such as /job:localhost/replica:0 only looks like a path.
_PATH = re.compile(r"(?<![\w.:/])/(?!job:)[\w.@+-][^\s\"',;:(){}]*")

_logger = logging.getLogger(__name__)


def refusal(error: Exception) -> StatusError:
    """Turn any error into one that may be told; what is unforeseen goes to the log."""
    if isinstance(error, StatusError):
        return error
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            text = str(error)
            if kind is UnmetConditionError:
                text = public(text)
            return StatusError(code, cut(text))
    if isinstance(error, ExecutionError):
        # TensorFlow numbers its errors as gRPC does.
        number = getattr(error.__cause__, "error_code", 2)
        return StatusError(_CODES_BY_NUMBER[number], cut(public(str(error))))
    _logger.error("A request failed.", exc_info=error)
    return StatusError(
        grpc.StatusCode.INTERNAL, "Internal error; the server's log tells its cause."
    )


def public(text: str) -> str:
    """Take the server's file system out of a text."""
    return _PATH.sub("<path>", text)


def cut(details: str) -> str:
    """Shorten a text to what gRPC's header may hold, as TensorFlow Serving does."""
    encoded = details.encode()
    if len(encoded) <= MAXIMUM_DETAIL_BYTES:
        return details
    kept = encoded[:MAXIMUM_DETAIL_BYTES].decode(errors="ignore")
    return f"{kept}...TRUNCATED"


def deadline_passed() -> StatusError:
    """What a request is told that waited longer than its client."""
    return StatusError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "The deadline passed, or the client left, before the model could run.",
    )


def too_many() -> StatusError:
    """What a request is told that finds no place."""
    return StatusError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The server has as many requests as it takes at once; try again later.",
    )
