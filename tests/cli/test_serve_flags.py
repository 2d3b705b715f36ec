"""How `bn-keras serve` reads its flags, which are those of TensorFlow Serving."""

import dataclasses
import logging
import os
import re
import resource
import signal
from pathlib import Path

import pytest

import bn_keras_serving
from bn_keras.cli import command_line, unsupported_flags
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.configuration.settings import Access, Loading, RequestLog

pytestmark = pytest.mark.fast

# The flags in tensorflow_serving/model_servers/main.cc, 2026.
FLAGS_OF_TENSORFLOW_SERVING = [
    "allow_version_labels_for_unavailable_models",
    "batching_parameters_file",
    "enable_batching",
    "enable_grpc_healthcheck_service",
    "enable_model_warmup",
    "enable_per_model_batching_parameters",
    "enable_profiler",
    "enable_serialization_as_tensor_content",
    "enable_signature_method_name_check",
    "file_system_poll_wait_seconds",
    "flush_filesystem_caches",
    "grpc_channel_arguments",
    "grpc_max_threads",
    "grpc_socket_path",
    "load_retry_interval_micros",
    "max_num_load_retries",
    "mixed_precision",
    "model_base_path",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "model_name",
    "monitoring_config_file",
    "num_load_threads",
    "num_request_iterations_for_warmup",
    "num_tflite_interpreters_per_pool",
    "num_tflite_pools",
    "num_unload_threads",
    "per_process_gpu_memory_fraction",
    "platform_config_file",
    "port",
    "prefer_tflite_model",
    "remove_unused_fields_from_bundle_metagraph",
    "rest_api_enable_cors_support",
    "rest_api_num_threads",
    "rest_api_port",
    "rest_api_timeout_in_ms",
    "saved_model_tags",
    "skip_initialize_tpu",
    "ssl_config_file",
    "tensorflow_inter_op_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_session_config_file",
    "tensorflow_session_parallelism",
    "thread_pool_factory_config_file",
    "use_alts_credentials",
    "version",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
]
THREAD_FLAGS = ("session", "intra_op", "inter_op")


