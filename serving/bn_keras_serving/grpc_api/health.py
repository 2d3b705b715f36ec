"""The health service, `grpc.health.v1`."""

import asyncio
from collections.abc import AsyncIterator, Collection

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """Health of services that are all in the same state: serving, then shutting down.

    Every method is a coroutine in the event loop that receives the messages, so that a
    health check never waits for a thread. gRPC's own class lacks `List`, and keeps
    Watch streams open during the whole grace period of a shutdown.

    Args:
        names: The names of the services.
    """

    def __init__(self, names: Collection[str]):
        self._names = list(names)
        self._stopping = asyncio.Event()

    def enter_graceful_shutdown(self) -> None:
        """Report NOT_SERVING from now on, and end the Watch streams after that."""
        self._stopping.set()

    # gRPC chooses the names of the methods.
    async def Check(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext,
    ) -> health_pb2.HealthCheckResponse:
        """Return the state of one service."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=self._status())

    async def List(  # noqa: N802
        self,
        request: health_pb2.HealthListRequest,
        context: grpc.aio.ServicerContext,
    ) -> health_pb2.HealthListResponse:
        """Return the states of all services."""
        response = _Response(status=self._status())
        return health_pb2.HealthListResponse(
            statuses=dict.fromkeys(self._names, response)
        )

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the state of one service now and when it changes."""
        if request.service not in self._names:
            yield _Response(status=_Response.SERVICE_UNKNOWN)
            await self._stopping.wait()
            return
        if not self._stopping.is_set():
            yield _Response(status=_Response.SERVING)
            await self._stopping.wait()
        yield _Response(status=_Response.NOT_SERVING)

    def _status(self) -> "_Response.ServingStatus":
        return _Response.NOT_SERVING if self._stopping.is_set() else _Response.SERVING
