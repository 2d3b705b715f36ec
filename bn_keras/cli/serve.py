"""The command `serve`, with the flags of `tensorflow_model_server`."""

import argparse
import contextlib
import gc
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from bn_keras import devices
from bn_keras.cli import serve_flags, unsupported_flags
from bn_keras.cli.parsers import OneLineParser

if TYPE_CHECKING:
    from bn_keras_serving.configuration.settings import Loading


def add_options(parser: OneLineParser) -> None:
    """Add the options of `serve`."""
    serve_flags.add_options(parser)


def start(options: argparse.Namespace) -> None:
    """Start TensorFlow; a served model does not need Keras."""
    _set_thread_pools(options)
    devices.start_tensorflow()


def run(options: argparse.Namespace) -> int:
    """Serve models until interrupted."""
    from bn_keras_serving import PredictionServer
    from bn_keras_serving.common import open_files

    open_files.raise_limit()
    logging.basicConfig(format="bn-keras: %(message)s")
    logging.getLogger("bn_keras_serving").setLevel(logging.INFO)
    for warning in _warnings(options):
        logging.getLogger("bn_keras_serving").warning(warning)
    server = PredictionServer(**_server_arguments(options))
    # Unloading a version collects garbage. What has been imported so far stays, and
    # need not be searched each time.
    gc.freeze()
    server.start()
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        addresses = [server.address] if server.address else []
        if options.host in ("0.0.0.0", "::"):
            addresses.append("this machine's other addresses")
        if server.rest_address:
            addresses.append(f"http://{server.rest_address}")
        # If the line cannot be written, to a full disk for example, serve anyway.
        with contextlib.suppress(OSError):
            where = ", ".join(addresses)
            print(f"serving at {where}, press Ctrl-C to stop", flush=True)
        server.wait()
    except KeyboardInterrupt:
        pass
    # A second Ctrl-C must not interrupt the stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not server.stop():
        # Threads are still computing, and the interpreter would wait for them.
        os._exit(0)
    return 0


def _warnings(options: argparse.Namespace) -> list[str]:
    """Return a line for each flag that was given and has no effect."""
    return [
        f"--{name} has no effect: {reason}."
        for name, reason in unsupported_flags.WITHOUT_EFFECT.items()
        if getattr(options, name) is not None
    ]


def _set_thread_pools(options: argparse.Namespace) -> None:
    """Set the sizes of TensorFlow's thread pools, before it creates them.

    The threads for one operation belong to the process, and cannot be changed once
    TensorFlow has opened its devices.
    """
    if not (
        options.tensorflow_session_parallelism
        or options.tensorflow_intra_op_parallelism
        or options.tensorflow_inter_op_parallelism
        or options.tensorflow_session_config_file
    ):
        return
    from bn_keras_serving.configuration import session_config

    with contextlib.suppress(ValueError):  # raised again when the server is created
        config = session_config(_loading(options))
        for name, threads in (
            ("INTRAOP", config.intra_op_parallelism_threads),
            ("INTEROP", config.inter_op_parallelism_threads),
        ):
            if threads:
                os.environ[f"TF_NUM_{name}_THREADS"] = str(threads)


