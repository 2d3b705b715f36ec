"""The commands that compute: what they print and write, and one line for each error."""

import json
import shutil
import socket
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line_calls import COMMAND, error_line, run, user_environment
from PIL import Image

from bn_keras import BatchNormalization
from bn_keras.cli import command_line, messages
from bn_keras.training.recipes import BN_X5
from bn_keras_serving import PredictionServer

TRAIN = ["train", "mlp", "--data", "digits", "--workdir", "w"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, use_bias=False),
            BatchNormalization(),
            keras.layers.Softmax(name="probabilities"),
        ]
    )
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def exported(model_file, tmp_path_factory):
    """A folder with version 1 of the model."""
    folder = tmp_path_factory.mktemp("exported") / "m"
    assert command_line.main(["export", str(model_file), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def server(exported):
    with PredictionServer(exported, port=0) as server:
        yield server


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that `bn-keras train` has trained for one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["train", "bn-mlp", "--data", "digits", "--workdir", str(folder)]
    assert command_line.main([*arguments, "--epochs", "1"]) == 0
    return folder / "bn-mlp.keras"


def test_evaluate_prints_the_accuracy_of_a_trained_model(capsys, trained):
    status, out, _ = run(capsys, "evaluate", trained, "--data", "digits")
    assert status == 0
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if line.strip())
    assert facts["images"] == "360"
    top1, top5 = (float(facts[name].split(" (")[0]) for name in ("top1", "top5"))
    assert 0.3 < top1 <= top5 <= 1


def test_export_prints_the_folder_of_the_version(capsys, trained, tmp_path):
    _, out, _ = run(capsys, "export", trained, tmp_path / "models")
    assert out.strip() == str(tmp_path / "models" / "1")
    assert (tmp_path / "models" / "1" / "saved_model.pb").is_file()


def test_evaluate_refuses_a_data_set_of_other_classes(capsys, trained, tmp_path):
    record = trained.with_suffix(".json").read_text()
    (tmp_path / "m.json").write_text(record.replace('"9"', '"nine"'))
    (tmp_path / "m.keras").symlink_to(trained)
    line = error_line(capsys, "evaluate", tmp_path / "m.keras", "--data", "digits")
    assert "m.json, 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, nine). Received: 10" in line


def test_an_ensemble_needs_one_preprocessing(capsys, trained, model_file):
    line = error_line(capsys, "evaluate", trained, model_file, "--data", "digits")
    assert "bn-mlp.json and model.json differ in it or are missing" in line


def test_a_dry_run_shows_the_plan_and_writes_nothing(capsys, tmp_path):
    status, out, error = run(
        capsys, "train", "bn-mlp", "--data", "digits", "--workdir", tmp_path / "w",
        "--epochs", 3, "--tensorboard", "--dry-run",
    )  # fmt: skip
    assert (status, error) == (0, "")
    read, build, train, write = out.splitlines()
    assert read == ("read   digits: 1,437 training and 360 test examples of 10 classes")
    # Weights and biases of 64-100-100-100-10 units, of which 300 have BN: gamma, beta,
    # moving mean and variance, and no bias.
    count = 64 * 100 + 2 * 100 * 100 + 4 * 300 + 101 * 10
    assert f"input (8, 8, 1), {count:,} parameters, float32" in build
    assert "3 epochs of 23 steps of 60 examples, learning rate 0.5, seed 0" in train
    for suffix in ("keras", "json", "csv", "tensorboard", "checkpoints"):
        assert f"{tmp_path}/w/bn-mlp.{suffix}" in write
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_what_the_options_change(capsys, trained):
    checkpoints = trained.parent / "bn-mlp.checkpoints"
    checkpoints.mkdir()
    _, out, _ = run(
        capsys, "train", "bn-mlp", "--data", "digits", "--workdir", trained.parent,
        "--batch-size", 120, "--linear-scaling", "--seed", 7, "--dry-run",
    )  # fmt: skip
    assert "of 11 steps of 120 examples, learning rate 1, seed 7" in out
    assert "(replacing the model there)" in out
    assert "bn-mlp.checkpoints (resuming from the last one)" in out
    checkpoints.rmdir()


def test_a_dry_run_reports_what_would_prevent_the_run(capsys, trained):
    dry_run = ["train", "bn-mlp", "--data", "digits", "--dry-run", "--workdir"]
    line = error_line(capsys, *dry_run, "w", "--batch-size", 2000)
    assert "must be at most 1,437, the number of training examples" in line
    line = error_line(capsys, *dry_run, "w", "--width", 2)
    assert "width" in line
    checkpoint = trained.parent / "bn-mlp.checkpoints" / "step-0000000023"
    checkpoint.mkdir(parents=True)
    shutil.copy(trained.with_suffix(".json"), checkpoint.parent)
    line = error_line(capsys, *dry_run, trained.parent, "--seed", 1)
    assert "Received (there, now): seed: 0, 1." in line
    shutil.rmtree(checkpoint.parent)


def test_a_dry_run_shows_the_decay_of_the_learning_rate(capsys, tmp_path):
    _, out, _ = run(
        capsys, "train", "bn-x5", "--data", "digits", "--workdir", tmp_path / "w",
        "--image-size", 32, "--width", 0.1, "--dry-run",
    )  # fmt: skip
    assert BN_X5.decay_epochs == pytest.approx(1.333, abs=1e-3)
    assert "learning rate 0.0075 times 0.96 every 1.33 epochs" in out
    assert "Inception with batch normalization: input (32, 32, 1)" in out


def test_predict_answers_for_arrays_and_images_as_the_model_does(
    capsys, tmp_path, model_file, server
):
    batch = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "batch.npy", batch)
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(picture).save(tmp_path / "digit.png")
    Image.fromarray(picture).resize((16, 16), 0).convert("RGB").save(
        tmp_path / "large.png"
    )
    files = [tmp_path / name for name in ("batch.npy", "digit.png", "large.png")]
    _, out, _ = run(
        capsys, "predict", "--address", server.address, "--model-name", "m", *files
    )
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    model = keras.models.load_model(model_file)
    inputs = [batch, picture.reshape(1, 8, 8, 1) / 255]
    for answer, values in zip(answers, inputs, strict=False):
        np.testing.assert_allclose(answer["probabilities"], model(values), atol=1e-6)
    assert np.shape(answers[2]["probabilities"]) == (1, 10)


