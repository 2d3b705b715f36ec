"""The HTTP server of the REST interface."""

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import Awaitable, Callable, Mapping

import grpc
from aiohttp import web
from tensorflow_serving.apis import model_pb2

from bn_keras_serving.common import hosts, open_files
from bn_keras_serving.common.errors import (
    DeadlineExceededError,
    PermissionDeniedError,
    UnmetConditionError,
)
from bn_keras_serving.common.event_loop import EventLoopThread
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.common.metrics import CONTENT_TYPE
from bn_keras_serving.configuration import available_processors
from bn_keras_serving.configuration.settings import Access
from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import StatusError, to_status_error
from bn_keras_serving.dispatch.request_log import RequestRecord, trace_id
from bn_keras_serving.dispatch.workers import Workers
from bn_keras_serving.rest import protocol, requests, responses, status_page
from bn_keras_serving.rest.connections import HttpServer, create_exception_handler
from bn_keras_serving.rest.converters import ConverterPools
from bn_keras_serving.rest.responses import Response

# aiohttp takes a shutdown time of 0 for no limit.
_SHORTEST_SHUTDOWN = 0.01
# Connections that may wait to be accepted; the client of one that may not waits for a
# second.
_BACKLOG = 1024
# http_rest_api_util.cc, `AddCORSHeaders`.
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


