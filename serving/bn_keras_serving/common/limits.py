"""How much one client may ask of the server.

Knows no transport and no model.
"""

import dataclasses

MESSAGE_BYTES = 2**31 - 1  # protobuf's own bound


@dataclasses.dataclass(frozen=True)
class Limits:
    """Caps that hold whatever the model is.

    Attributes:
        message_bytes: size of a request; protobuf's own limit by default.
        elements: of one input tensor.
        string_bytes: length of one string in an input.
        concurrent_requests: for models, under way or waiting, over gRPC and REST each;
            one more is refused with RESOURCE_EXHAUSTED.
    """

    message_bytes: int = MESSAGE_BYTES
    elements: int = 2**28
    string_bytes: int = 2**28
    concurrent_requests: int = 1024

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 1 <= value <= 2**31 - 1:
                raise ValueError(
                    f"`{field.name}` must be from 1 to 2147483647. Received: "
                    f"{field.name}={value!r}"
                )
