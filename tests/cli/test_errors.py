"""Errors of the commands: one line, status 2, and nothing is written."""

import socket
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line_calls import COMMAND, error_line, run, user_environment

from bn_keras.cli import messages

TRAIN = ["train", "mlp", "--data", "digits", "--workdir", "w"]


def test_evaluate_refuses_a_data_set_of_other_classes(capsys, trained, tmp_path):
    record = trained.with_suffix(".json").read_text()
    (tmp_path / "m.json").write_text(record.replace('"9"', '"nine"'))
    (tmp_path / "m.keras").symlink_to(trained)
    line = error_line(capsys, "evaluate", tmp_path / "m.keras", "--data", "digits")
    assert "m.json, 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, nine). Received: 10" in line


def test_an_ensemble_needs_one_preprocessing(capsys, trained, model_file):
    line = error_line(capsys, "evaluate", trained, model_file, "--data", "digits")
    assert "bn-mlp.json and model.json differ in it or are missing" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluate", "no.keras", "--data", "digits"],
            "no.keras, which does not exist",
        ),
        (
            ["evaluate", "m.keras", "--data", "digits", "--confusion", "matrix.gif"],
            "--confusion must be a file named .png or .svg",
        ),
        (["export", "no.h5", "models"], "ends in .keras. Received: no.h5"),
        (["serve", "nowhere", "--port", "0"], "nowhere"),
        ([*TRAIN, "--linear-scaling"], "Received: none. Add --batch-size"),
        (
            [*TRAIN, "--linear-scaling", "--batch-size=9", "--learning-rate=1"],
            "--linear-scaling and --learning-rate must not be given together",
        ),
    ],
)
def test_a_command_that_fails_prints_one_line_and_writes_nothing(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in error_line(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_idx_file_is_one_line(capsys, tmp_path, mnist_directory):
    for path in mnist_directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:1000])
    line = error_line(
        capsys, "train", "mlp", "--data", "mnist", "--data-dir", tmp_path,
        "--workdir", tmp_path / "w",
    )  # fmt: skip
    assert "train-images-idx3-ubyte.gz" in line
    assert not (tmp_path / "w").exists()


def test_a_work_directory_that_is_a_file_is_one_line(capsys, tmp_path):
    (tmp_path / "w").write_text("")
    for command in (["demo"], ["train", "mlp", "--data", "digits"]):
        for folder in (tmp_path / "w", tmp_path / "w" / "deeper"):
            line = error_line(capsys, *command, "--workdir", folder)
            assert "--workdir must be a folder, or the name of a new one" in line
            assert f"Received: {folder}, which is a file or is below one" in line


def test_a_path_that_cannot_be_written_is_reported_before_the_work(
    capsys, tmp_path, monkeypatch
):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("bn_keras.cli.demo.run_demo", work)
    monkeypatch.setattr("bn_keras.data.load", work)
    (tmp_path / "mlp.keras").mkdir()
    line = error_line(capsys, *TRAIN[:-1], tmp_path)
    assert "mlp.keras must be a file, or not exist" in line
    demo = ["demo", "--workdir", tmp_path / "new", "--json"]
    assert f"{tmp_path}, which is a folder" in error_line(capsys, *demo, tmp_path)
    line = error_line(capsys, *demo, tmp_path / "absent" / "r.json")
    assert f"Create {tmp_path / 'absent'} first" in line
    assert not (tmp_path / "new").exists()


ERRORS = [
    (TypeError("no\nway"), "Unexpected TypeError: no way; set BN_KERAS_TRACEBACK=1"),
    (MemoryError("2 TiB"), "Not enough memory: 2 TiB; use"),
    (tf.errors.AbortedError(None, None, "gone"), "TensorFlow's AbortedError: gone"),
    (FileNotFoundError(2, "No such file", "x.npy"), "No such file: x.npy"),
    (OSError(28, "full", "x.npy"), "No space left on the device of x.npy; free some"),
    (OSError("unable to write (errno = 28)"), "No space left on the device; free some"),
    (ValueError("as it is"), "as it is"),
    (ValueError("\x1b[1mInput 0\x1b[0m differs"), "Input 0 differs"),
]


