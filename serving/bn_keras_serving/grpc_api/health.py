"""The health service, `grpc.health.v1`."""

import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

# Sends a response on a Watch stream; None ends the stream.
SendResponse = Callable[[health_pb2.HealthCheckResponse | None], None]


class Health(health.HealthServicer):
    """A health service that closes its Watch streams on shutdown.

    With gRPC's own class, an open stream lets every shutdown last for its whole grace
    period.
    """

    def __init__(self) -> None:
        super().__init__()
        self._streams_lock = threading.Lock()
        self._streams: set[SendResponse | None] = set()

    # gRPC's own class returns a stream unless it is given a callback to send with.
    def Watch(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: SendResponse | None = None,
    ) -> Any:
        """Send the state now and whenever it changes."""
        with self._streams_lock:
            self._streams.add(send_response_callback)
        if not context.add_callback(lambda: self._forget(send_response_callback)):
            # The call has already ended, so the callback will never run.
            self._forget(send_response_callback)
        return super().Watch(request, context, send_response_callback)

    def enter_graceful_shutdown(self) -> None:
        """Set every state to NOT_SERVING and close the streams."""
        super().enter_graceful_shutdown()
        # Closing a stream calls `_forget`, which takes the lock.
        with self._streams_lock:
            open_streams = list(self._streams)
        for send in open_streams:
            if send is not None:
                send(None)

    def _forget(self, send_response_callback: SendResponse | None) -> None:
        with self._streams_lock:
            self._streams.discard(send_response_callback)