def test_predict_sends_pictures_as_the_model_was_trained_on_them(
    capsys, tmp_path, model_file
):
    run(
        capsys, "export", model_file, tmp_path / "m", "--scale", 2 / 255,
        "--offset", -1, "--crop-fraction", 0.5,
    )  # fmt: skip
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    # The server keeps the middle of the PNG file's 16 x 16 pixels. It cannot decode the
    # BMP file, which is resized to 8 x 8 before it is sent.
    large = pixels.repeat(2, 0).repeat(2, 1)
    Image.fromarray(large).save(tmp_path / "digit.png")
    Image.fromarray(pixels).save(tmp_path / "digit.bmp")
    with PredictionServer(tmp_path / "m", port=0) as server:
        _, out, error = run(
            capsys, "predict", "--address", server.address, "--model-name", "m",
            tmp_path / "digit.png", tmp_path / "digit.bmp",
        )  # fmt: skip
    assert error == ""
    model = keras.models.load_model(model_file)
    for line, seen in zip(out.splitlines(), (large[4:12, 4:12], pixels), strict=True):
        expected = model(seen.reshape(1, 8, 8, 1) * (2 / 255) - 1)
        answer = json.loads(line)["probabilities"]
        np.testing.assert_allclose(answer, expected, atol=1e-6)


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
    (TypeError("no\nway"), "Unexpected TypeError: no way; BN_KERAS_TRACEBACK=1"),
    (MemoryError("2 TiB"), "Not enough memory: 2 TiB; use"),
    (tf.errors.AbortedError(None, None, "gone"), "TensorFlow's AbortedError: gone"),
    (FileNotFoundError(2, "No such file", "x.npy"), "No such file: x.npy"),
    (OSError(28, "full", "x.npy"), "No space left on the device; free some"),
    (OSError("unable to write (errno = 28)"), "No space left on the device; free some"),
    (ValueError("as it is"), "as it is"),
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
    assert "wrong.npy: `image` must" in line
    assert "(None, 8, 8, 1)" in line
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
        "error: UNAVAILABLE: ",
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
