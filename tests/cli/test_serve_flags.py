"""How `bn-keras serve` reads its flags, which are tensorflow_model_server's."""

import logging
import signal
from pathlib import Path

import pytest

import bn_keras_serving
from bn_keras.cli import command_line


@pytest.fixture
def made(monkeypatch):
    """What `PredictionServer` is made with, in the place of one."""
    made = {}

    class Server:
        address, rest_address = "127.0.0.1:1", None

        def __init__(self, **arguments):
            made.update(arguments)

        def start(self):
            pass

        def stop(self):
            return True

        def wait(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(bn_keras_serving, "PredictionServer", Server)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    level = logging.getLogger("bn_keras_serving").level
    yield made
    for one, handler in handlers.items():
        signal.signal(one, handler)
    logging.getLogger("bn_keras_serving").setLevel(level)


def test_the_defaults_are_those_of_the_real_server(made, capsys):
    assert command_line.main(["serve", "--model_base_path=/models/digits"]) == 0
    assert made["directory"] == Path("/models/digits")
    assert made["model_name"] == "default"
    assert (made["port"], made["rest_port"], made["socket_path"]) == (8500, None, None)
    assert (made["poll_seconds"], made["config_poll_seconds"]) == (1, 0)
    assert (made["rest_timeout"], made["tensor_content"]) == (30, False)
    assert (made["batching"], made["tls"]) == (None, None)
    assert not made["allow_labels_for_unavailable"]
    assert capsys.readouterr().out.startswith("serving at ")


def test_a_port_of_zero_is_none(made, capsys):
    flags = ["--model_base_path=/m", "--port=0"]
    assert command_line.main(["serve", *flags, "--grpc_socket_path=/s"]) == 0
    assert made["port"] is None
    assert command_line.main(["serve", *flags, "--rest_api_port=8501"]) == 0
    assert (made["port"], made["rest_port"]) == (None, 8501)
    assert command_line.main(["serve", *flags]) == 2
    assert "--port=0, which is none without DIR" in capsys.readouterr().err
    assert command_line.main(["serve", "/m", "--port=0"]) == 0
    assert made["port"] == 0


def test_an_empty_file_is_none(made):
    files = ["--model_config_file=", "--ssl_config_file=", "--grpc_socket_path="]
    assert command_line.main(["serve", "--model_base_path=/m", *files]) == 0
    assert (made["config"], made["tls"], made["socket_path"]) == (None, None, None)


def test_a_configuration_makes_the_servers_two_other_flags_be_ignored(made):
    flags = ["--model_base_path=/m", "--model_name=m", "--model_config_file=/c"]
    assert command_line.main(["serve", *flags]) == 0
    assert (made["directory"], made["config"]) == (None, Path("/c"))


def test_batching_without_a_file_has_the_defaults(made):
    assert (
        command_line.main(["serve", "--enable_batching=true", "--model_base_path=/m"])
        == 0
    )
    assert made["batching"].max_batch_size == 1000


def test_flags_are_spelled_with_hyphens_too(made):
    arguments = ["--model-base-path=/m", "--model-name", "m", "--rest-api-port=8501"]
    assert command_line.main(["serve", *arguments, "--max-elements=7"]) == 0
    assert (made["model_name"], made["rest_port"]) == ("m", 8501)
    assert made["limits"].elements == 7


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tensorflow_session_parallelism=4"], "--tensorflow_session_parallelism=4"),
        (["--tensorflow_session_parallelism", "4"], "--tensorflow_session_parallelism"),
        (["--enable_batching=maybe"], "with = before it, received 'maybe'"),
        (["--port=65536"], "expected 0 to 65535, received 65536"),
        (["--rest_api_timeout_in_ms=0"], "expected 1 or more, received 0"),
        (["--file_system_poll_wait_seconds=-1"], "0 or more seconds, received -1"),
        (["--grpc_channel_arguments=alone"], "expected KEY=VALUE, received 'alone'"),
        (["--batching_parameters_file=/b"], "without --enable_batching; give both"),
        (["DIR"], "Received: several; give one"),
        (["--ssl_config_file=/none"], "/none"),
        (["--monitoring_config_file=/none"], "/none"),
    ],
    ids=range(11),
)
def test_a_wrong_flag_is_named_in_one_line_and_the_status_is_2(
    made, capsys, arguments, named
):
    try:
        status = command_line.main(["serve", "--model_base_path=/m", *arguments])
    except SystemExit as exit_:
        status = exit_.code
    told = capsys.readouterr().err
    assert status == 2
    assert told.count("\n") == 1
    assert named in told
    assert not made


def test_a_server_of_nothing_is_refused(made, capsys):
    assert command_line.main(["serve", "--port=8500"]) == 2
    told = capsys.readouterr().err
    assert "--model_base_path and --model_config_file. Received: none; give one" in told
    assert not made
