"""Limits on what a single client may request."""

import dataclasses

MESSAGE_BYTES = 2**31 - 1  # the largest message that protobuf can encode


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits that apply to every model.

    Attributes:
        message_bytes: Maximum size of a request. The default is protobuf's own limit.
        elements: Maximum number of elements in one input tensor.
        string_bytes: Maximum length of one string in an input.
        concurrent_requests: Maximum number of inference requests that are answered at a
            time, for gRPC and REST separately. Further requests wait as long as their
            deadlines allow.
        connections: Maximum number of connections to REST, and at most half of the
            files that the process may open. Further connections replace those that have
            waited longest for their clients.
        streams_per_connection: Maximum number of gRPC calls in progress on one
            connection. Further calls wait in the client.

    Raises:
        ValueError: If a limit is not between 1 and 2147483647.
    """

    message_bytes: int = MESSAGE_BYTES
    elements: int = 2**28
    string_bytes: int = 2**28
    concurrent_requests: int = 1024
    connections: int = 1024
    streams_per_connection: int = 128

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 1 <= value <= 2**31 - 1:
                raise ValueError(
                    f"`{field.name}` must be between 1 and 2147483647. Received: "
                    f"{field.name}={value!r}"
                )
