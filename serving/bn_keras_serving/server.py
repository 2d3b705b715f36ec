"""The server: starts and stops gRPC, REST and the models in the right order."""

import atexit
import errno
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from bn_keras_serving.common.hosts import is_loopback
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.configuration import (
    BatchingParameters,
    Monitoring,
    ServerTls,
    available_processors,
    read_models,
    session_config,
    single_model,
    version_batching,
)
from bn_keras_serving.configuration.settings import Access, Loading, RequestLog
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.warmup import warm_up
from bn_keras_serving.dispatch.workers import Workers
from bn_keras_serving.grpc_api import addresses
from bn_keras_serving.grpc_api.server import GrpcServer
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.rest.server import RestServer
from bn_keras_serving.servable.memory import release_memory
from bn_keras_serving.servable.servable import Servable

# Threads for requests that run no model, such as those for metadata and metrics.
INFORMATION_THREADS = 2

_logger = logging.getLogger(__name__)


class PredictionServer:
    """Server for exported models over gRPC and, optionally, REST.

    Provides `PredictionService`, `ModelService`, `grpc.health.v1`, reflection and
    TensorFlow Serving's REST interface, as the source code of TensorFlow Serving does.
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
        socket_path: Path of a UNIX socket for gRPC, in addition to `port`. If another
            server listens on it, this one logs an error and uses its port only.
        batching: How concurrent requests are combined into batches; None runs each
            request on its own.
        tls: Keys and certificates for gRPC; None disables TLS.
        limits: Limits on what a client may request; defaults to `Limits()`.
        loading: How versions are loaded and run; defaults to `Loading()`.
        access: Who may do what; defaults to `Access()`.
        request_log: Which requests are logged, and where; None logs none.
        grpc_threads: Number of gRPC requests that are answered at a time. Further
            requests wait as long as their deadlines allow. Defaults to the number of
            processors, and at least 4; with batching, where most of them wait for
            others, to `limits.concurrent_requests`.
        rest_threads: The same for REST.
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
        OSError: Raised by `start` if the server cannot listen on an address, or on its
            only one because another server uses it.

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
        loading: Loading | None = None,
        access: Access | None = None,
        request_log: RequestLog | None = None,
        grpc_threads: int | None = None,
        rest_threads: int | None = None,
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
        self._access = access or Access()
        self._channel_arguments = dict(channel_arguments or {})
        default = max(4, available_processors())
        if batching is not None:
            default = limits.concurrent_requests
        self._grpc_threads = min(grpc_threads or default, limits.concurrent_requests)
        self._rest_threads = min(rest_threads or default, limits.concurrent_requests)
        loading = loading or Loading()
        session_config(loading)  # report a file that cannot be used before any load
        metrics = Metrics(lambda: self._models.names())

        def load(name: str, version: int, path: Path) -> Servable:
            parameters = batching
            if batching is not None and loading.per_model_batching:
                parameters = version_batching(path, batching)
            with metrics.record_load(name, version):
                servable = Servable(version, path, parameters, limits, loading)
            if loading.warmup:
                warm_up(servable, path, loading.warmup_iterations)
            release_memory()
            return servable

        config_path = Path(config) if isinstance(config, (str, Path)) else None
        self._models = ModelRegistry(
            _initial_config(directory, model_name, config),
            load,
            poll_seconds,
            config_path,
            config_poll_seconds,
            allow_labels_for_unavailable,
            loading,
        )
        self._dispatcher = Dispatcher(
            self._models,
            metrics,
            tensor_content,
            self._may_reload(),
            request_log,
        )
        self._rest_timeout = rest_timeout
        self._metrics_path = metrics_path
        self._rest: RestServer | None = None
        self._grpc: GrpcServer | None = None
        self._workers: list[Workers] = []
        self._stopped = threading.Event()

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
        if self._workers:
            raise RuntimeError(
                "A server must be started only once. Received: a second call of start. "
                "Create a new PredictionServer."
            )
        grpc_workers = Workers(self._grpc_threads, "grpc-worker")
        rest_workers = Workers(self._rest_threads, "rest-worker")
        information = Workers(INFORMATION_THREADS, "information")
        self._workers = [grpc_workers, rest_workers, information]
        self._grpc = GrpcServer(
            self._dispatcher,
            grpc_workers,
            information,
            self._limits,
            self._channel_arguments,
            self._tls,
        )
        try:
            # Bind the ports first, so that a port in use is reported before the models
            # are loaded, which can take long.
            self._listen(self._grpc)
            self._check_rest_port()
            self._models.start()
            self._start_rest(rest_workers, information)
            self._grpc.start()
        except BaseException:
            self.stop(0)
            raise
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
        # Both transports stop at the same time, in the same grace period.
        rest_stop = threading.Thread(target=self._stop_rest, args=(grace,))
        rest_stop.start()
        if self._grpc is not None:
            self._grpc.stop(grace)
            self._grpc = None
        rest_stop.join()
        finished = [
            workers.stop(max(0.0, end - time.monotonic())) for workers in self._workers
        ]
        self._models.close(max(0.0, end - time.monotonic()))
        self._dispatcher.request_log.close()
        self._stopped.set()
        return all(finished)

    def wait(self) -> None:
        """Block until the server has stopped."""
        self._stopped.wait()

    def _stop_rest(self, grace: float) -> None:
        if self._rest is not None:
            self._rest.stop(grace)

    def _may_reload(self) -> bool:
        """Return whether clients may replace the list of models."""
        if self._access.allow_reload is not None:
            return self._access.allow_reload
        verified = self._tls is not None and self._tls.client_verify
        return verified or self._port is None or is_loopback(self._host)

    def _listen(self, server: GrpcServer) -> None:
        if self._port is not None:
            port = server.listen_on_port(self._host, self._port)
            self.address = _client_address(self._host, port)
        if self._socket is not None:
            try:
                server.listen(self._socket)
            except OSError as error:
                # TensorFlow Serving would take the socket away from a running server.
                # Whoever starts several with one command line gets their ports.
                if error.errno != errno.EADDRINUSE or self._port is None:
                    raise
                _logger.error("%s This server uses its port only.", error.strerror)

    def _check_rest_port(self) -> None:
        if self._rest_port is None:
            return
        addresses.check_port(self._rest_port, "--rest_api_port")
        error = addresses.bind_error(self._host, self._rest_port, "--rest_api_port")
        if error is not None:
            raise error

    def _start_rest(self, workers: Workers, information: Workers) -> None:
        if self._rest_port is None:
            return
        self._rest = RestServer(
            self._dispatcher,
            self._host,
            self._rest_port,
            workers=workers,
            information=information,
            limits=self._limits,
            access=self._access,
            timeout_seconds=self._rest_timeout,
            metrics_path=self._metrics_path,
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
