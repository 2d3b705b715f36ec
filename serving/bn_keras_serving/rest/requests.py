"""What the HTTP server demands of a request, and how it receives the body."""

import asyncio
from collections.abc import Collection

import grpc
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from bn_keras_serving.common import hosts
from bn_keras_serving.common.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    PermissionDeniedError,
)
from bn_keras_serving.dispatch.error_mapping import StatusError

CONTINUE = "100-continue"
# Parts of a body that are smaller are joined, since each takes memory of its own.
_PART_BYTES = 2**16


class BodyTooLargeError(StatusError):
    """A body is larger than the server accepts."""

    def __init__(self, limit: int):
        super().__init__(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"A body must have at most {limit} bytes.",
        )


def check_host(request: web.BaseRequest, allowed_hosts: Collection[str] | None) -> None:
    """Check that a request names a host under which the server may be reached.

    Args:
        request: The request.
        allowed_hosts: Permitted names, in addition to addresses and to the names of
            this machine; None permits every name.

    Raises:
        PermissionDeniedError: If it names another host.
    """
    if allowed_hosts is None:
        return
    for header in request.headers.getall("Host", []):
        host = hosts.read_host_header(header)
        if not (
            not host
            or host in allowed_hosts
            or hosts.is_loopback(host)
            or hosts.is_ip_address(host)
        ):
            raise PermissionDeniedError(
                "The Host header must contain an address, localhost or a permitted "
                f"name. Received: {host!r}. Start the server with "
                "--allowed_hosts=NAME to permit it."
            )


async def read_body(
    request: web.BaseRequest, maximum_bytes: int, seconds: float
) -> list[bytearray]:
    """Receive the body in parts, since joining a large one would take long.

    Args:
        request: The request.
        maximum_bytes: Maximum size of the body.
        seconds: Maximum time for it to arrive.

    Raises:
        BodyTooLargeError: If the body is too large.
        DeadlineExceededError: If it does not arrive in time.
        InvalidRequestError: If it is not valid HTTP.
    """
    if (request.content_length or 0) > maximum_bytes:
        raise BodyTooLargeError(maximum_bytes)
    if "Expect" in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response has not begun
    parts: list[bytearray] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while part := await request.content.readany():
                size += len(part)
                if size > maximum_bytes:
                    raise BodyTooLargeError(maximum_bytes)
                if parts and len(parts[-1]) < _PART_BYTES:
                    parts[-1] += part
                else:
                    parts.append(bytearray(part))
    except TimeoutError:
        raise DeadlineExceededError(
            f"The body did not arrive within {seconds:g} seconds."
        ) from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        # Nobody knows where the next request begins.
        request.protocol.close()
        reason = " ".join(str(error).split())[:200]
        raise InvalidRequestError(
            f"A body must be valid HTTP. Received: {reason}"
        ) from None
    return parts
