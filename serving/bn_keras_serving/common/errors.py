"""Errors that a request can end with, independent of the transport."""


class ServingError(Exception):
    """Base class of the errors below."""


class InvalidRequestError(ServingError, ValueError):
    """The request or configuration does not match what the server serves."""


class ServableNotFoundError(ServingError):
    """The requested model, or version of it, is not loaded."""


class SignatureNotFoundError(ServingError):
    """The model does not have the requested signature."""


class UnknownLabelError(ServingError):
    """No version of the model has the requested label."""


class UnmetConditionError(ServingError):
    """The server is not in a state in which it can answer the request."""


class PermissionDeniedError(ServingError):
    """The server has been configured not to do this for clients."""


class ModelNotLoadedError(UnmetConditionError):
    """A model has no version that loads.

    Args:
        models: Names of such models.
        reasons: Why, with the paths of the models. It is not for clients.

    Attributes:
        models: Names of such models.
    """

    def __init__(self, models: list[str], reasons: str):
        super().__init__(reasons)
        self.models = models


class UnsupportedError(ServingError):
    """The protocol defines the operation, but this server does not implement it."""


class DeadlineExceededError(ServingError):
    """The deadline passed, or the client disconnected, before the answer was ready."""


class UnavailableError(ServingError):
    """The request cannot be answered now; it may be later."""


class ServerStoppingError(ServingError):
    """The server is shutting down."""


class ExecutionError(ServingError):
    """The model failed; `__cause__` is the error that TensorFlow raised."""