class RestServer:
    """Server for `/v1/models/...`, the metrics and the status page.

    aiohttp's event loop runs in a thread of its own and only transfers bytes. Worker
    threads parse documents, run models and write the answers.

    Args:
        dispatcher: Answers requests.
        host: Address or name of the interface to listen on.
        port: Port to listen on; 0 chooses a free one.
        workers: Threads that run inference requests.
        information: Threads for requests for state, metadata, metrics and the page,
            which are answered while all workers are busy.
        limits: Limits on bodies and connections; defaults to `Limits()`.
        access: Which hosts a request may name, and whether scripts of other web pages
            may send one; defaults to `Access()`.
        timeout_seconds: Maximum time for a body to arrive, for its answer, and for a
            part of the answer to be read.
        metrics_path: Path of Prometheus' metrics; None disables them.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        host: str,
        port: int,
        *,
        workers: Workers,
        information: Workers,
        limits: Limits | None = None,
        access: Access | None = None,
        timeout_seconds: float = 30.0,
        metrics_path: str | None,
    ):
        self._dispatcher = dispatcher
        self._address = host, port
        self._workers = workers
        self._information = information
        self._limits = limits or Limits()
        self._timeout = timeout_seconds
        access = access or Access()
        # None permits every host. Web pages in a browser on this machine reach a server
        # that listens on loopback too, by a name of their own that they let resolve to
        # 127.0.0.1 (DNS rebinding).
        self._allowed_hosts: set[str] | None = None
        if access.allowed_hosts or hosts.is_loopback(host):
            self._allowed_hosts = {
                hosts.read_host_header(name) for name in access.allowed_hosts
            }
        self._api_headers = _CORS_HEADERS if access.cors else {}
        # Path to the function that returns a document, and the document's type.
        self._documents: dict[str, tuple[Callable[[], bytes], str]] = {
            "/": (status_page.page, "text/html; charset=utf-8"),
            "/status.json": (
                functools.partial(status_page.status_json, dispatcher),
                responses.JSON,
            ),
        }
        if metrics_path is not None:
            exposition = dispatcher.metrics.exposition
            self._documents[metrics_path] = (exposition, CONTENT_TYPE)
        self._converters = ConverterPools(max(1, available_processors() // 2))
        self._loop: EventLoopThread | None = None
        self._http: HttpServer | None = None
        self._listener: asyncio.Server | None = None
        self._timer: asyncio.Task[None] | None = None

    def start(self) -> int:
        """Listen for requests in a background thread.

        Returns:
            The port.

        Raises:
            OSError: If the server cannot listen on the address.
        """
        self._loop = EventLoopThread("rest")
        try:
            return self._loop.run(self._listen())
        except BaseException:
            self.stop(0)
            raise

    def stop(self, grace: float) -> None:
        """Accept no more connections and finish the requests in progress.

        Args:
            grace: Seconds that the requests may take. After that their connections are
                closed, without waiting for computations inside TensorFlow.
        """
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run(self._close(grace))
            loop.close()
            self._converters.stop()

    async def _listen(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(create_exception_handler())
        # Leave as many open files to gRPC and to the models.
        connections = min(self._limits.connections, open_files.limit() // 2)
        self._http = HttpServer(self._handle, connections)
        self._listener = await loop.create_server(self._http, *self._address)
        for listening_socket in self._listener.sockets:
            # `create_server` would also accept as many at once, before it attends to
            # anything else.
            with listening_socket.dup() as duplicate:
                duplicate.listen(_BACKLOG)
        self._timer = loop.create_task(self._http.close_idle())
        return self._listener.sockets[0].getsockname()[1]

    async def _close(self, grace: float) -> None:
        if self._http is None:
            return
        if self._listener is not None:
            # Python 3.11 leaks a connection that is accepted in the same iteration of
            # the loop as `close`. Stop accepting first, and let pending callbacks run.
            for listening_socket in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(listening_socket)
            await _run_pending_callbacks()
            self._listener.close()
        self._http.pre_shutdown()
        try:
            # aiohttp would apply its own time-out twice; use one around it.
            async with asyncio.timeout(grace):
                await self._http.shutdown(None)
        except TimeoutError:
            await self._http.shutdown(_SHORTEST_SHUTDOWN)
        # Sockets are closed one iteration after their transports.
        await _run_pending_callbacks()

    async def _handle(self, request: web.BaseRequest) -> Response:
        assert self._http is not None  # it calls this
        response = await self._respond(request)
        response.seconds = self._timeout
        # Sent here and not by aiohttp after this, so that the connection counts as one
        # whose client must read.
        with self._http.transfer(request), contextlib.suppress(ConnectionError):
            # A client that has left is no fault: aiohttp ends the connection.
            await response.prepare(request)
            await response.write_eof()
        return response

    async def _respond(self, request: web.BaseRequest) -> Response:
        path = request.rel_url.raw_path
        try:
            requests.check_host(request, self._allowed_hosts)
        except PermissionDeniedError as error:
            return _error_response(to_status_error(error))
        expectation = request.headers.get("Expect", requests.CONTINUE)
        if expectation.lower() != requests.CONTINUE:
            text = f"Expect must be {requests.CONTINUE}. Received: {expectation[:20]!r}"
            return responses.error(417, text)
        if path in self._documents:
            return await self._serve_document(request, *self._documents[path])
        if path.lower().startswith("/v1/"):
            return await self._serve_api(request, path)
        return responses.error(404, "Not found")

    async def _serve_document(
        self, request: web.BaseRequest, read: Callable[[], bytes], content_type: str
    ) -> Response:
        """Answer with a document about the server itself."""
        if request.method not in ("GET", "HEAD"):
            return responses.error(
                405, "The method must be GET.", {"Allow": "GET, HEAD"}
            )
        try:
            body = await self._limit_time(self._information.run(read))
        except Exception as error:
            return _error_response(to_status_error(error))
        return Response(200, body, content_type, status_page.HEADERS)

    async def _serve_api(self, request: web.BaseRequest, path: str) -> Response:
        """Answer a request of TensorFlow Serving's protocol, and count it."""
        # Unless there is an answer, the client has left.
        record = RequestRecord("REST", "", status=grpc.StatusCode.CANCELLED.name)
        verb, spec = "", model_pb2.ModelSpec()
        if self._dispatcher.request_log.enabled:
            record.peer = request.remote or ""
            record.trace_id = trace_id(request.headers)
        start = time.perf_counter()
        try:
            if request.method == "OPTIONS":
                body = _preflight(request)
            else:
                target = protocol.parse_path(request.method, path)
                verb, spec = target.verb, target.model_spec()
                record.api = verb or ("metadata" if target.metadata else "status")
                parts = await self._read_body(request)
                record.request_bytes = sum(map(len, parts))
                # Do not count the time that a slow client takes to send the body.
                start = time.perf_counter()
                encoding = request.headers.get("Content-Encoding", "identity")
                body = await self._answer(target, spec, encoding, parts)
            record.status, record.response_bytes = "OK", len(body)
            return Response(200, body, headers=self._api_headers)
        except Exception as error:
            status_error = to_status_error(error)
            record.status = status_error.code.name
            return _error_response(status_error, self._api_headers)
        finally:
            record.read_spec(spec)
            self._finish(record, verb, 1e6 * (time.perf_counter() - start))

    def _finish(self, record: RequestRecord, verb: str, microseconds: float) -> None:
        record.microseconds = microseconds
        self._dispatcher.metrics.record_request(
            record.model, verb, "REST", record.status, microseconds
        )
        self._dispatcher.request_log.write(record)

    async def _read_body(self, request: web.BaseRequest) -> list[bytearray]:
        assert self._http is not None
        with self._http.transfer(request):
            return await requests.read_body(
                request, self._limits.message_bytes, self._timeout
            )

    async def _answer(
        self,
        target: protocol.Target,
        spec: model_pb2.ModelSpec,
        encoding: str,
        parts: list[bytearray],
    ) -> responses.Body:
        if not target.verb:
            read = functools.partial(
                protocol.get_information, self._dispatcher, target, spec
            )
            return await self._limit_time(self._information.run(read))
        deadline = Deadline(self._timeout)
        body = protocol.Body(parts, encoding, self._limits.message_bytes)
        try:
            return await self._limit_time(
                protocol.run_inference(
                    self._dispatcher,
                    self._workers,
                    self._converters,
                    target.verb,
                    spec,
                    body,
                    deadline,
                )
            )
        finally:
            # If the client has left or the time is over, the thread learns of it.
            deadline.cancel()

    async def _limit_time(self, answer: Awaitable[responses.Body]) -> responses.Body:
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError:
            raise DeadlineExceededError(
                f"No answer within {self._timeout:g} seconds."
            ) from None


async def _run_pending_callbacks() -> None:
    """Let the loop run its pending callbacks; asyncio needs at most three rounds."""
    for _ in range(5):
        await asyncio.sleep(0)


def _preflight(request: web.BaseRequest) -> bytes:
    """Answer a CORS preflight as TensorFlow Serving does: with nothing but headers."""
    if not re.search("https?://", request.headers.get("Origin", "")):
        raise UnmetConditionError("Origin header is missing in CORS preflight")
    return b""


def _error_response(
    error: StatusError, headers: Mapping[str, str] | None = None
) -> Response:
    status = protocol.HTTP_STATUSES.get(error.code, 500)
    if isinstance(error, requests.BodyTooLargeError):
        status = 413
    return responses.error(status, error.details, headers)
