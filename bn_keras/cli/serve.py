"""The command `serve`, with the flags of `tensorflow_model_server`."""

import argparse
import contextlib
import gc
import logging
import os
import signal
from typing import Any

from bn_keras import devices
from bn_keras.cli import argument_types
from bn_keras.cli.parsers import OneLineParser

# A field of `bn_keras_serving.common.limits.Limits`, and what its option limits.
LIMITS = {
    "message_bytes": "size of a request",
    "elements": "number of elements of an input",
    "string_bytes": "length of one string in an input",
    "concurrent_requests": "number of requests that run or wait",
}

_BOOLEAN: dict[str, Any] = {
    "type": argument_types.boolean,
    "nargs": "?",
    "const": True,
    "default": False,
    "metavar": "true|false",
}


def add_options(parser: OneLineParser) -> None:
    """Add the options of `serve`."""
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=argument_types.path,
        help="folder with DIR/<version>; or give --model_base_path or "
        "--model_config_file",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument(
        "--port",
        type=argument_types.port,
        default=8500,
        help="port of gRPC; 0 for a free one with DIR, and for none without DIR; "
        "default: %(default)s",
    )
    _add_flag(
        parser,
        "rest_api_port",
        type=argument_types.port,
        default=0,
        metavar="PORT",
        help="port of REST, the metrics and the status page; 0, the default, for none",
    )
    _add_flag(
        parser,
        "rest_api_timeout_in_ms",
        type=argument_types.positive_integer,
        default=30000,
        metavar="MS",
        help="default: %(default)s",
    )
    _add_flag(
        parser,
        "grpc_socket_path",
        type=argument_types.optional_path,
        metavar="PATH",
        help="also listen on a UNIX socket",
    )
    _add_flag(
        parser,
        "model_name",
        metavar="NAME",
        help='default: the last part of DIR; "default" with --model_base_path',
    )
    _add_flag(parser, "model_base_path", type=argument_types.path, metavar="DIR")
    _add_flag(
        parser,
        "model_config_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="a ModelServerConfig: several models, version policies, labels; the two "
        "options above are then ignored",
    )
    for name, default in (
        ("model_config_file_poll_wait_seconds", 0),
        ("file_system_poll_wait_seconds", 1),
    ):
        _add_flag(
            parser,
            name,
            type=argument_types.whole_seconds,
            default=default,
            metavar="SECONDS",
            help="0 to look only once; default: %(default)s",
        )
    _add_flag(
        parser,
        "allow_version_labels_for_unavailable_models",
        **_BOOLEAN,
        help="allow labels for versions that are not loaded yet",
    )
    _add_flag(
        parser,
        "monitoring_config_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="a MonitoringConfig: the path of the metrics, or no metrics",
    )
    _add_flag(parser, "enable_batching", **_BOOLEAN)
    _add_flag(
        parser,
        "batching_parameters_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="BatchingParameters, with --enable_batching",
    )
    _add_flag(
        parser,
        "ssl_config_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="an SSLConfig: TLS, or mutual TLS, for gRPC",
    )
    _add_flag(
        parser,
        "grpc_channel_arguments",
        type=argument_types.key_value_pairs,
        default={},
        metavar="KEY=VALUE,...",
        help="further options of the gRPC server",
    )
    _add_flag(
        parser,
        "enable_serialization_as_tensor_content",
        **_BOOLEAN,
        help="send tensors as bytes",
    )
    for name, meaning in LIMITS.items():
        _add_flag(
            parser,
            f"max_{name}",
            type=argument_types.limit,
            metavar="N",
            help=f"largest {meaning}",
        )


def _add_flag(parser: OneLineParser, name: str, **settings: Any) -> None:
    """Add an option that is spelled with underscores or with hyphens."""
    parser.add_argument(f"--{name}", **settings)
    # The help shows TensorFlow Serving's spelling only.
    settings |= {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    parser.add_argument(f"--{name.replace('_', '-')}", dest=name, **settings)


def start(options: argparse.Namespace) -> None:
    """Start TensorFlow; a served model does not need Keras."""
    devices.start_tensorflow()


def run(options: argparse.Namespace) -> int:
    """Serve models until interrupted."""
    from bn_keras_serving import PredictionServer

    logging.basicConfig(format="bn-keras: %(message)s")
    logging.getLogger("bn_keras_serving").setLevel(logging.INFO)
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


def _server_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of `bn_keras_serving.PredictionServer`."""
    from bn_keras_serving import configuration
    from bn_keras_serving.common.limits import Limits

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
    # As in TensorFlow Serving, a configuration file takes precedence over the path.
    base_path = options.directory
    if options.model_config_file is None and base_path is None:
        base_path = options.model_base_path
    if options.batching_parameters_file and not options.enable_batching:
        raise ValueError(
            "--batching_parameters_file supplied without --enable_batching; give both"
        )
    batching = tls = None
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
    limits = {name: getattr(options, f"max_{name}") for name in LIMITS}
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
