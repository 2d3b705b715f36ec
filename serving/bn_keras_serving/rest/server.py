"""Listen for HTTP requests, and stop in order.

Knows no model and no form of a request: bytes in, bytes out.
"""

import asyncio
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent import futures

import grpc
from aiohttp import web

from bn_keras_serving.common.errors import StatusError
from bn_keras_serving.common.metrics import CONTENT_TYPE
from bn_keras_serving.dispatch.dispatcher import Inference
from bn_keras_serving.dispatch.error_mapping import deadline_passed, refusal, too_many
from bn_keras_serving.rest import json_answers, protocol, status_page

_JSON = "application/json"
_AT_ONCE = 0.01


class RestServer:
    """Answers `/v1/models/...`, the metrics and the status page.

    aiohttp's loop runs in a thread of its own and moves bytes only: documents are
    read, models run and answers written by the workers.

    Args:
        inference: Answers what is asked.
        host: Address or name of the interface to listen on.
        port: Port to listen on; 0 takes a free one.
        timeout_seconds: For a body to arrive, and again for its answer.
        metrics_path: Path of Prometheus' metrics; None for no such path.
        message_bytes: Size of the longest body.
        concurrent_requests: Predictions under way or waiting; one more is refused.
        workers: Run the predictions. Status, metadata, metrics and page are answered
            while all of these are busy.
    """

    def __init__(
        self,
        inference: Inference,
        host: str,
        port: int,
        *,
        timeout_seconds: float = 30.0,
        metrics_path: str | None,
        message_bytes: int,
        concurrent_requests: int,
        workers: futures.Executor,
    ):
        self._inference = inference
        self._address = host, port
        self._timeout = timeout_seconds
        self._message_bytes = message_bytes
        self._own_workers = futures.ThreadPoolExecutor(2, "information")
        self._predictions = _Bounded(workers, concurrent_requests)
        self._information = _Bounded(self._own_workers, concurrent_requests)
        # Path to what is read there, and its type.
        self._readable: dict[str, tuple[Callable[[], bytes], str]] = {
            "/": (status_page.document, "text/html; charset=utf-8"),
            "/status.json": (functools.partial(status_page.status, inference), _JSON),
        }
        if metrics_path is not None:
            self._readable[metrics_path] = (inference.metrics.exposition, CONTENT_TYPE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    def start(self) -> int:
        """Listen, in a thread of its own; return the port.

        Raises:
            OSError: The address cannot be listened on.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="rest", daemon=True
        )
        self._thread.start()
        try:
            return _await(self._loop, self._listen())
        except BaseException:
            self.stop(0)
            raise

    def stop(self, grace: float) -> None:
        """Take no more connections, and finish the requests begun.

        Args:
            grace: Seconds given to them; then their connections are closed. What
                TensorFlow still computes is waited for by nobody.
        """
        self._own_workers.shutdown(wait=False, cancel_futures=True)
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        _await(loop, self._close(grace))
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    async def _listen(self) -> int:
        application = web.Application(client_max_size=self._message_bytes)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            # What is no HTTP would be a traceback each; it is answered with 400.
            logger=_quiet(),
            # In the loop, and to any size.
            auto_decompress=False,
            handler_cancellation=True,
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # it is, once set up
        self._listener = await asyncio.get_running_loop().create_server(
            server, *self._address
        )
        return self._listener.sockets[0].getsockname()[1]

    async def _close(self, grace: float) -> None:
        if self._runner is None:
            return
        if self._listener is not None:
            # Python 3.11 leaks a connection accepted in the turn of `close`.
            for listening in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(listening)
            await _settle()
            self._listener.close()
        server = self._runner.server
        if server is not None:
            server.pre_shutdown()
            try:
                # aiohttp gives its time twice, and 0 means any time to it.
                async with asyncio.timeout(grace):
                    await server.shutdown(None)
            except TimeoutError:
                await server.shutdown(_AT_ONCE)
        await self._runner.cleanup()
        await _settle()  # sockets are closed a turn after their transports

    async def _handle(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if path in self._readable:
            return await self._read(request, *self._readable[path])
        if path.lower().startswith("/v1/"):
            return await self._protocol(request, path)
        return _response(404, json_answers.error("Not found"))

    async def _read(self, request: web.Request, read: Callable, content_type: str):
        """Answer with something of this server's own."""
        if request.method not in ("GET", "HEAD"):
            return _response(405, json_answers.error("Expected GET"), Allow="GET, HEAD")
        try:
            body = await self._information.run(read, self._timeout)
        except Exception as error:
            return _refused(refusal(error))[1]
        return _response(200, body, content_type, **status_page.HEADERS)

    async def _protocol(self, request: web.Request, path: str) -> web.Response:
        """Answer one request of TensorFlow Serving's protocol, and count it."""
        wanted = protocol.Target("")
        began = time.perf_counter()
        try:
            if request.method == "OPTIONS":
                body = _preflight(request)
            else:
                wanted = protocol.target(request.method, path)
                body = await self._body(request)
                encoding = request.headers.get("Content-Encoding", "identity")
                began = time.perf_counter()  # a slow sender is not a slow model
                body = await self._answer(wanted, encoding, body)
            status, response = "OK", _response(200, body)
        except web.HTTPRequestEntityTooLarge:
            text = f"Expected a body of at most {self._message_bytes} bytes"
            status = grpc.StatusCode.RESOURCE_EXHAUSTED.name
            response = _response(413, json_answers.error(text))
        except Exception as error:
            status, response = _refused(refusal(error))
        self._inference.metrics.record_request(
            wanted.model_name,
            wanted.verb,
            "REST",
            status,
            1e6 * (time.perf_counter() - began),
        )
        return response

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await request.read()
        except TimeoutError:
            raise StatusError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"The body did not arrive within {self._timeout:g} seconds.",
            ) from None

    async def _answer(
        self, wanted: protocol.Target, encoding: str, body: bytes
    ) -> bytes:
        if not wanted.verb:
            work = functools.partial(protocol.information, self._inference, wanted)
            return await self._information.run(work, self._timeout)
        end = time.monotonic() + self._timeout
        gone = threading.Event()

        def check() -> float:
            if gone.is_set() or time.monotonic() > end:
                raise deadline_passed()
            return end - time.monotonic()

        def work() -> bytes:
            document = protocol.decompressed(body, encoding, self._message_bytes)
            return protocol.prediction(self._inference, wanted, document, check)

        try:
            return await self._predictions.run(work, self._timeout)
        finally:
            gone.set()