@pytest.mark.fast
@pytest.mark.parametrize(("error", "message"), ERRORS)
def test_an_error_becomes_a_message_for_the_user(error, message):
    assert messages.one_line(messages.error_message(error)).startswith(message)


def test_an_error_is_one_line_or_is_raised_if_asked(capsys, monkeypatch, model_file):
    def load(*_, **__):
        raise ValueError("much " * 1000)

    monkeypatch.setattr("bn_keras.data.load", load)
    command = ["evaluate", model_file, "--data", "digits"]
    line = error_line(capsys, *command)
    assert line.endswith("much ...\n")
    assert len(line) < 1100
    monkeypatch.setenv("BN_KERAS_TRACEBACK", "1")
    with pytest.raises(ValueError, match="much much"):
        run(capsys, *command)


def test_a_model_that_is_not_a_classifier_is_not_evaluated(capsys, tmp_path):
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    for name, outputs, message in (
        ("two", [flat, flat], "1 inputs and 2 outputs"),
        ("map", image, "(None, 8, 8, 1)"),
    ):
        path = tmp_path / f"{name}.keras"
        keras.Model(image, outputs).save(path)
        assert message in error_line(capsys, "evaluate", path, "--data", "digits")


def test_a_file_that_is_not_a_model_is_one_line(capsys, tmp_path):
    (tmp_path / "m.keras").write_text("no archive")
    line = error_line(capsys, "export", tmp_path / "m.keras", tmp_path / "d")
    assert "m.keras" in line
    assert not (tmp_path / "d").exists()


def test_a_version_that_exists_is_one_line(capsys, model_file, exported):
    before = sorted(exported.rglob("*"))
    line = error_line(capsys, "export", model_file, exported, "--version", 1)
    assert "Version 1 is already in" in line
    assert sorted(exported.rglob("*")) == before


def test_an_empty_directory_is_one_line(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in error_line(capsys, "serve", tmp_path / "empty", "--port", 0)


def test_a_port_in_use_is_one_line(capsys, exported):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert str(port) in error_line(capsys, "serve", exported, "--port", port)


def test_a_refusal_of_the_server_is_one_line(capsys, tmp_path, server):
    np.save(tmp_path / "wrong.npy", np.zeros((1, 28, 28, 1), "float32"))
    (tmp_path / "text.png").write_text("no picture")
    ask = ["predict", "--address", server.address, "--model-name"]
    line = error_line(capsys, *ask, "m", tmp_path / "wrong.npy")
    assert "wrong.npy: INVALID_ARGUMENT: " in line
    assert "[1,28,28,1]" in line.replace(" ", "")
    assert "NOT_FOUND" in error_line(capsys, *ask, "other", tmp_path / "wrong.npy")
    assert "text.png" in error_line(capsys, *ask, "m", tmp_path / "text.png")
    assert "gone.npy" in error_line(capsys, *ask, "m", tmp_path / "gone.npy")


# A wrong command of each kind, and its error.
ERRORS_OF_COMMANDS = {
    "demo": (["--json", "."], "--json must be a file"),
    "train": (
        ["mlp", "--data", "image_folder", "--data-dir", "no", "--workdir", "w"],
        "must be a folder",
    ),
    "evaluate": (["no.keras", "--data", "digits"], "which does not exist"),
    "export": (["no.keras", "models"], "which does not exist"),
    "serve": (["nowhere", "--port", "0"], "nowhere"),
    "predict": (
        ["--address", "127.0.0.1:1", "--model-name", "m", "no.npy"],
        "error: No such file or directory: no.npy",
    ),
    "data": (
        ["convert", "--data", "records", "--data-dir", "no", "--out", "o"],
        "must be a folder",
    ),
    "reproduce": (["mnist", "--mnist-dir", "no"], "--mnist-dir must be the folder"),
}


@pytest.mark.parametrize(
    "command",
    [
        # One with TensorFlow and one without. The others take seconds each to start.
        name
        if name in ("serve", "predict")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in ERRORS_OF_COMMANDS
    ],
)
def test_the_installed_command_prints_one_line_and_nothing_else(tmp_path, command):
    arguments, message = ERRORS_OF_COMMANDS[command]
    done = subprocess.run(
        [COMMAND, command, *arguments],
        cwd=tmp_path,
        env=user_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bn-keras: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
