"""The mapping from errors to the status codes and messages that clients receive."""

import logging
from collections.abc import Iterable

import grpc

from bn_keras_serving.common.errors import (
    DeadlineExceededError,
    ExecutionError,
    InvalidRequestError,
    PermissionDeniedError,
    ServableNotFoundError,
    ServerStoppingError,
    ServingError,
    SignatureNotFoundError,
    UnavailableError,
    UnknownLabelError,
    UnmetConditionError,
    UnsupportedError,
)
from bn_keras_serving.dispatch.redaction import redact_paths

MAXIMUM_DETAIL_BYTES = 1024

_CODES: dict[type[ServingError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    ServableNotFoundError: grpc.StatusCode.NOT_FOUND,
    SignatureNotFoundError: grpc.StatusCode.FAILED_PRECONDITION,
    UnknownLabelError: grpc.StatusCode.INVALID_ARGUMENT,
    UnmetConditionError: grpc.StatusCode.FAILED_PRECONDITION,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    ServerStoppingError: grpc.StatusCode.UNAVAILABLE,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

_logger = logging.getLogger(__name__)


class StatusError(Exception):
    """An error in the form in which the client receives it.

    Args:
        code: The status code.
        details: Message that reveals nothing about the server's file system.

    Attributes:
        code: The status code.
        details: The message.
    """

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code = code
        self.details = details


def to_status_error(error: Exception, base_paths: Iterable[str] = ()) -> StatusError:
    """Convert any error to the one that the client receives.

    An unexpected error is logged, and the client learns only that it occurred.

    Args:
        error: The error.
        base_paths: Directories of the models, which must not occur in its text.
    """
    if isinstance(error, StatusError):
        # The callers keep it. Through its traceback, it would keep the whole request,
        # and their own frames, until the next garbage collection.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    for error_type, code in _CODES.items():
        if isinstance(error, error_type):
            text = str(error)
            if error_type is UnmetConditionError:
                text = redact_paths(text, base_paths)
            return StatusError(code, truncate(text))
    if isinstance(error, ExecutionError):
        # TensorFlow numbers its error codes as gRPC does; 2 is UNKNOWN.
        number = getattr(error.__cause__, "error_code", 2)
        text = redact_paths(str(error), base_paths)
        return StatusError(_CODES_BY_NUMBER[number], truncate(text))
    _logger.error("A request failed with an unexpected error.", exc_info=error)
    return StatusError(
        grpc.StatusCode.INTERNAL, "Internal error. See the server's log for its cause."
    )


def truncate(details: str) -> str:
    """Shorten a message to fit into gRPC's header, as TensorFlow Serving does."""
    encoded = details.encode()
    if len(encoded) <= MAXIMUM_DETAIL_BYTES:
        return details
    # Do not cut inside a character.
    shortened = encoded[:MAXIMUM_DETAIL_BYTES].decode(errors="ignore")
    return f"{shortened}...TRUNCATED"
