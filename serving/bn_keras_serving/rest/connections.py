"""The connections of the HTTP server, and how long they may wait for their clients."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from bn_keras_serving.dispatch.error_mapping import to_status_error
from bn_keras_serving.rest import responses

# From the connection, or from the first byte of a further request, to the end of the
# request's header.
HEADER_SECONDS = 10.0
# Between two requests.
IDLE_SECONDS = 60.0
# Between two signs of life to a client that has closed its side of the connection.
PROBE_SECONDS = 1.0
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SWEEP_SECONDS = 1.0
_REPORT_SECONDS = 10.0

_logger = logging.getLogger(__name__)


class HttpServer(web.Server):
    """Parses HTTP, with a limit on the number of connections.

    A connection that sends nothing costs its client nothing. When the limit is reached,
    a new connection therefore replaces the one that has waited longest for its client:
    for a request; if there is none, for a body to arrive or for an answer to be read.
    Requests that the server works on are never dropped.

    Args:
        answer: Coroutine function that answers a request.
        limit: Maximum number of connections.
    """

    def __init__(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        limit: int,
    ):
        super().__init__(
            self._handle,
            request_factory=_create_request,
            # A handler is cancelled when its client disconnects.
            handler_cancellation=True,
        )
        self._answer = answer
        self._limit = limit
        self._open: set[Connection] = set()
        # In the order in which they have begun to wait. The values are the times when
        # the connections are closed.
        self._idle: dict[Connection, float] = {}
        self._transfers: dict[Connection, None] = {}
        # The values are the times of the next probes.
        self._half_closed: dict[Connection, float] = {}
        self._warn = _RateLimitedWarning()

    def __call__(self) -> web.RequestHandler:
        """Create the protocol of a new connection, as `loop.create_server` demands."""
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            # aiohttp would log a traceback for every request that is not valid HTTP.
            logger=_silent_logger(),
            access_log=None,
            # aiohttp would decompress in the event loop.
            auto_decompress=False,
        )

    @contextlib.contextmanager
    def transfer(self, request: web.BaseRequest) -> Iterator[None]:
        """Mark a request that waits for its client to send or to receive."""
        connection = cast(Connection, request.protocol)
        self._transfers[connection] = None
        try:
            yield
        finally:
            self._transfers.pop(connection, None)

    async def close_idle(self) -> None:
        """Close the connections whose time is over or whose clients have left."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in [c for c, end in self._idle.items() if end <= now]:
                self._drop(connection)
            for connection in [c for c, at in self._half_closed.items() if at <= now]:
                self._half_closed[connection] = now + PROBE_SECONDS
                connection.probe()

    def add(self, connection: "Connection") -> None:
        """Count a new connection, if necessary at the expense of another."""
        self._open.add(connection)
        if len(self._open) > self._limit:
            oldest = next(iter(self._idle), None) or next(iter(self._transfers), None)
            self._drop(oldest or connection)
            self._warn(
                f"All {self._limit} connections of REST are in use. Those that have "
                "waited longest for their clients are closed for new ones."
            )
        if connection in self._open:
            self._wait(connection, HEADER_SECONDS)

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._transfers.pop(connection, None)
        self._half_closed.pop(connection, None)

    def half_close(self, connection: "Connection") -> None:
        """Keep a connection from which nothing more will come until it is answered."""
        now = asyncio.get_running_loop().time()
        self._half_closed.setdefault(connection, now + PROBE_SECONDS)

    def receive(self, connection: "Connection") -> None:
        """Start the time for a header if these are the first bytes of a request."""
        if connection in self._idle and not connection.header_has_begun:
            connection.header_has_begun = True
            self._wait(connection, HEADER_SECONDS)

    def _wait(self, connection: "Connection", seconds: float) -> None:
        self._idle.pop(connection, None)  # to the end of the order
        self._idle[connection] = asyncio.get_running_loop().time() + seconds

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        self._idle.pop(connection, None)
        try:
            return await self._answer(request)
        finally:
            connection.payload = None
            if connection in self._open:
                connection.header_has_begun = False
                self._wait(connection, IDLE_SECONDS)
            if connection in self._half_closed and not connection.has_next_request():
                connection.close()

    def _drop(self, connection: "Connection") -> None:
        self.remove(connection)
        connection.drop()


class Connection(web.RequestHandler):
    """One connection.

    Attributes:
        header_has_begun: Whether the time for the next request's header is running.
        payload: Body of the request that is handled.
    """

    def __init__(self, server: HttpServer, **options: Any):
        super().__init__(server, **options)
        self._server = server
        # aiohttp forgets its transport when it closes it, which is before the last
        # bytes have been sent.
        self._transport: asyncio.Transport | None = None
        self.header_has_begun = True
        self.payload: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to receive requests."""
        super().connection_made(transport)
        self._transport = cast(asyncio.Transport, transport)
        self._server.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the request in progress."""
        # The body refers to the connection: such a cycle would keep it in memory until
        # the next garbage collection.
        self._transport = self.payload = None
        self._server.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client."""
        self._server.receive(self)
        super().data_received(data)

    # aiohttp would close the connection.
    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the connection if a whole request has come: its client may still read.

        A client that has only closed its side of the connection looks like one that has
        left; `probe` finds out.
        """
        payload = self._messages[-1][1] if self._messages else self.payload
        if payload is None or not payload.is_eof():
            return False
        self._server.half_close(self)
        return True

    def has_next_request(self) -> bool:
        """Return whether another request has come already."""
        return bool(self._messages)

    def probe(self) -> None:
        """Send something that clients ignore, unless the response has begun.

        The system of a client that has left resets the connection. That ends it, and
        cancels the request, when the next probe is sent.
        """
        request = self._current_request
        if (
            self._transport is not None
            and request is not None
            and request.version >= HttpVersion11
            and not request.writer.output_size
        ):
            self._transport.write(_PROBE)

    def drop(self) -> None:
        """Close the connection, without sending what the client has not read."""
        if self._transport is not None:
            responses.drop(self._transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that is not valid HTTP, or after a fault."""
        if status == HTTPStatus.BAD_REQUEST:
            response = responses.invalid_http(message or "other bytes")
        else:
            fault = exc if isinstance(exc, Exception) else RuntimeError(message)
            response = responses.error(status, to_status_error(fault).details)
        if request.writer.output_size > 0:
            raise ConnectionError("A part of another response has been sent.")
        return response


def create_exception_handler() -> Callable[
    [asyncio.AbstractEventLoop, dict[str, Any]], None
]:
    """Return a handler of errors in the event loop."""
    warn = _RateLimitedWarning()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and "socket" in context:
            # A connection cannot be accepted, since no more files may be opened.
            # asyncio tries it a hundred times a second.
            warn(f"{context['message']}: {error}")
        else:
            loop.default_exception_handler(context)

    return handle


class _RateLimitedWarning:
    """Writes a line to the log, but at most one every ten seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, text: str) -> None:
        """Write the line, unless there has been one shortly before."""
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + _REPORT_SECONDS
            _logger.warning(text)


class _Request(web.BaseRequest):
    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        # aiohttp adds its own name and version, and Python's, to every response. This
        # is its last step before it writes a header, for its own errors too.
        response.headers.popall("Server", None)


def _create_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    cast(Connection, protocol).payload = payload
    return _Request(message, payload, protocol, writer, task, loop)


def _silent_logger() -> logging.Logger:
    logger = logging.getLogger(f"{__name__}.http")
    logger.setLevel(logging.CRITICAL)
    return logger
