"""Responses of the HTTP server, and how they are sent."""

import asyncio
import re
import socket
import struct
from collections.abc import Mapping

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from bn_keras_serving.rest import json_answers

JSON = "application/json"
# The event loop copies so many bytes at a time, and then attends to other requests.
PIECE_BYTES = 2**18

Body = bytes | bytearray | memoryview


class Response(web.StreamResponse):
    """A response that is sent in pieces, for as long as the client reads them.

    Args:
        status: The status code.
        body: The body.
        content_type: The body's type.
        headers: Further headers.

    Attributes:
        seconds: Seconds in which the client must read a piece of 256 KiB; None for no
            limit. If it does not, the connection is closed.
    """

    # aiohttp joins the header with the first piece.
    _send_headers_immediately = False

    def __init__(
        self,
        status: int,
        body: Body,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ):
        headers = {"Content-Type": content_type, **(headers or {})}
        super().__init__(status=status, headers=headers)
        self.content_length = len(body)
        self.seconds: float | None = None
        self._document = memoryview(body)
        self._transport: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the header."""
        self._transport = request.transport
        if request.method == "HEAD":
            self._document = memoryview(b"")
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the body."""
        body, self._document = self._document, memoryview(b"")
        try:
            for start in range(0, len(body), PIECE_BYTES):
                async with asyncio.timeout(self.seconds):
                    await self.write(body[start : start + PIECE_BYTES])
            async with asyncio.timeout(self.seconds):
                await super().write_eof(data)
        except TimeoutError:
            if self._transport is not None:
                drop(self._transport)


def error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON document with an error."""
    return Response(status, json_answers.encode_error(text), headers=headers)


def invalid_http(reason: str) -> Response:
    """Return the response to a request that is not valid HTTP.

    Args:
        reason: What is wrong. aiohttp also quotes the line, and points into it.
    """
    reason = " ".join(reason.split()).removeprefix("Received ").removesuffix(" ^")
    reason = re.sub(r"\bbytearray\((.*?)\)", r"\1", reason)  # how Python quotes some
    response = error(400, f"A request must be valid HTTP. Received: {reason[:200]}")
    response.force_close()
    return response


def drop(transport: asyncio.Transport) -> None:
    """Close a connection, without sending what its client has not read."""
    if transport.get_write_buffer_size() > 0:
        # The system would otherwise keep its own part of the answer, for minutes.
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    transport.abort()
