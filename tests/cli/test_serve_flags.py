"""How `bn-keras serve` reads its flags, which are those of TensorFlow Serving."""

import logging
import signal
from pathlib import Path

import pytest

import bn_keras_serving
from bn_keras.cli import command_line

pytestmark = pytest.mark.fast


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
    assert capsys.readouterr().out.startswith("serving at ")


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
        (["--tensorflow_session_parallelism=4"], "--tensorflow_session_parallelism=4"),
        (["--tensorflow_session_parallelism", "4"], "--tensorflow_session_parallelism"),
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
    ids=range(11),
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