def _quiet() -> logging.Logger:
    logger = logging.getLogger(f"{__name__}.http")
    logger.setLevel(logging.CRITICAL)
    return logger


def _await(loop: asyncio.AbstractEventLoop, coroutine: Coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


async def _settle() -> None:
    """Let the loop do what it has put off, which takes asyncio three turns at most."""
    for _ in range(5):
        await asyncio.sleep(0)


class _Bounded:
    """Workers, and a bound on what they have to do."""

    def __init__(self, workers: futures.Executor, places: int):
        self._workers = workers
        self._free = threading.BoundedSemaphore(places)

    async def run(self, work: Callable[[], bytes], timeout: float) -> bytes:
        """Await a worker's result; what is late keeps its place until it ends."""
        if not self._free.acquire(blocking=False):
            raise too_many()
        try:
            future = self._workers.submit(work)
        except RuntimeError:
            self._free.release()
            raise StatusError(
                grpc.StatusCode.UNAVAILABLE, "The server is stopping."
            ) from None
        future.add_done_callback(lambda _: self._free.release())
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise StatusError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"No answer within {timeout:g} seconds.",
            ) from None


def _preflight(request: web.Request) -> bytes:
    """Answer a browser's question as TensorFlow Serving does without CORS: in vain."""
    if not re.search("https?://", request.headers.get("Origin", "")):
        raise StatusError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "Origin header is missing in CORS preflight",
        )
    return b""


def _refused(refused: StatusError) -> tuple[str, web.Response]:
    status = protocol.HTTP_STATUSES.get(refused.code, 500)
    return refused.code.name, _response(status, json_answers.error(refused.details))


def _response(
    status: int, body: bytes, content_type: str = _JSON, **headers: str
) -> web.Response:
    # aiohttp would tell its version, and Python's.
    headers = {"Content-Type": content_type, "Server": "bn-keras", **headers}
    return web.Response(status=status, body=body, headers=headers)
