"""What can be wrong with a request, and how it is told.

Knows no model and no transport.
"""

import grpc


class ServingError(Exception):
    """A request that cannot be answered."""


class InvalidRequestError(ServingError, ValueError):
    """Inputs, outputs or a configuration unlike what is served."""


class ServableNotFoundError(ServingError):
    """No such model, or no such version of it, is being served."""


class SignatureNotFoundError(ServingError):
    """The model has no signature of that name."""


class UnknownLabelError(ServingError):
    """No version carries that label."""


class UnmetConditionError(ServingError):
    """The request would be answered in another state of the server."""


class UnsupportedError(ServingError):
    """Something that the protocol names and this server does not do."""


class ExecutionError(ServingError):
    """The model itself failed; `__cause__` is TensorFlow's error."""


class StatusError(Exception):
    """A refusal as the client sees it.

    Attributes:
        code: a `grpc.StatusCode`.
        details: text that tells nothing of the server's file system.
    """

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code = code
        self.details = details