@pytest.fixture
def keywords(monkeypatch):
    """The keywords that a fake `PredictionServer` receives."""
    keywords = {}

    class Server:
        address, rest_address = "127.0.0.1:1", None

        def __init__(self, **arguments):
            keywords.update(arguments)

        def start(self):
            pass

        def stop(self):
            return True

        def wait(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(bn_keras_serving, "PredictionServer", Server)
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    level = logging.getLogger("bn_keras_serving").level
    yield keywords
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("bn_keras_serving").setLevel(level)


def test_the_defaults_are_those_of_the_real_server(keywords, capsys):
    assert command_line.main(["serve", "--model_base_path=/models/digits"]) == 0
    assert keywords["directory"] == Path("/models/digits")
    assert keywords["model_name"] == "default"
    assert (
        keywords["port"],
        keywords["rest_port"],
        keywords["socket_path"],
    ) == (8500, None, None)
    assert (
        keywords["poll_seconds"],
        keywords["config_poll_seconds"],
    ) == (1, 0)
    assert (keywords["rest_timeout"], keywords["tensor_content"]) == (
        30,
        False,
    )
    assert (keywords["batching"], keywords["tls"]) == (None, None)
    assert not keywords["allow_labels_for_unavailable"]
    assert keywords["loading"] == Loading()
    assert keywords["access"] == Access()
    assert (keywords["limits"], keywords["request_log"]) == (Limits(), None)
    assert (keywords["grpc_threads"], keywords["rest_threads"]) == (None, None)
    assert capsys.readouterr().out.startswith("serving at ")


def test_as_many_files_may_be_opened_as_the_system_permits(keywords):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1] // 2, limits[1]))
    try:
        assert command_line.main(["serve", "--model_base_path=/m"]) == 0
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limits[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_port_0_means_no_port_without_a_directory(keywords, capsys):
    flags = ["--model_base_path=/m", "--port=0"]
    assert command_line.main(["serve", *flags, "--grpc_socket_path=/s"]) == 0
    assert keywords["port"] is None
    assert command_line.main(["serve", *flags, "--rest_api_port=8501"]) == 0
    assert (keywords["port"], keywords["rest_port"]) == (None, 8501)
    assert command_line.main(["serve", *flags]) == 2
    assert "--port=0, which without DIR means no port" in capsys.readouterr().err
    assert command_line.main(["serve", "/m", "--port=0"]) == 0
    assert keywords["port"] == 0


def test_an_empty_file_name_means_no_file(keywords):
    files = ["--model_config_file=", "--ssl_config_file=", "--grpc_socket_path="]
    assert command_line.main(["serve", "--model_base_path=/m", *files]) == 0
    assert (
        keywords["config"],
        keywords["tls"],
        keywords["socket_path"],
    ) == (None, None, None)


def test_name_and_path_are_ignored_with_a_configuration_file(keywords):
    flags = ["--model_base_path=/m", "--model_name=m", "--model_config_file=/c"]
    assert command_line.main(["serve", *flags]) == 0
    assert (keywords["directory"], keywords["config"]) == (
        None,
        Path("/c"),
    )


def test_batching_without_a_file_has_the_defaults(keywords):
    assert (
        command_line.main(["serve", "--enable_batching=true", "--model_base_path=/m"])
        == 0
    )
    assert keywords["batching"].max_batch_size == 1000


def test_flags_may_be_spelled_with_hyphens(keywords):
    arguments = ["--model-base-path=/m", "--model-name", "m", "--rest-api-port=8501"]
    assert command_line.main(["serve", *arguments, "--max-elements=7"]) == 0
    assert (keywords["model_name"], keywords["rest_port"]) == (
        "m",
        8501,
    )
    assert keywords["limits"].elements == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tensorflow_parallelism=4"], "unrecognized option --tensorflow_parallel"),
        (["--tensorflow_parallelism", "4"], "unrecognized option --tensorflow_parall"),
        (
            [f"--tensorflow_{name}_parallelism=4" for name in THREAD_FLAGS],
            "--tensorflow_session_parallelism must not be given with both of the",
        ),
        (["--prefer_tflite_model=true"], "since TensorFlow Lite models are not served"),
        (["--prefer_tflite_model"], "since TensorFlow Lite models are not served"),
        (["--use_alts_credentials=true"], "since only TLS is supported, by --ssl_conf"),
        (["--enable_profiler=true"], "since there is no profiler service"),
        (["--enable_signature_method_name_check"], "signatures are checked by their"),
        (["--mixed_precision=float16"], "(choose from '', bfloat16)"),
        (["--platform_config_file=/p"], "since TensorFlow is the only platform"),
        (
            ["--thread_pool_factory_config_file=/p"],
            "there are no thread pool factories",
        ),
        (["--max_num_load_retries=-1"], "expected 0 to 2147483647, received -1"),
        (["--grpc_max_threads=0"], "expected 1 or more, received 0"),
        (["--shape_checks=on"], "(choose from auto, strict, off)"),
        (["--request_log_sampling_rate=2"], "expected 0 to 1, received 2"),
        (["--request_log_sampling_rate=0.5"], "without --request_log; give both"),
        (["--request_log_sampling_rate=0"], "without --request_log; give both"),
        (["--enable_batching=maybe"], "with = before it, received 'maybe'"),
        (["--port=65536"], "expected 0 to 65535, received 65536"),
        (["--rest_api_timeout_in_ms=0"], "expected 1 or more, received 0"),
        (["--file_system_poll_wait_seconds=-1"], "0 or more seconds, received -1"),
        (["--grpc_channel_arguments=alone"], "expected KEY=VALUE, received 'alone'"),
        (["--batching_parameters_file=/b"], "without --enable_batching; give both"),
        (["DIR"], "Received: both. Give one"),
        (["--ssl_config_file=/none"], "/none"),
        (["--monitoring_config_file=/none"], "/none"),
    ],
    ids=str,
)
def test_a_wrong_flag_is_an_error_of_one_line(keywords, capsys, arguments, message):
    try:
        status = command_line.main(["serve", "--model_base_path=/m", *arguments])
    except SystemExit as exit_:
        status = exit_.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert message in error
    assert not keywords


def test_a_server_without_a_model_is_refused(keywords, capsys):
    assert command_line.main(["serve", "--port=8500"]) == 2
    error = capsys.readouterr().err
    assert (
        "--model_base_path and --model_config_file must be given. Received: none"
        in error
    )
    assert not keywords


def test_every_flag_of_tensorflow_serving_is_known(keywords):
    parser = command_line.build_parser()
    (commands,) = (
        action for action in parser._actions if getattr(action, "choices", None)
    )
    serve = commands.choices["serve"]
    serve.load()
    names = {option.lstrip("-") for option in serve._option_string_actions}
    assert set(FLAGS_OF_TENSORFLOW_SERVING) - names == set()


