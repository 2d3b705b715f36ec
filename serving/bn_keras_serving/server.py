"""The server: starts and stops gRPC, REST and the models in the right order."""

import atexit
import time
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from tensorflow_serving.config import model_server_config_pb2

from bn_keras_serving.common.limits import Limits
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.configuration import (
    BatchingParameters,
    Monitoring,
    ServerTls,
    available_processors,
    read_models,
    single_model,
)
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.warmup import warm_up
from bn_keras_serving.grpc_api import addresses
from bn_keras_serving.grpc_api.health import Health
from bn_keras_serving.grpc_api.server import create_server, server_credentials
from bn_keras_serving.grpc_api.services import SERVICES
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.rest import RestServer
from bn_keras_serving.servable.servable import Servable

HEALTH_NAMES = ("", "ModelService", "PredictionService", *SERVICES)


class PredictionServer:
    """Server for exported models over gRPC and, optionally, REST.

    Provides `PredictionService`, `ModelService`, `grpc.health.v1`, reflection and
    TensorFlow Serving's REST interface, written to the sources of TensorFlow Serving.
    It serves the versions in one directory, or several models by a configuration.

    Args:
        directory: Directory of numbered versions, as in `DIRECTORY/1/saved_model.pb`;
            None if `config` is given.
        model_name: Name of the model. Defaults to the last part of `directory`.
        host: Address or name of the interface to listen on.
        port: Port for gRPC. 0 chooses a free port; None listens on `socket_path` only.
        config: A `ModelServerConfig`, or the path of a file with one, instead of
            `directory`.
        rest_port: Port for REST, metrics and the status page. 0 chooses a free port;
            None disables them.
        socket_path: Path of a UNIX socket for gRPC, in addition to `port`.
        batching: How concurrent requests are combined into batches; None runs each
            request on its own.
        tls: Keys and certificates for gRPC; None disables TLS.
        limits: Limits on what a client may request; defaults to `Limits()`.
        tensor_content: Whether Predict encodes output tensors as bytes.
        poll_seconds: Seconds between two polls of the models' directories; 0 polls only
            at the start.
        config_poll_seconds: Seconds between two polls of the configuration file; 0
            polls only at the start.
        allow_labels_for_unavailable: Whether a label that is not in use may be assigned
            to a version that is not loaded.
        rest_timeout: Maximum number of seconds for a REST request.
        metrics_path: HTTP path of the metrics on the REST port; None disables them.
        channel_arguments: Further options for gRPC's server.

    Attributes:
        address: `host:port` that clients connect to, final once the server has started.
            If the server listens on every interface (`0.0.0.0`, `::`), this is the
            address for clients on the same machine; others replace the host with the
            machine's name. Without a port it is `unix:PATH`, and without a socket
            either it is empty.
        rest_address: The same for REST; None if REST is disabled.

    Raises:
        ValueError: If neither or both of `directory` and `config` are given, or there
            is nothing to listen on. `start` raises it if no version loads or a port is
            out of range.
        OSError: Raised by `start` if the server cannot listen on an address.

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
                    outputs = client.predict(np.ones(3, np.float32))
        assert outputs["y"].tolist() == [2, 2, 2]
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
        host = host.strip("[]")  # brackets around an IPv6 address
        self._host = host
        self._port = port
        self._rest_port = rest_port
        self._socket = None if socket_path is None else f"unix:{socket_path}"
        if port is None and rest_port is None and self._socket is None:
            raise ValueError(
                "A server must have a port or a socket to listen on. Received: "
                "port=None, rest_port=None, socket_path=None. Give one of them."
            )
        self.address: str = (
            self._socket or "" if port is None else addresses.format_address(host, port)
        )
        self.rest_address: str | None = (
            None if rest_port is None else addresses.format_address(host, rest_port)
        )
        self._tls = tls
        self._limits = limits
        self._channel_arguments = dict(channel_arguments or {})
        self._parallel_runs = _parallel_runs(batching, limits)

        def load(name: str, version: int, path: Path) -> Servable:
            servable = Servable(version, path, batching, limits)
            warm_up(servable, path)
            return servable

        config_path = Path(config) if isinstance(config, (str, Path)) else None
        self._models = ModelRegistry(
            _initial_config(directory, model_name, config),
            load,
            poll_seconds,
            config_path,
            config_poll_seconds,
            allow_labels_for_unavailable,
        )
        self._dispatcher = Dispatcher(
            self._models,
            Metrics(self._models.names),
            tensor_content,
            self._parallel_runs,
        )
        self._rest_timeout = rest_timeout
        self._metrics_path = metrics_path
        self._rest: RestServer | None = None
        self._health = Health()
        self._server: grpc.Server | None = None
        self._rest_workers: futures.ThreadPoolExecutor | None = None

    def __enter__(self) -> "PredictionServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Load the models, listen for requests, and set the health to SERVING.

        Raises:
            RuntimeError: If the server has been started before.
            ValueError: If no version loads or a port is out of range.
            OSError: If the server cannot listen on an address.
        """
        if self._rest_workers is not None:
            raise RuntimeError(
                "A server must be started only once. Received: a second call of start. "
                "Create a new PredictionServer."
            )
        self._rest_workers = futures.ThreadPoolExecutor(
            self._parallel_runs, thread_name_prefix="documents"
        )
        self._server = create_server(
            self._dispatcher, self._health, self._limits, self._channel_arguments
        )
        try:
            # Bind the ports first, so that a port in use is reported before the models
            # are loaded, which can take long.
            self._listen(self._server)
            self._check_rest_port()
            self._models.start()
            self._start_rest(self._rest_workers)
        except BaseException:
            # gRPC releases a port only if the server has been started.
            self._server.start()
            self.stop(0)
            raise
        for name in HEALTH_NAMES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        # If the program does not call `stop`, its threads must not race with the
        # shutdown of the interpreter.
        atexit.register(self.stop)

    def stop(self, grace: float = 5.0) -> bool:
        """Stop the server after the requests in progress.

        The health is set to NOT_SERVING first; then no more requests are accepted.

        Args:
            grace: Seconds that requests and a load in progress may take to finish.
                After that, requests are cancelled and their clients are notified; a
                computation inside TensorFlow cannot be cancelled, and the call returns
                without waiting for it.

        Returns:
            Whether everything has finished. If not, the interpreter would wait for the
            computation at exit, and TensorFlow might abort the process; a program that
            wants to exit should call `os._exit`.
        """
        end = time.monotonic() + grace
        atexit.unregister(self.stop)
        # Load balancers watch the health: they must see it change before the first
        # request is rejected.
        self._health.enter_graceful_shutdown()
        # gRPC's stop returns at once; REST stops meanwhile, in the same grace period.
        stopped = None if self._server is None else self._server.stop(grace)
        if self._rest is not None:
            self._rest.stop(grace)
        if stopped is not None:
            stopped.wait()
        if self._rest_workers is not None:
            self._rest_workers.shutdown(wait=False)
        finished = self._dispatcher.drain(max(0.0, end - time.monotonic()))
        self._models.close(max(0.0, end - time.monotonic()))
        return finished

    def wait(self) -> None:
        """Block until the server has stopped."""
        if self._server is not None:
            self._server.wait_for_termination()

    def _listen(self, server: grpc.Server) -> None:
        credentials = None if self._tls is None else server_credentials(self._tls)
        if self._socket is not None:
            addresses.bind(server, self._socket, credentials)
        if self._port is not None:
            port = addresses.bind_port(server, self._host, self._port, credentials)
            self.address = _client_address(self._host, port)

    def _check_rest_port(self) -> None:
        if self._rest_port is None:
            return
        addresses.check_port(self._rest_port, "--rest_api_port")
        error = addresses.bind_error(self._host, self._rest_port, "--rest_api_port")
        if error is not None:
            raise error

    def _start_rest(self, workers: futures.Executor) -> None:
        if self._rest_port is None:
            return
        self._rest = RestServer(
            self._dispatcher,
            self._host,
            self._rest_port,
            timeout_seconds=self._rest_timeout,
            metrics_path=self._metrics_path,
            message_bytes=self._limits.message_bytes,
            concurrent_requests=self._limits.concurrent_requests,
            workers=workers,
        )
        self.rest_address = _client_address(self._host, self._rest.start())


def _client_address(host: str, port: int) -> str:
    return addresses.format_address(addresses.client_host(host), port)


def _initial_config(
    directory: str | Path | None,
    model_name: str | None,
    config: model_server_config_pb2.ModelServerConfig | str | Path | None,
) -> model_server_config_pb2.ModelServerConfig:
    if directory is not None and config is None:
        directory = Path(directory).absolute()
        return single_model(model_name or directory.resolve().name, str(directory))
    if config is None or directory is not None:
        raise ValueError(
            "Exactly one of `directory` and `config` must be given. Received: "
            f"{'neither' if config is None else 'both'}."
        )
    return read_models(config) if isinstance(config, (str, Path)) else config


def _parallel_runs(batching: BatchingParameters | None, limits: Limits) -> int:
    """Return how many models may run at a time; batching has a queue of its own."""
    if batching is not None:
        return limits.concurrent_requests
    return max(4, available_processors())
