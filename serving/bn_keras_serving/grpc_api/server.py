"""The gRPC server with all its services."""

import logging
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health_pb2_grpc

from bn_keras_serving.common import open_files
from bn_keras_serving.common.event_loop import EventLoopThread
from bn_keras_serving.common.limits import MESSAGE_BYTES, Limits
from bn_keras_serving.configuration import ServerTls
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.workers import Workers
from bn_keras_serving.grpc_api import addresses, health, reflection
from bn_keras_serving.grpc_api.services import SERVICES, add_services

HEALTH_NAMES = ("", "ModelService", "PredictionService", *SERVICES)

# A connection that has not completed its handshakes by then is closed; so is one
# without a call for the second time. Clients connect again by themselves.
HANDSHAKE_MILLISECONDS = 10_000
IDLE_MILLISECONDS = 600_000
PENDING_CALLS = 100_000


class GrpcServer:
    """Server with prediction, model, health and reflection services.

    gRPC's event loop runs in a thread of its own and receives messages; `workers`
    answer them. A call that has not sent its message holds no thread, so it delays
    nobody. Health checks and reflection are answered in the event loop.

    Args:
        dispatcher: Answers the requests.
        workers: Threads that run models.
        information: Threads for requests that run no model: they are answered while all
            of `workers` are busy.
        limits: Limits on what a client may request.
        channel_arguments: Further options for gRPC's server, which override the others.
        tls: Keys and certificates; None disables TLS.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        workers: Workers,
        information: Workers,
        limits: Limits,
        channel_arguments: Mapping[str, str | int],
        tls: ServerTls | None = None,
    ):
        self._tls = tls
        self._loop = EventLoopThread("grpc")
        self._reload = Workers(1, "reload")
        options = {
            # By default two servers can share a port, and then its requests.
            "grpc.so_reuseport": 0,
            "grpc.max_receive_message_length": limits.message_bytes,
            "grpc.max_send_message_length": MESSAGE_BYTES,
            "grpc.max_concurrent_streams": limits.streams_per_connection,
            # The server counts a call until it has cleaned up after it. Clients that
            # keep to the limit would be refused calls that they believe to be free.
            "grpc.http.overload_protection": 0,
            # gRPC cancels calls at random while this many wait to be accepted, and all
            # beyond the second number. Here they wait within their deadlines.
            "grpc.server.max_pending_requests": PENDING_CALLS,
            "grpc.server.max_pending_requests_hard_limit": PENDING_CALLS,
            # The rest is left to the models' files and to REST.
            "grpc.max_allowed_incoming_connections": open_files.limit() // 2,
            "grpc.server_handshake_timeout_ms": HANDSHAKE_MILLISECONDS,
            "grpc.max_connection_idle_ms": IDLE_MILLISECONDS,
            **channel_arguments,
        }

        # The server belongs to the loop in which it is created.
        async def create() -> tuple[grpc.aio.Server, health.Health]:
            server = grpc.aio.server(options=list(options.items()))
            add_services(server, dispatcher, workers, information, self._reload)
            servicer = health.Health(HEALTH_NAMES)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            reflection.add_reflection(server, (*SERVICES, health.SERVICE))
            return server, servicer

        self._server, self._health = self._loop.run(create())
        self._started = False

    def listen(self, address: str) -> int:
        """Listen on an address such as `unix:PATH`, and return its port.

        Raises:
            OSError: If the address cannot be used.
        """

        async def bind() -> int:
            return addresses.bind(self._server, address, self._credentials())

        return self._loop.run(bind())

    def listen_on_port(self, host: str, port: int) -> int:
        """Listen on a port of a host, and return the port: a free one if it is 0.

        Raises:
            ValueError: If the port number is invalid.
            OSError: If the address cannot be used.
        """

        async def bind() -> int:
            return addresses.bind_port(self._server, host, port, self._credentials())

        return self._loop.run(bind())

    def start(self) -> None:
        """Answer requests; health checks report SERVING."""
        self._loop.run(self._server.start())
        self._started = True

    def stop(self, grace: float) -> None:
        """Report NOT_SERVING, accept no more requests, and finish those in progress.

        Args:
            grace: Seconds that they may take. After that they are cancelled and their
                clients are notified.
        """

        async def stop() -> None:
            # Load balancers watch the health: they must see it change before the first
            # request is rejected.
            self._health.enter_graceful_shutdown()
            if not self._started:  # gRPC releases the ports only of a started server
                await self._server.start()
            await self._server.stop(grace)

        self._loop.run(stop())
        self._loop.close()
        self._reload.stop(0)  # a load in progress ends with the models

    def _credentials(self) -> grpc.ServerCredentials | None:
        if self._tls is None:
            return None
        return grpc.ssl_server_credentials(
            [(self._tls.server_key.encode(), self._tls.server_cert.encode())],
            root_certificates=self._tls.custom_ca.encode()
            if self._tls.custom_ca
            else None,
            require_client_auth=self._tls.client_verify,
        )


def _is_about_the_server(record: logging.LogRecord) -> bool:
    """Return whether a record of gRPC's log is about more than a client that has left.

    gRPC logs a traceback if a client disconnects while its answer is being sent, so
    that anybody could fill the disk.
    """
    return not record.getMessage().startswith("ExecuteBatchError")


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_about_the_server)
