"""Listen for gRPC calls, and stop in order.

Knows no TensorFlow, no file format, no status code: the services answer.
"""

import atexit
import errno
import os
import socket
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import tensors
from serving.servables import Servables
from serving.services import ModelService, PredictionService

HEALTH_NAMES = (
    "",
    "ModelService",
    "PredictionService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)


class PredictionServer:
    """Serves the latest version of one model over gRPC.

    Answers `PredictionService` (Predict, GetModelMetadata), `ModelService`
    (GetModelStatus) and `grpc.health.v1`, written to the sources of TensorFlow
    Serving.

    Args:
        directory: Directory of numbered versions, `DIRECTORY/1/saved_model.pb`.
        model_name: Name to serve under; the directory's last part by default.
        host: Address or name of the interface to listen on.
        port: Port to listen on; 0 takes a free one.

    Attributes:
        address: `host:port` that clients reach, known once started. Where the host is
            every interface (`0.0.0.0`, `::`), that of this machine's own clients;
            others put its name in the host's place.

    Raises:
        ValueError: From `start`: no version that loads, or a port out of range.
        OSError: From `start`: the address cannot be listened on.

    Example:
        ```python
        import tempfile

        import numpy as np
        import tensorflow as tf

        from serving import PredictionClient, PredictionServer

        model = tf.Module()
        model.double = tf.function(
            lambda x: {"y": 2 * x},
            input_signature=[tf.TensorSpec([None], tf.float32, "x")],
            autograph=False,
        )
        with tempfile.TemporaryDirectory() as directory:
            tf.saved_model.save(model, f"{directory}/1", signatures=model.double)
            with PredictionServer(directory, "double", port=0) as server:
                with PredictionClient(server.address, "double") as client:
                    answer = client.predict(np.ones(3, np.float32))
        assert answer["y"].tolist() == [2, 2, 2]
        ```
    """

    def __init__(
        self,
        directory: str | Path,
        model_name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8500,
    ):
        self.address = _address(host, port)
        self._host = host
        self._port = port
        self._servables = Servables(directory, model_name)
        self._health = _Health()
        self._server: grpc.Server | None = None
        self._workers: futures.ThreadPoolExecutor | None = None

    def __enter__(self) -> "PredictionServer":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Load the model, listen, and turn health to SERVING."""
        if self._workers is not None:
            raise RuntimeError(
                "Expected one start for each server. Received: a second one; make a "
                "new PredictionServer."
            )
        self._workers = futures.ThreadPoolExecutor(
            max_workers=max(8, 2 * (os.cpu_count() or 1)),
            thread_name_prefix="predictions",
        )
        self._server = grpc.server(
            self._workers,
            options=[
                # Two servers may share a port by default, and clients' requests.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", tensors.MAXIMUM_MESSAGE_BYTES),
                ("grpc.max_send_message_length", tensors.MAXIMUM_MESSAGE_BYTES),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(self._servables), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self._servables), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            # A taken port is told before the model's long load.
            self._listen(self._server)
            self._servables.start()
        except BaseException:
            # gRPC gives a port back only from a server that was started.
            self._server.start()
            self.stop(0)
            raise
        for name in HEALTH_NAMES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        atexit.register(self.stop)  # a forgotten stop must not race the shutdown

    def stop(self, grace: float = 5.0) -> None:
        """Turn health to NOT_SERVING, take no more requests, finish those begun.

        Args:
            grace: Seconds given to requests and to a load under way. Then requests are
                cancelled and their clients told; what TensorFlow still computes cannot
                be stopped, is waited for by nobody here, and holds up the end of the
                process alone.
        """
        end = time.monotonic() + grace
        atexit.unregister(self.stop)
        self._health.enter_graceful_shutdown()
        if self._server is not None:
            self._server.stop(grace).wait()
        if self._workers is not None:
            self._workers.shutdown(wait=False)
        self._servables.close(max(0.0, end - time.monotonic()))

    def wait(self) -> None:
        """Block until the server has stopped."""
        if self._server is not None:
            self._server.wait_for_termination()

    def _listen(self, server: grpc.Server) -> None:
        if not 0 <= self._port < 2**16:
            raise ValueError(
                "Expected a port from 0 to 65535, 0 for any free one. "
                f"Received: {self._port}; choose one with --port."
            )
        try:
            bound = server.add_insecure_port(_address(self._host, self._port))
        except RuntimeError as error:
            number, why = _why_not(self._host, self._port)
            raise OSError(
                number,
                "Expected an address free to listen on. Received: "
                f"{self.address}, {why}.",
            ) from error
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        self.address = _address(reached, bound)


class _Health(health.HealthServicer):
    """Health whose open Watch streams end with it: they would use up all of a grace."""

    def __init__(self):
        super().__init__()
        self._guard = threading.Lock()
        self._streams = set()

    # gRPC's own class returns a stream where it is handed no callback to send by.
    def Watch(  # noqa: N802 # pyright: ignore[reportIncompatibleMethodOverride]
        self, request, context, send_response_callback=None
    ):
        with self._guard:
            self._streams.add(send_response_callback)
        context.add_callback(lambda: self._forget(send_response_callback))
        return super().Watch(request, context, send_response_callback)

    def enter_graceful_shutdown(self):
        super().enter_graceful_shutdown()
        with self._guard:
            open_streams = list(self._streams)
        for send in open_streams:
            send(None)

    def _forget(self, send_response_callback):
        with self._guard:
            self._streams.discard(send_response_callback)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _why_not(host: str, port: int) -> tuple[int, str]:
    """Ask the system why an address cannot be listened on: gRPC does not tell."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except socket.gaierror:
        return errno.EADDRNOTAVAIL, "a host that no name is known for; correct --host"
    except PermissionError:
        return errno.EACCES, "a port kept for the system; choose another with --port"
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return errno.EADDRNOTAVAIL, "a host not of this machine; correct --host"
    return (
        errno.EADDRINUSE,
        "taken; choose another port with --port, 0 for any free one",
    )