def _server_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of `bn_keras_serving.PredictionServer`.

    Raises:
        ValueError: If options contradict each other, or a file cannot be used.
    """
    from bn_keras_serving import configuration
    from bn_keras_serving.common.limits import Limits
    from bn_keras_serving.configuration.settings import Access, RequestLog

    _check_combination(options)
    # As in TensorFlow Serving, a configuration file takes precedence over the path.
    base_path = options.directory
    if options.model_config_file is None and base_path is None:
        base_path = options.model_base_path
    batching = tls = request_log = None
    if options.enable_batching:
        batching = configuration.BatchingParameters()
        if options.batching_parameters_file:
            batching = configuration.read_batching(options.batching_parameters_file)
    if options.ssl_config_file:
        tls = configuration.read_tls(options.ssl_config_file)
    metrics = {}
    if options.monitoring_config_file:
        monitoring = configuration.read_monitoring(options.monitoring_config_file)
        metrics["metrics_path"] = monitoring.path if monitoring.enable else None
    if options.request_log:
        rate = options.request_log_sampling_rate
        request_log = RequestLog(options.request_log, 1.0 if rate is None else rate)
    limits = {name: getattr(options, f"max_{name}") for name in serve_flags.LIMITS}
    model_name = options.model_name
    if options.directory is None and model_name is None:
        model_name = "default"
    return {
        "directory": base_path,
        "model_name": model_name,
        "host": options.host,
        "port": options.port if options.port or options.directory else None,
        "config": options.model_config_file,
        "rest_port": options.rest_api_port or None,
        "socket_path": options.grpc_socket_path,
        "batching": batching,
        "tls": tls,
        "limits": Limits(
            **{name: value for name, value in limits.items() if value is not None}
        ),
        "loading": _loading(options),
        "access": Access(
            options.allow_model_reload,
            options.allowed_hosts,
            options.rest_api_enable_cors_support,
        ),
        "request_log": request_log,
        "grpc_threads": options.grpc_max_threads,
        "rest_threads": options.rest_api_num_threads,
        "tensor_content": options.enable_serialization_as_tensor_content,
        "poll_seconds": options.file_system_poll_wait_seconds,
        "config_poll_seconds": options.model_config_file_poll_wait_seconds,
        "allow_labels_for_unavailable": (
            options.allow_version_labels_for_unavailable_models
        ),
        "rest_timeout": options.rest_api_timeout_in_ms / 1000,
        "channel_arguments": options.grpc_channel_arguments,
        **metrics,
    }


def _loading(options: argparse.Namespace) -> "Loading":
    """Return how versions are loaded and run."""
    from bn_keras_serving.configuration.settings import Loading

    intra = options.tensorflow_intra_op_parallelism
    inter = options.tensorflow_inter_op_parallelism
    if not (intra or inter):
        intra = inter = options.tensorflow_session_parallelism
    return Loading(
        tags=options.saved_model_tags or ("serve",),
        shape_checks=options.shape_checks,
        allow_file_operations=options.allow_file_operations,
        retries=options.max_num_load_retries,
        retry_seconds=max(0.0, options.load_retry_interval_micros / 1e6),
        threads=options.num_load_threads,
        warmup=options.enable_model_warmup,
        warmup_iterations=max(1, options.num_request_iterations_for_warmup),
        intra_op_threads=intra,
        inter_op_threads=inter,
        session_config_file=options.tensorflow_session_config_file,
        mixed_precision=options.mixed_precision,
        per_model_batching=options.enable_per_model_batching_parameters,
    )


def _check_combination(options: argparse.Namespace) -> None:
    has_flags = (
        options.model_base_path is not None or options.model_config_file is not None
    )
    if (options.directory is not None) == has_flags:
        raise ValueError(
            "Either DIR or one of --model_base_path and --model_config_file must be "
            f"given. Received: {'both' if has_flags else 'none'}. Give one"
        )
    if not (
        options.port
        or options.directory
        or options.rest_api_port
        or options.grpc_socket_path
    ):
        raise ValueError(
            "A --port, a --rest_api_port or a --grpc_socket_path to listen on must be "
            "given. Received: --port=0, which without DIR means no port. Give one"
        )
    for name, missing in (
        ("batching_parameters_file", "enable_batching"),
        ("request_log_sampling_rate", "request_log"),
    ):
        if getattr(options, name) is not None and not getattr(options, missing):
            raise ValueError(f"--{name} supplied without --{missing}; give both")
    parallelism = [
        f"--tensorflow_{name}_parallelism"
        for name in ("session", "intra_op", "inter_op")
    ]
    if all(getattr(options, name.removeprefix("--")) for name in parallelism):
        raise ValueError(
            f"{parallelism[0]} must not be given with both of the others. Received: "
            f"{', '.join(parallelism)}. Give the first or the others"
        )
