"""The HTTP server of the REST interface."""

import asyncio
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, TypeVar

import grpc
from aiohttp import web

from bn_keras_serving.common.errors import (
    DeadlineExceededError,
    UnmetConditionError,
)
from bn_keras_serving.common.metrics import CONTENT_TYPE
from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import to_status_error
from bn_keras_serving.rest import json_answers, protocol, status_page
from bn_keras_serving.rest.bounded_executor import BoundedExecutor

_JSON = "application/json"
# aiohttp takes a shutdown time of 0 for no limit.
_SHORTEST_SHUTDOWN = 0.01

Result = TypeVar("Result")


class RestServer:
    """Server for `/v1/models/...`, the metrics and the status page.

    aiohttp's event loop runs in a thread of its own and only transfers bytes. Worker
    threads parse documents, run models and write the answers.

    Args:
        dispatcher: Answers requests.
        host: Address or name of the interface to listen on.
        port: Port to listen on; 0 chooses a free one.
        timeout_seconds: Maximum time for a body to arrive, and again for its answer.
        metrics_path: Path of Prometheus' metrics; None disables them.
        message_bytes: Maximum size of a body.
        concurrent_requests: Maximum number of inference requests, running or waiting;
            further ones are rejected.
        workers: Threads that run inference requests. Requests for state, metadata,
            metrics and the page have threads of their own, and are answered while all
            of these are busy.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        host: str,
        port: int,
        *,
        timeout_seconds: float = 30.0,
        metrics_path: str | None,
        message_bytes: int,
        concurrent_requests: int,
        workers: futures.Executor,
    ):
        self._dispatcher = dispatcher
        self._address = host, port
        self._timeout = timeout_seconds
        self._message_bytes = message_bytes
        self._information_workers = futures.ThreadPoolExecutor(2, "information")
        self._inference = BoundedExecutor(workers, concurrent_requests)
        self._information = BoundedExecutor(
            self._information_workers, concurrent_requests
        )
        # Path to the function that returns a document, and the document's type.
        self._documents: dict[str, tuple[Callable[[], bytes], str]] = {
            "/": (status_page.page, "text/html; charset=utf-8"),
            "/status.json": (
                functools.partial(status_page.status_json, dispatcher),
                _JSON,
            ),
        }
        if metrics_path is not None:
            exposition = dispatcher.metrics.exposition
            self._documents[metrics_path] = (exposition, CONTENT_TYPE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    def start(self) -> int:
        """Listen for requests in a background thread.

        Returns:
            The port.

        Raises:
            OSError: If the server cannot listen on the address.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="rest", daemon=True
        )
        self._thread.start()
        try:
            return _run_in_loop(self._loop, self._listen())
        except BaseException:
            self.stop(0)
            raise

    def stop(self, grace: float) -> None:
        """Accept no more connections and finish the requests in progress.

        Args:
            grace: Seconds that the requests may take. After that their connections are
                closed, without waiting for computations inside TensorFlow.
        """
        self._information_workers.shutdown(wait=False, cancel_futures=True)
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        _run_in_loop(loop, self._close(grace))
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    async def _listen(self) -> int:
        application = web.Application(client_max_size=self._message_bytes)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            # aiohttp would log a traceback for every request that is not valid HTTP;
            # it is answered with status 400.
            logger=_silent_logger(),
            # aiohttp would decompress in the event loop, and without a limit.
            auto_decompress=False,
            # A handler is cancelled when its client disconnects.
            handler_cancellation=True,
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # `setup` has created it
        self._listener = await asyncio.get_running_loop().create_server(
            server, *self._address
        )
        return self._listener.sockets[0].getsockname()[1]

    async def _close(self, grace: float) -> None:
        if self._runner is None:
            return
        if self._listener is not None:
            # Python 3.11 leaks a connection that is accepted in the same iteration of
            # the loop as `close`. Stop accepting first, and let pending callbacks run.
            for listening_socket in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(listening_socket)
            await _run_pending_callbacks()
            self._listener.close()
        server = self._runner.server
        if server is not None:
            server.pre_shutdown()
            try:
                # aiohttp would apply its own time-out twice; use one around it.
                async with asyncio.timeout(grace):
                    await server.shutdown(None)
            except TimeoutError:
                await server.shutdown(_SHORTEST_SHUTDOWN)
        await self._runner.cleanup()
        # Sockets are closed one iteration after their transports.
        await _run_pending_callbacks()

    async def _handle(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if path in self._documents:
            return await self._serve_document(request, *self._documents[path])
        if path.lower().startswith("/v1/"):
            return await self._serve_protocol(request, path)
        return _response(404, json_answers.encode_error("Not found"))

    async def _serve_document(
        self, request: web.Request, read: Callable[[], bytes], content_type: str
    ) -> web.Response:
        """Answer with a document about the server itself."""
        if request.method not in ("GET", "HEAD"):
            error = json_answers.encode_error("The method must be GET.")
            return _response(405, error, Allow="GET, HEAD")
        try:
            body = await self._information.run(read, self._timeout)
        except Exception as error:
            return _error_response(error)[1]
        return _response(200, body, content_type, **status_page.HEADERS)

    async def _serve_protocol(self, request: web.Request, path: str) -> web.Response:
        """Answer a request of TensorFlow Serving's protocol, and count it."""
        target = protocol.Target("")
        start = time.perf_counter()
        try:
            if request.method == "OPTIONS":
                body = _preflight(request)
            else:
                target = protocol.parse_path(request.method, path)
                body = await self._read_body(request)
                encoding = request.headers.get("Content-Encoding", "identity")
                # Do not count the time that a slow client takes to send the body.
                start = time.perf_counter()
                body = await self._answer(target, encoding, body)
            status, response = "OK", _response(200, body)
        except web.HTTPRequestEntityTooLarge:
            text = f"A body must have at most {self._message_bytes} bytes."
            status = grpc.StatusCode.RESOURCE_EXHAUSTED.name
            response = _response(413, json_answers.encode_error(text))
        except Exception as error:
            status, response = _error_response(error)
        self._dispatcher.metrics.record_request(
            target.model_name,
            target.verb,
            "REST",
            status,
            1e6 * (time.perf_counter() - start),
        )
        return response

    async def _read_body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await request.read()
        except TimeoutError:
            raise DeadlineExceededError(
                f"The body did not arrive within {self._timeout:g} seconds."
            ) from None

    async def _answer(
        self, target: protocol.Target, encoding: str, body: bytes
    ) -> bytes:
        if not target.verb:
            work = functools.partial(protocol.get_information, self._dispatcher, target)
            return await self._information.run(work, self._timeout)
        # This coroutine ends when the client disconnects or the time is over; the
        # worker thread learns it from the event.
        left = threading.Event()
        deadline = Deadline(self._timeout, lambda: not left.is_set())

        def infer() -> bytes:
            document = protocol.decompress(body, encoding, self._message_bytes)
            return protocol.run_inference(self._dispatcher, target, document, deadline)

        try:
            return await self._inference.run(infer, self._timeout)
        finally:
            left.set()


def _silent_logger() -> logging.Logger:
    logger = logging.getLogger(f"{__name__}.http")
    logger.setLevel(logging.CRITICAL)
    return logger


def _run_in_loop(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Result]
) -> Result:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


async def _run_pending_callbacks() -> None:
    """Let the loop run its pending callbacks; asyncio needs at most three rounds."""
    for _ in range(5):
        await asyncio.sleep(0)


def _preflight(request: web.Request) -> bytes:
    """Answer a CORS preflight as TensorFlow Serving does without CORS: with nothing."""
    if not re.search("https?://", request.headers.get("Origin", "")):
        raise UnmetConditionError("Origin header is missing in CORS preflight")
    return b""


def _error_response(error: Exception) -> tuple[str, web.Response]:
    """Return the name of the status code, for the metrics, and the response."""
    status_error = to_status_error(error)
    status = protocol.HTTP_STATUSES.get(status_error.code, 500)
    body = json_answers.encode_error(status_error.details)
    return status_error.code.name, _response(status, body)


def _response(
    status: int, body: bytes, content_type: str = _JSON, **headers: str
) -> web.Response:
    # By default aiohttp would reveal its version and Python's.
    headers = {"Content-Type": content_type, "Server": "bn-keras", **headers}
    return web.Response(status=status, body=body, headers=headers)
