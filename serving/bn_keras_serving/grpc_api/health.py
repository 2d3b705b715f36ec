"""Tell whether the server takes requests: `grpc.health.v1`.

Knows no model.
"""

import threading

from grpc_health.v1 import health


class Health(health.HealthServicer):
    """Health whose open Watch streams end with it: they would use up all of a grace."""

    def __init__(self):
        super().__init__()
        self._guard = threading.Lock()
        self._streams = set()

    # gRPC's own class returns a stream where it is handed no callback to send by.
    def Watch(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride]
        self, request, context, send_response_callback=None
    ):
        """Send the state now and whenever it changes."""
        with self._guard:
            self._streams.add(send_response_callback)
        if not context.add_callback(lambda: self._forget(send_response_callback)):
            self._forget(send_response_callback)  # the call has ended already
        return super().Watch(request, context, send_response_callback)

    def enter_graceful_shutdown(self):
        """Turn every state to NOT_SERVING, and end the streams."""
        super().enter_graceful_shutdown()
        with self._guard:
            open_streams = list(self._streams)
        for send in open_streams:
            send(None)

    def _forget(self, send_response_callback):
        with self._guard:
            self._streams.discard(send_response_callback)
