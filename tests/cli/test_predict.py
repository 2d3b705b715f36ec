"""`bn-keras predict`: its start, options, order, progress bar and errors."""

import json
import re
import resource
import socket
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
import trustme
from client_servers import ScriptedServer, make_signature, serve
from command_line_calls import COMMAND
from PIL import Image

from bn_keras.cli import command_line

ROWS = {"x": (tf.float32, [None, 2])}
PIXELS = (tf.float32, [None, 6, 5, 3])


@pytest.fixture
def scripted():
    scripted = ScriptedServer()
    scripted.signatures = {"serving_default": make_signature(ROWS)}
    return scripted


@pytest.fixture
def address(scripted):
    with serve(scripted) as address:
        yield address


@pytest.fixture
def files(tmp_path):
    """Twelve batches; the values of each are its index."""
    paths = [tmp_path / f"{index}.npy" for index in range(12)]
    for index, path in enumerate(paths):
        np.save(path, np.full((1, 2), index, np.float64))
    return paths


@pytest.fixture
def ask(capsys):
    """Run the command in this process; return its status and what it printed.

    Errors are raised, not printed.
    """

    def ask(address, *arguments):
        line = ["predict", "--address", address, "--model-name", "m", *arguments]
        options = command_line.parse([str(argument) for argument in line])
        status = options.command.run(options)
        return status, *capsys.readouterr()

    return ask


def test_a_request_is_sent_without_tensorflow_within_0_6_seconds(
    scripted, address, files
):
    code = (
        "import sys\n"
        "from bn_keras.__main__ import main\n"
        "status = main()\n"
        "print([name for name in ('keras', 'tensorflow') if name in sys.modules])\n"
        "sys.exit(status)"
    )
    arguments = ["predict", "--address", address, "--model-name", "m", str(files[3])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    answer, modules = done.stdout.splitlines()
    assert json.loads(answer)["y"] == [[3, 3]]
    assert (modules, done.stderr) == ("[]", "")

    def seconds():
        """The time on the clock until the first request, and the processor's time."""
        scripted.arrivals.clear()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        subprocess.run([COMMAND, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            scripted.arrivals[0] - start,
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        )

    # A busy machine delays the request; the processor's time is more reliable there.
    clock, processor = zip(*(seconds() for _ in range(3)), strict=True)
    assert min(*clock, *processor) < 0.6


def test_a_line_for_each_file_in_order(scripted, address, ask, files):
    scripted.slow_from, scripted.slow_delay = 11, 0.2
    files = files[::-1]
    status, out, error = ask(address, *files)
    assert (status, error) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"file": str(file), "y": [[index, index]]}
        for index, file in zip(range(11, -1, -1), files, strict=True)
    ]
    assert len(scripted.requests) == 12
    assert len(scripted.look_ups) <= 2


def test_version_label_and_signature_are_sent(scripted, address, ask, files):
    scripted.signatures["other"] = make_signature(ROWS)
    ask(address, files[0], "--version", 7, "--signature", "other")
    ask(address, files[0], "--version-label", "stable")
    first, second = (request.model_spec for request in scripted.requests)
    assert (first.version.value, first.signature_name) == (7, "other")
    assert second.version_label == "stable"
    assert {spec.version.value for spec in scripted.look_ups} == {7, 0}


def test_version_and_label_cannot_both_be_given(ask, capsys):
    with pytest.raises(SystemExit):
        ask("h:1", "x.npy", "--version", 7, "--version-label", "stable")
    assert "not allowed with argument --version" in capsys.readouterr().err


