"""The flags of `serve`: those of `tensorflow_model_server`, and some of its own."""

from bn_keras.cli import argument_types, unsupported_flags
from bn_keras.cli.flags import add_boolean, add_flag
from bn_keras.cli.parsers import OneLineParser
from bn_keras_serving.common.limits import Limits

# A field of `bn_keras_serving.common.limits.Limits`, and what its option limits.
LIMITS = {
    "message_bytes": "size of a request",
    "elements": "number of elements of an input",
    "string_bytes": "length of one string in an input",
    "concurrent_requests": "number of requests that are answered at a time",
    "connections": "number of connections to REST",
    "streams_per_connection": "number of gRPC calls in progress on a connection",
}


def add_options(parser: OneLineParser) -> None:
    """Add the options of `serve`, in groups."""
    parser.usage = f"{parser.prog} [DIR] [--FLAG=VALUE ...]"
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=argument_types.path,
        help="folder with DIR/<version>; or give --model_base_path or "
        "--model_config_file",
    )
    _add_models(parser)
    _add_loading(parser)
    _add_addresses(parser)
    _add_computation(parser)
    _add_batching(parser)
    _add_observation(parser)
    _add_protection(parser)
    unsupported_flags.add_options(parser)


def _add_models(parser: OneLineParser) -> None:
    group = parser.add_argument_group("models")
    add_flag(
        group,
        "model_name",
        metavar="NAME",
        help='default: the last part of DIR; "default" with --model_base_path',
    )
    add_flag(group, "model_base_path", type=argument_types.path, metavar="DIR")
    add_flag(
        group,
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
        add_flag(
            group,
            name,
            type=argument_types.whole_seconds,
            default=default,
            metavar="SECONDS",
            help="0 to look only once; default: %(default)s",
        )
    add_boolean(
        group,
        "allow_version_labels_for_unavailable_models",
        help="allow labels for versions that are not loaded yet",
    )
    add_flag(
        group,
        "saved_model_tags",
        type=argument_types.names,
        default=("serve",),
        metavar="TAG,...",
        help="tags of the graph in a SavedModel; default: serve",
    )


def _add_loading(parser: OneLineParser) -> None:
    group = parser.add_argument_group("loading")
    add_flag(
        group,
        "num_load_threads",
        type=argument_types.count,
        default=0,
        metavar="N",
        help="versions to load at a time; 0, the default, for one model after the "
        "other at the start and one version of each model afterwards",
    )
    add_flag(
        group,
        "max_num_load_retries",
        type=argument_types.count,
        default=5,
        metavar="N",
        help="how often a failed load is tried again; the start with a single model "
        "has one attempt; default: %(default)s",
    )
    add_flag(
        group,
        "load_retry_interval_micros",
        type=argument_types.integer,
        default=60_000_000,
        metavar="MICROSECONDS",
        help="below 0 for no pause; default: %(default)s",
    )
    add_boolean(
        group,
        "enable_model_warmup",
        default=True,
        help="run the recorded requests of a version before it is served; default: "
        "true",
    )
    add_flag(
        group,
        "num_request_iterations_for_warmup",
        type=argument_types.integer,
        default=1,
        metavar="N",
        help="how often each of them is run; default: %(default)s",
    )


def _add_addresses(parser: OneLineParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    group.add_argument(
        "--port",
        type=argument_types.port,
        default=8500,
        help="port of gRPC; 0 for a free one with DIR, and for none without DIR; "
        "default: %(default)s",
    )
    add_flag(
        group,
        "rest_api_port",
        type=argument_types.port,
        default=0,
        metavar="PORT",
        help="port of REST, the metrics and the status page; 0, the default, for none",
    )
    add_flag(
        group,
        "rest_api_timeout_in_ms",
        type=argument_types.positive_integer,
        default=30000,
        metavar="MS",
        help="time for a REST request, and for a client to read; default: %(default)s",
    )
    add_boolean(
        group,
        "rest_api_enable_cors_support",
        help="let scripts of any web page call REST",
    )
    add_flag(
        group,
        "grpc_socket_path",
        type=argument_types.optional_path,
        metavar="PATH",
        help="also listen on a UNIX socket",
    )
    add_flag(
        group,
        "grpc_channel_arguments",
        type=argument_types.key_value_pairs,
        default={},
        metavar="KEY=VALUE,...",
        help="further options of the gRPC server",
    )
    add_flag(
        group,
        "ssl_config_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="an SSLConfig: TLS, or mutual TLS, for gRPC",
    )


def _add_computation(parser: OneLineParser) -> None:
    group = parser.add_argument_group("threads and results")
    for name, protocol in (
        ("grpc_max_threads", "gRPC"),
        ("rest_api_num_threads", "REST"),
    ):
        add_flag(
            group,
            name,
            type=argument_types.positive_integer,
            metavar="N",
            help=f"{protocol} requests that run a model at a time; default: the number "
            "of processors, at least 4; with batching, all requests",
        )
    for name, meaning in (
        ("tensorflow_session_parallelism", "value of both of the following"),
        ("tensorflow_intra_op_parallelism", "threads of one operation"),
        ("tensorflow_inter_op_parallelism", "operations that run at a time"),
    ):
        add_flag(
            group,
            name,
            type=argument_types.count,
            default=0,
            metavar="N",
            help=f"{meaning}; 0, the default, lets TensorFlow decide",
        )
    add_flag(
        group,
        "tensorflow_session_config_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="a ConfigProto; the numbers above override its own",
    )
    add_flag(
        group,
        "mixed_precision",
        choices=("", "bfloat16"),
        default="",
        help="bfloat16: compute in it where that changes results little",
    )
    add_boolean(
        group, "enable_serialization_as_tensor_content", help="send tensors as bytes"
    )


def _add_batching(parser: OneLineParser) -> None:
    group = parser.add_argument_group("batching")
    add_boolean(group, "enable_batching", help="combine requests into batches")
    add_flag(
        group,
        "batching_parameters_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="BatchingParameters, with --enable_batching",
    )
    add_boolean(
        group,
        "enable_per_model_batching_parameters",
        help="with --enable_batching, batch only versions that contain a "
        "batching_params.pbtxt, by its parameters",
    )


def _add_observation(parser: OneLineParser) -> None:
    group = parser.add_argument_group("metrics and log")
    add_flag(
        group,
        "monitoring_config_file",
        type=argument_types.optional_path,
        metavar="FILE",
        help="a MonitoringConfig: the path of the metrics, or no metrics",
    )
    add_flag(
        group,
        "request_log",
        metavar="FILE",
        help="append a line of JSON for each request; - for the standard output",
    )
    add_flag(
        group,
        "request_log_sampling_rate",
        type=argument_types.share,
        metavar="SHARE",
        help="share of the requests that are logged, from 0 to 1; default: 1",
    )


def _add_protection(parser: OneLineParser) -> None:
    group = parser.add_argument_group("protection (not in tensorflow_model_server)")
    add_flag(
        group,
        "shape_checks",
        choices=("auto", "strict", "off"),
        default="auto",
        help="refuse inputs whose shape is not the signature's: always (strict), never "
        "(off), or where TensorFlow would abort the process (auto, the default)",
    )
    add_boolean(
        group,
        "allow_file_operations",
        help="serve models that read or write files, or run Python, for clients",
    )
    add_boolean(
        group,
        "allow_model_reload",
        default=None,
        help="let clients replace the list of models; default: true if only this "
        "machine can connect or TLS verifies the clients",
    )
    add_flag(
        group,
        "allowed_hosts",
        type=argument_types.names,
        default=(),
        metavar="NAME,...",
        help="Host headers that REST accepts; default: all, or those of this machine "
        "if it listens on loopback",
    )
    for name, meaning in LIMITS.items():
        add_flag(
            group,
            f"max_{name}",
            type=argument_types.limit,
            metavar="N",
            help=f"largest {meaning}; default: {getattr(Limits, name)}",
        )
