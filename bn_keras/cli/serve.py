"""The command `serve`, with the flags of TensorFlow Serving's own server.

Knows the options and what is printed; no protocol.
"""

import argparse
import contextlib
import gc
import logging
import os

from bn_keras.cli import argument_types
from bn_keras.cli.command import command

# A field of `bn_keras_serving.common.limits.Limits`: its option, and what it counts.
CAPS = {
    "message_bytes": "size of a request",
    "elements": "elements of an input",
    "string_bytes": "length of one string in an input",
    "concurrent_requests": "requests under way or waiting",
}


def add(commands):
    """Add this command to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    sub = command(
        commands,
        serve,
        "Serve models over gRPC, and REST when asked, until interrupted. The options "
        "with underscores, but for --max_*, are tensorflow_model_server's own, by name "
        "and meaning; an empty file is none.",
        "bn-keras serve models/digits --port 8500 --rest_api_port 8501",
    )
    sub.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=argument_types.path,
        help="holds DIR/<version>; or give --model_base_path or --model_config_file",
    )
    sub.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    sub.add_argument(
        "--port",
        type=argument_types.port,
        default=8500,
        help="of gRPC; 0 for a free one with DIR, for none without; default: "
        "%(default)s",
    )
    _flag(
        sub,
        "rest_api_port",
        type=argument_types.port,
        default=0,
        help="of REST, metrics and the status page; 0 for none, the default",
    )
    _flag(
        sub,
        "rest_api_timeout_in_ms",
        type=argument_types.positive,
        default=30000,
        metavar="MS",
        help="default: %(default)s",
    )
    _flag(
        sub,
        "grpc_socket_path",
        type=argument_types.path_or_none,
        metavar="PATH",
        help="listen on a UNIX socket too",
    )
    _flag(
        sub,
        "model_name",
        metavar="NAME",
        help='default: last part of DIR; "default" with --model_base_path',
    )
    _flag(sub, "model_base_path", type=argument_types.path, metavar="DIR")
    _flag(
        sub,
        "model_config_file",
        type=argument_types.path_or_none,
        metavar="FILE",
        help="a ModelServerConfig: several models, version policies, labels; the two "
        "above are then ignored",
    )
    for name, default in (
        ("model_config_file_poll_wait_seconds", 0),
        ("file_system_poll_wait_seconds", 1),
    ):
        _flag(
            sub,
            name,
            type=argument_types.waiting,
            default=default,
            metavar="SECONDS",
            help="0 looks once; default: %(default)s",
        )
    _flag(
        sub,
        "allow_version_labels_for_unavailable_models",
        **{**_SWITCH, "help": "labels for versions that are not loaded yet"},
    )
    _flag(
        sub,
        "monitoring_config_file",
        type=argument_types.path_or_none,
        metavar="FILE",
        help="a MonitoringConfig: path of the metrics, or none",
    )
    _flag(sub, "enable_batching", **_SWITCH)
    _flag(
        sub,
        "batching_parameters_file",
        type=argument_types.path_or_none,
        metavar="FILE",
        help="BatchingParameters, with --enable_batching",
    )
    _flag(
        sub,
        "ssl_config_file",
        type=argument_types.path_or_none,
        metavar="FILE",
        help="an SSLConfig: TLS, or mutual TLS, for gRPC",
    )
    _flag(
        sub,
        "grpc_channel_arguments",
        type=argument_types.pairs,
        default={},
        metavar="KEY=VALUE,...",
        help="further options of gRPC's server",
    )
    _flag(
        sub,
        "enable_serialization_as_tensor_content",
        **{**_SWITCH, "help": "answer tensors as bytes"},
    )
    for name, meaning in CAPS.items():
        _flag(
            sub,
            f"max_{name}",
            type=argument_types.counted,
            metavar="N",
            help=f"cap on the {meaning}",
        )


_SWITCH = {
    "type": argument_types.switch,
    "nargs": "?",
    "const": True,
    "default": False,
    "metavar": "true|false",
}


def _flag(parser, name, **settings):
    """One option, with TensorFlow Serving's underscores or with hyphens."""
    # Hidden from the help, not from the command line: one spelling is shown.
    parser.add_argument(f"--{name}", **settings)
    hyphens = name.replace("_", "-")
    settings = {**settings, "help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    parser.add_argument(f"--{hyphens}", dest=name, **settings)


def serve(options):
    """Serve models until interrupted."""
    import signal

    from bn_keras_serving import PredictionServer

    logging.basicConfig(format="bn-keras: %(message)s")
    logging.getLogger("bn_keras_serving").setLevel(logging.INFO)
    server = PredictionServer(**_arguments(options))
    # What is imported stays; without it, each swap of versions would look at all of it.
    gc.freeze()
    server.start()
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        places = [server.address] if server.address else []
        if options.host in ("0.0.0.0", "::"):
            places.append("this machine's other addresses")
        if server.rest_address:
            places.append(f"http://{server.rest_address}")
        # A full disk behind it is no reason to stop.
        with contextlib.suppress(OSError):
            print(f"serving at {', '.join(places)}, Ctrl-C stops", flush=True)
        server.wait()
    except KeyboardInterrupt:
        pass
    # Once is enough: another Ctrl-C must not break the stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not server.stop():
        os._exit(0)
    return 0


def _arguments(options):
    """What `serving.PredictionServer` is made with."""
    from bn_keras_serving import configuration
    from bn_keras_serving.common.limits import Limits

    if (options.directory is None) == (
        options.model_base_path is None and options.model_config_file is None
    ):
        raise ValueError(
            "Expected one of DIR, --model_base_path and --model_config_file. Received: "
            + ("none" if options.directory is None else "several")
            + "; give one"
        )
    if not (
        options.port
        or options.directory
        or options.rest_api_port
        or options.grpc_socket_path
    ):
        raise ValueError(
            "Expected a --port, a --rest_api_port or a --grpc_socket_path to listen "
            "on. Received: --port=0, which is none without DIR; give one"
        )
    base = options.directory
    if options.model_config_file is None and base is None:
        base = options.model_base_path
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
    caps = {name: getattr(options, f"max_{name}") for name in CAPS}
    name = options.model_name
    if options.directory is None and name is None:
        name = "default"
    return {
        "directory": base,
        "model_name": name,
        "host": options.host,
        "port": options.port if options.port or options.directory else None,
        "config": options.model_config_file,
        "rest_port": options.rest_api_port or None,
        "socket_path": options.grpc_socket_path,
        "batching": batching,
        "tls": tls,
        "limits": Limits(**{key: one for key, one in caps.items() if one is not None}),
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