def test_arrays_and_pictures_go_to_their_signatures_in_order(
    scripted, address, ask, tmp_path
):
    scripted.signatures = {
        "serving_default": make_signature({"x": PIXELS}),
        "predict_encoded": make_signature({"files": (tf.string, [None])}),
        "predict_uint8": make_signature({"x": (tf.uint8, [None, 6, 5, 3])}),
    }
    picture = Image.fromarray(np.full((6, 5, 3), 51, np.uint8))
    for name in ("a.png", "b.png", "d.bmp"):
        picture.save(tmp_path / name)
    np.save(tmp_path / "c.npy", np.zeros((1, 6, 5, 3), np.float32))
    names = ["a.png", "b.png", "c.npy", "d.bmp", "a.png"]
    paths = [tmp_path / name for name in names]
    _, out, _ = ask(address, *paths)
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(path) for path in paths]
    assert answers[0]["y"] == answers[4]["y"]
    assert answers[0]["y"][0].startswith("\\x89PNG")
    assert np.ptp(answers[2]["y"]) == 0.0
    assert answers[3]["y"][0].startswith("\\x89PNG")
    _, out, _ = ask(address, paths[0], "--signature", "predict_uint8")
    assert np.unique(json.loads(out)["y"]).tolist() == [51]
    _, out, _ = ask(address, paths[0], "--signature", "predict_encoded")
    assert json.loads(out)["y"] == answers[0]["y"]


def test_a_unix_socket_and_tls(scripted, ask, files, tmp_path):
    with serve(scripted, f"unix:{tmp_path}/socket") as address:
        assert ask(address, files[0])[0] == 0
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server, client = authority.issue_cert("m.example"), authority.issue_cert("a@b.c")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        True,
    )
    key = ("--client-key", tmp_path / "client.key")
    with serve(scripted, credentials=credentials) as address:
        status, *_ = ask(
            address, files[0], "--ca", tmp_path / "ca.pem", *key,
            "--client-cert", tmp_path / "client.pem", "--server-name", "m.example",
        )  # fmt: skip
        assert status == 0
    with pytest.raises(ValueError, match=r"together\. Received: .*client\.key alone\."):
        ask(address, files[0], *key)


@pytest.mark.parametrize("address", ["unix:", "unix", "h", "h:0"])
def test_an_address_has_a_port_or_a_path(ask, capsys, address):
    with pytest.raises(SystemExit):
        ask(address, "x.npy")
    assert "expected HOST:PORT" in capsys.readouterr().err


def test_an_error_names_its_file_after_the_answers_before_it(
    scripted, address, ask, files, capsys
):
    np.save(files[2], np.zeros((1, 2), np.float16))
    message = f"must be of type float32. Received: {files[2]} of type float16."
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(address, *files)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["file"] for line in lines] == [*map(str, files[:2])]
    files[2].write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"A \.npy file must hold one array") as raised:
        ask(address, *files[1:])
    assert str(raised.value).count(str(files[2])) == 1


def test_a_missing_file_is_reported_before_anything_is_sent(
    scripted, address, ask, files, capsys
):
    files[2].unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.npy"):
        ask(address, *files)
    assert capsys.readouterr().out == ""
    assert scripted.look_ups == []


@pytest.mark.parametrize("timeout", ["0.3", "20"])
def test_an_address_without_a_server_is_named(ask, files, timeout):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    message = f"A server must answer at {address} within {timeout} seconds. Received: "
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(address, files[0], "--timeout", timeout)


def test_other_shapes_than_the_signature_declares_are_sent(
    scripted, address, ask, files
):
    np.save(files[0], np.zeros(3))
    assert ask(address, files[0])[0] == 0
    assert scripted.requests[-1].inputs["x"].tensor_shape.dim[0].size == 3


def test_an_error_of_the_server_names_the_file(scripted, address, ask, files):
    scripted.refusals = [(grpc.StatusCode.NOT_FOUND, "gone")] * 12
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        ask(address, *files)
    assert str(raised.value) == f"{files[0]}: NOT_FOUND: gone"


def test_a_missing_signature_lists_those_that_exist(address, ask, files):
    with pytest.raises(
        ValueError, match=r"signature nope\. Received: .* signatures serving_default\. "
    ):
        ask(address, files[0], "--signature", "nope")


@pytest.mark.parametrize("piped", [True, False])
def test_a_bar_is_shown_unless_the_answers_are_on_the_same_terminal(
    address, ask, files, monkeypatch, piped
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    if not piped:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    _, out, error = ask(address, *files)
    assert len(out.splitlines()) == 12
    assert all(json.loads(line) for line in out.splitlines())
    assert ("100%" in error) == piped