def test_flags_of_loading_and_running_reach_the_server(keywords, monkeypatch, tmp_path):
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "0")  # restored at the end
    config = tmp_path / "session.config"
    config.write_text("gpu_options { allow_growth: true }")
    arguments = [
        "--saved_model_tags=serve,gpu",
        "--shape_checks=strict",
        "--allow_file_operations",
        "--max_num_load_retries=7",
        "--load_retry_interval_micros=1500000",
        "--num_load_threads=2",
        "--enable_model_warmup=false",
        "--num_request_iterations_for_warmup=3",
        "--tensorflow_intra_op_parallelism=3",
        "--tensorflow_inter_op_parallelism=4",
        f"--tensorflow_session_config_file={config}",
        "--enable_per_model_batching_parameters",
        "--mixed_precision=bfloat16",
        "--grpc_max_threads=5",
        "--rest_api_num_threads=6",
    ]
    assert command_line.main(["serve", "--model_base_path=/m", *arguments]) == 0
    assert keywords["loading"] == Loading(
        tags=("serve", "gpu"),
        shape_checks="strict",
        allow_file_operations=True,
        retries=7,
        retry_seconds=1.5,
        threads=2,
        warmup=False,
        warmup_iterations=3,
        intra_op_threads=3,
        inter_op_threads=4,
        session_config_file=config,
        mixed_precision="bfloat16",
        per_model_batching=True,
    )
    assert (keywords["grpc_threads"], keywords["rest_threads"]) == (5, 6)
    # TensorFlow reads them when it opens its devices.
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "3"
    assert os.environ["TF_NUM_INTEROP_THREADS"] == "4"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--load_retry_interval_micros=-1"], Loading(retry_seconds=0.0)),
        (["--num_request_iterations_for_warmup=-1"], Loading()),
        (["--saved_model_tags="], Loading()),
        (
            ["--tensorflow_session_parallelism=2"],
            Loading(intra_op_threads=2, inter_op_threads=2),
        ),
        (
            [
                "--tensorflow_session_parallelism=2",
                "--tensorflow_intra_op_parallelism=1",
            ],
            Loading(intra_op_threads=1),
        ),
    ],
)
def test_values_have_the_meaning_that_they_have_in_tensorflow_serving(
    keywords, monkeypatch, arguments, expected
):
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "0")
    assert command_line.main(["serve", "--model_base_path=/m", *arguments]) == 0
    assert keywords["loading"] == expected


def test_flags_of_access_and_limits_reach_the_server(keywords):
    arguments = [
        "--allow_model_reload=false",
        "--allowed_hosts=models.example.org, 10.0.0.1",
        "--rest_api_enable_cors_support=true",
        "--max_connections=100",
        "--max_streams_per_connection=10",
        "--request_log=-",
        "--request_log_sampling_rate=0.25",
    ]
    assert command_line.main(["serve", "--model_base_path=/m", *arguments]) == 0
    hosts = ("models.example.org", "10.0.0.1")
    assert keywords["access"] == Access(False, hosts, True)
    assert keywords["limits"] == Limits(connections=100, streams_per_connection=10)
    assert keywords["request_log"] == RequestLog("-", 0.25)
    assert command_line.main(["serve", "/m", "--allow_model_reload"]) == 0
    assert keywords["access"].allow_reload is True


def test_flags_without_effect_are_accepted_and_reported(keywords, caplog):
    arguments = [f"--{name}=true" for name in unsupported_flags.WITHOUT_EFFECT]
    assert command_line.main(["serve", "--model_base_path=/m", *arguments]) == 0
    assert len(caplog.messages) == len(arguments)
    for name, message in zip(
        unsupported_flags.WITHOUT_EFFECT, caplog.messages, strict=True
    ):
        assert message.startswith(f"--{name} has no effect: ")


def test_flags_that_are_refused_may_be_false_or_empty(keywords, caplog):
    arguments = [
        f"--{name}={value}"
        for name in unsupported_flags.REFUSED
        for value in ("false", "")
    ]
    assert command_line.main(["serve", "--model_base_path=/m", *arguments]) == 0
    assert not caplog.messages


def test_version_shows_the_versions_and_exits(keywords, capsys):
    with pytest.raises(SystemExit) as exit_:
        command_line.main(["serve", "--version"])
    assert exit_.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bn-keras", "tensorflow"]
    flags = ["--model_base_path=/m", "--version=false"]
    assert command_line.main(["serve", *flags]) == 0
    assert keywords["model_name"] == "default"


def test_the_help_has_the_default_of_every_limit(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["serve", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Limits):
        (shown,) = re.findall(
            f"--max_{field.name} N largest [^;]*; default: ([0-9]+)", help_text
        )
        assert int(shown) == field.default
