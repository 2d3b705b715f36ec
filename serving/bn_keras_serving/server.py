"""Listen for gRPC and REST calls, and stop in order.

Knows no TensorFlow, no file format, no status code: the services answer.
"""

import atexit
import time
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.config import model_server_config_pb2

from bn_keras_serving.common.limits import MESSAGE_BYTES, Limits
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.configuration import (
    BatchingParameters,
    Monitoring,
    ServerTls,
    one_model,
    processors,
    read_models,
)
from bn_keras_serving.dispatch.dispatcher import Inference
from bn_keras_serving.dispatch.warmup import warm_up
from bn_keras_serving.grpc_api import addresses
from bn_keras_serving.grpc_api.health import Health
from bn_keras_serving.grpc_api.services import SERVICES, add_services
from bn_keras_serving.models import Models
from bn_keras_serving.rest import RestServer
from bn_keras_serving.servable.servable import Servable

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
HEALTH_NAMES = ("", "ModelService", "PredictionService", *SERVICES)
# Threads for what runs no model, beside those of the requests for models.
STATE_THREADS = 1024


class PredictionServer:
    """Serves models over gRPC, and over HTTP when asked to.

    Answers `PredictionService`, `ModelService`, `grpc.health.v1` and reflection, and
    TensorFlow Serving's REST interface, written to its sources. Serves the versions of
    one directory, or the models of a configuration.

    Args:
        directory: Directory of numbered versions, `DIRECTORY/1/saved_model.pb`; None
            with `config`.
        model_name: Name to serve under; the directory's last part by default.
        host: Address or name of the interface to listen on.
        port: Port for gRPC; 0 takes a free one, None listens on `socket_path` alone.
        config: `ModelServerConfig` or the path of one, in the place of `directory`.
        rest_port: Port for REST, metrics and the status page; 0 takes a free one, None
            is without.
        socket_path: UNIX socket for gRPC besides.
        batching: How requests are gathered into batches; None for each by itself.
        tls: Keys for gRPC; None is without.
        limits: Caps on what one client may ask.
        tensor_content: Whether Predict answers tensors as bytes.
        poll_seconds: Between looks at the directories; 0 looks once.
        config_poll_seconds: Between looks at the configuration's file; 0 looks once.
        allow_labels_for_unavailable: Whether a label not in use may be given to a
            version that is not loaded.
        rest_timeout: Seconds that a REST request may take.
        metrics_path: HTTP path of the metrics on the REST port; None is without.
        channel_arguments: Further options of gRPC's server.

    Attributes:
        address: `host:port` that clients reach, known once started. Where the host is
            every interface (`0.0.0.0`, `::`), that of this machine's own clients;
            others put its name in the host's place. `unix:PATH` without a port,
            empty without a socket too.
        rest_address: The same for REST; None without.

    Raises:
        ValueError: From `start`: no version that loads, or a port out of range.
        OSError: From `start`: the address cannot be listened on.

    Example:
        ```python
        import tempfile

        import numpy as np
        import tensorflow as tf

        from bn_keras_serving import PredictionClient, PredictionServer

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
        directory: str | Path | None = None,
        model_name: str | None = None,
        host: str = "127.0.0.1",
        port: int | None = 8500,
        *,
        config: model_server_config_pb2.ModelServerConfig | str | Path | None = None,
        rest_port: int | None = None,
        socket_path: str | Path | None = None,
        batching: BatchingParameters | None = None,
        tls: ServerTls | None = None,
        limits: Limits | None = None,
        tensor_content: bool = False,
        poll_seconds: float = 1.0,
        config_poll_seconds: float = 0.0,
        allow_labels_for_unavailable: bool = False,
        rest_timeout: float = 30.0,
        metrics_path: str | None = Monitoring.path,
        channel_arguments: Mapping[str, str | int] | None = None,
    ):
        limits = limits or Limits()
        host = host.strip("[]")  # of an IPv6 address
        self._host = host
        self._port = port
        self._rest_port = rest_port
        self._socket = None if socket_path is None else f"unix:{socket_path}"
        if port is None and rest_port is None and self._socket is None:
            raise ValueError(
                "Expected a port or a socket to listen on. Received: none; give "
                "`port`, `rest_port` or `socket_path`."
            )
        self.address = (
            self._socket or "" if port is None else addresses.joined(host, port)
        )
        self.rest_address = (
            None if rest_port is None else addresses.joined(host, rest_port)
        )
        self._tls = tls
        self._limits = limits
        self._arguments = dict(channel_arguments or {})
        self._running = _running(batching, limits)

        def load(name: str, version: int, path: Path) -> Servable:
            servable = Servable(version, path, batching, limits)
            warm_up(servable, path)
            return servable

        config_path = Path(config) if isinstance(config, (str, Path)) else None
        self._models = Models(
            _models_of(directory, model_name, config),
            load,
            poll_seconds,
            config_path,
            config_poll_seconds,
            allow_labels_for_unavailable,
        )
        self._inference = Inference(
            self._models,
            Metrics(self._models.names),
            tensor_content,
            self._running,
        )
        self._rest_timeout = rest_timeout
        self._metrics_path = metrics_path
        self._rest: RestServer | None = None
        self._health = Health()
        self._server: grpc.Server | None = None
        self._workers: futures.ThreadPoolExecutor | None = None

    def __enter__(self) -> "PredictionServer":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Load the models, listen, and turn health to SERVING."""
        if self._workers is not None:
            raise RuntimeError(
                "Expected one start for each server. Received: a second one; make a "
                "new PredictionServer."
            )
        self._workers = futures.ThreadPoolExecutor(
            self._running, thread_name_prefix="documents"
        )
        self._server = grpc.server(
            futures.ThreadPoolExecutor(
                self._limits.concurrent_requests + STATE_THREADS, "calls"
            ),
            # Two servers may share a port by default, and clients' requests.
            options=[
                *{
                    "grpc.so_reuseport": 0,
                    "grpc.max_receive_message_length": self._limits.message_bytes,
                    "grpc.max_send_message_length": MESSAGE_BYTES,
                    **self._arguments,
                }.items()
            ],
        )
        add_services(self._server, self._inference, self._limits.concurrent_requests)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, HEALTH_SERVICE, reflection.SERVICE_NAME),
            self._server,
        )
        try:
            # A taken port is told before the models' long load.
            self._listen(self._server)
            self._check_rest()
            self._models.start()
            self._start_rest(self._workers)
        except BaseException:
            # gRPC gives a port back only from a server that was started.
            self._server.start()
            self.stop(0)
            raise
        for name in HEALTH_NAMES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        atexit.register(self.stop)  # a forgotten stop must not race the shutdown

    def stop(self, grace: float = 5.0) -> bool:
        """Turn health to NOT_SERVING, take no more requests, finish those begun.

        Args:
            grace: Seconds given to requests and to a load under way. Then requests are
                cancelled and their clients told; what TensorFlow still computes cannot
                be stopped, and is waited for by nobody here.

        Returns:
            Whether all that ran has ended. Where it has not, the interpreter would wait
            for it at its end, and TensorFlow may abort the process there; a program
            that wants to end calls `os._exit`.
        """
        end = time.monotonic() + grace
        atexit.unregister(self.stop)
        self._health.enter_graceful_shutdown()
        stopped = None if self._server is None else self._server.stop(grace)
        if self._rest is not None:
            self._rest.stop(grace)
        if stopped is not None:
            stopped.wait()
        if self._workers is not None:
            self._workers.shutdown(wait=False)
        ended = self._inference.drained(max(0.0, end - time.monotonic()))
        self._models.close(max(0.0, end - time.monotonic()))
        return ended

    def wait(self) -> None:
        """Block until the server has stopped."""
        if self._server is not None:
            self._server.wait_for_termination()

    def _listen(self, server: grpc.Server) -> None:
        credentials = None if self._tls is None else _credentials(self._tls)
        if self._socket is not None:
            addresses.bind(server, self._socket, credentials)
        if self._port is not None:
            bound = addresses.bind_port(server, self._host, self._port, credentials)
            self.address = addresses.joined(addresses.reached(self._host), bound)

    def _check_rest(self) -> None:
        if self._rest_port is None:
            return
        addresses.check_port(self._rest_port, "--rest_api_port")
        taken = addresses.why_not(self._host, self._rest_port, "--rest_api_port")
        if taken is not None:
            raise taken

    def _start_rest(self, workers: futures.Executor) -> None:
        if self._rest_port is None:
            return
        self._rest = RestServer(
            self._inference,
            self._host,
            self._rest_port,
            timeout_seconds=self._rest_timeout,
            metrics_path=self._metrics_path,
            message_bytes=self._limits.message_bytes,
            concurrent_requests=self._limits.concurrent_requests,
            workers=workers,
        )
        bound = self._rest.start()
        self.rest_address = addresses.joined(addresses.reached(self._host), bound)


def _models_of(directory, model_name, config):
    if (directory is None) == (config is None):
        raise ValueError(
            "Expected a directory of versions or a configuration of models. Received: "
            f"{'neither' if directory is None else 'both'}; give one of them."
        )
    if config is not None:
        return read_models(config) if isinstance(config, (str, Path)) else config
    directory = Path(directory).absolute()
    return one_model(model_name or directory.resolve().name, str(directory))


def _running(batching: BatchingParameters | None, limits: Limits) -> int:
    """Requests at their models at a time; batches have a queue of their own."""
    if batching is not None:
        return limits.concurrent_requests
    return max(4, processors())


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.server_key.encode(), tls.server_cert.encode())],
        root_certificates=tls.custom_ca.encode() if tls.custom_ca else None,
        require_client_auth=tls.client_verify,
    )
