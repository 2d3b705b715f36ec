"""The command line: what it prints, its exit status, and one line for every error."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line_calls import fails, run
from PIL import Image

from bn_keras import BatchNormalization, __version__, data
from bn_keras.training.recipes import RECIPES
from bn_keras_serving import PredictionServer

COMMAND = str(Path(sys.executable).with_name("bn-keras"))


TRAIN = ["train", "mlp", "--data", "digits", "--workdir", "w"]
PREDICT = ["predict", "x.npy", "--model-name", "m", "--address", "127.0.0.1:1"]


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


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_every_command_has_help_with_an_example(capsys):
    _, out, _ = run(capsys, "--help")
    for command in ("demo", "train", "evaluate", "export", "serve", "predict"):
        assert f"bn-keras {command}" in out
        status, help_text, _ = run(capsys, command, "--help")
        assert status == 0
        assert f"example:\n  bn-keras {command}" in help_text


def test_train_evaluate_and_export_hand_on_their_files(capsys, tmp_path):
    status, _, _ = run(
        capsys, "train", "bn-mlp", "--data", "digits", "--workdir", tmp_path,
        "--epochs", 1,
    )  # fmt: skip
    assert status == 0
    status, out, _ = run(
        capsys, "evaluate", tmp_path / "bn-mlp.keras", "--data", "digits"
    )
    found = dict(line.split(maxsplit=1) for line in out.splitlines() if line.strip())
    assert found["images"] == "360"
    found = {name: text.split(" (")[0] for name, text in found.items()}
    assert 0.3 < float(found["top1"]) <= float(found["top5"]) <= 1
    status, out, _ = run(
        capsys, "export", tmp_path / "bn-mlp.keras", tmp_path / "models"
    )
    assert out.strip() == str(tmp_path / "models" / "1")
    assert (tmp_path / "models" / "1" / "saved_model.pb").is_file()


def test_evaluate_refuses_pictures_of_other_classes(capsys, tmp_path):
    run(
        capsys, "train", "bn-mlp", "--data", "digits", "--workdir", tmp_path,
        "--epochs", 1,
    )  # fmt: skip
    facts = tmp_path / "bn-mlp.json"
    facts.write_text(facts.read_text().replace('"9"', '"nine"'))
    line = fails(capsys, "evaluate", tmp_path / "bn-mlp.keras", "--data", "digits")
    assert "8, nine). Received: pictures of 10 classes" in line


def test_predict_answers_for_arrays_and_images_as_the_model_does(
    capsys, tmp_path, model_file
):
    run(capsys, "export", model_file, tmp_path / "m")
    batch = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "batch.npy", batch)
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(picture).save(tmp_path / "digit.png")
    Image.fromarray(picture).resize((16, 16), 0).convert("RGB").save(
        tmp_path / "large.png"
    )
    files = [tmp_path / name for name in ("batch.npy", "digit.png", "large.png")]
    with PredictionServer(tmp_path / "m", port=0) as server:
        _, out, _ = run(
            capsys, "predict", "--address", server.address, "--model-name", "m", *files
        )
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    model = keras.models.load_model(model_file)
    expected = [batch, picture.reshape(1, 8, 8, 1) / 255]
    for answer, values in zip(answers, expected, strict=False):
        np.testing.assert_allclose(answer["probabilities"], model(values), atol=1e-6)
    assert np.shape(answers[2]["probabilities"]) == (1, 10)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_predict_sees_pictures_as_the_trained_model_did(
    capsys, tmp_path, model_file, suffix
):
    run(
        capsys, "export", model_file, tmp_path / "m", "--scale", 2 / 255,
        "--offset", -1, "--crop-fraction", 0.5,
    )  # fmt: skip
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    large = pixels.repeat(2, 0).repeat(2, 1)
    # The middle of 16 x 16 pixels; a BMP file is fitted to 8 x 8 before it is sent.
    picture, seen = (large, large[4:12, 4:12]) if suffix == "png" else (pixels, pixels)
    Image.fromarray(picture).save(tmp_path / f"digit.{suffix}")
    with PredictionServer(tmp_path / "m", port=0) as server:
        _, out, error = run(
            capsys, "predict", "--address", server.address, "--model-name", "m",
            tmp_path / f"digit.{suffix}",
        )  # fmt: skip
    assert error == ""
    model = keras.models.load_model(model_file)
    expected = model(seen.reshape(1, 8, 8, 1) * (2 / 255) - 1)
    np.testing.assert_allclose(json.loads(out)["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["bake"], "invalid choice: 'bake'"),
        (["train", "vgg", "--data", "digits", "--workdir", "w"], "choice: 'vgg'"),
        (["train", "mlp", "--data", "cats", "--workdir", "w"], "choice: 'cats'"),
        (
            ["evaluate", "no.keras", "--data", "digits"],
            "no.keras, which does not exist",
        ),
        (["export", "no.h5", "models"], "ends in .keras. Received: no.h5"),
        (["export", "m.keras", "d", "--version", "0"], "expected 1 or more"),
        (["serve", "nowhere", "--port", "0"], "nowhere"),
        (["export", "m.keras", ""], "expected a name, received an empty one"),
        ([*TRAIN, "--epochs", "x"], "expected 1 or more, received x"),
        ([*TRAIN, "--seed", "-1"], "expected 0 to 4294967295, received -1"),
        (["serve", "d", "--port", "70000"], "expected 0 to 65535"),
        *(
            (["predict", "--address", address, "--model-name", "m", "x.npy"], "HOST:PO")
            for address in ("x", "x:", ":8500", "x:0", "x:65536", "::1:8500", "a b:1")
        ),
        *(
            ([*PREDICT, "--timeout", seconds], "seconds above 0, received")
            for seconds in ("0", "-1", "nan", "inf", "soon")
        ),
        (
            ["predict", "--address", "127.0.0.1:1", "--model-name", "m", "x.npy"],
            "UNAVAILABLE",
        ),
    ],
)
def test_a_wrong_command_is_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_idx_file_is_one_line(capsys, tmp_path, mnist_directory):
    for path in mnist_directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:1000])
    line = fails(
        capsys, "train", "mlp", "--data", "mnist", "--data-dir", tmp_path,
        "--workdir", tmp_path / "w",
    )  # fmt: skip
    assert "train-images-idx3-ubyte.gz" in line
    assert not (tmp_path / "w").exists()


def test_a_work_directory_that_is_a_file_is_one_line(capsys, tmp_path):
    (tmp_path / "w").write_text("")
    for command in (["demo"], ["train", "mlp", "--data", "digits"]):
        for folder in (tmp_path / "w", tmp_path / "w" / "deeper"):
            line = fails(capsys, *command, "--workdir", folder)
            assert "--workdir expects a folder, or the name of one" in line
            assert f"Received: {folder}, which is a file or in one" in line


def test_what_cannot_be_written_is_told_before_the_work(capsys, tmp_path, monkeypatch):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("bn_keras.cli.demo.run", work)
    monkeypatch.setattr("bn_keras.data.load", work)
    (tmp_path / "mlp.keras").mkdir()
    line = fails(capsys, *TRAIN[:-1], tmp_path)
    assert "mlp.keras to be free" in line
    demo = ["demo", "--workdir", tmp_path / "new", "--json"]
    assert f"{tmp_path}, a folder; name a file" in fails(capsys, *demo, tmp_path)
    line = fails(capsys, *demo, tmp_path / "absent" / "r.json")
    assert f"make {tmp_path / 'absent'} first" in line
    assert not (tmp_path / "new").exists()


def test_the_version_is_printed(capsys):
    assert run(capsys, "--version") == (0, f"bn-keras {__version__}\n", "")


def test_help_lists_the_recipes_and_data_sets_that_there_are(capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "new-recipe", None)
    monkeypatch.setitem(data.DATA_SETS, "new-data", None)
    _, out, _ = run(capsys, "train", "--help")
    assert ", new-recipe" in out
    assert ", new-data" in out


def test_help_of_predict_tells_which_ink_the_data_sets_have(capsys):
    _, out, _ = run(capsys, "predict", "--help")
    assert "light ink on black" in " ".join(out.split())
    for split in data.digits().train, data.digits().test:
        assert split.images[:, :, 0].mean() < 0.1  # the margin is black, 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TypeError("no\nway"), "Unexpected TypeError: no way; BN_KERAS_TRACEBACK=1"),
        (MemoryError("2 TiB"), "Not enough memory: 2 TiB; use"),
        (tf.errors.AbortedError(None, None, "gone"), "TensorFlow's AbortedError: gone"),
        (ValueError("much " * 1000), "much ..."),
    ],
)
def test_any_error_is_one_line_and_raised_on_demand(
    capsys, tmp_path, monkeypatch, model_file, error, message
):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("bn_keras.data.load", load)
    command = ["evaluate", model_file, "--data", "digits"]
    line = fails(capsys, *command)
    assert message in line
    assert len(line) < 1100
    monkeypatch.setenv("BN_KERAS_TRACEBACK", "1")
    with pytest.raises(type(error)):
        run(capsys, *command)


def test_a_model_that_is_no_classifier_is_not_evaluated(capsys, tmp_path):
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    for name, outputs, message in (
        ("two", [flat, flat], "1 inputs and 2 outputs"),
        ("map", image, "(None, 8, 8, 1)"),
    ):
        path = tmp_path / f"{name}.keras"
        keras.Model(image, outputs).save(path)
        assert message in fails(capsys, "evaluate", path, "--data", "digits")


def test_a_file_that_is_no_model_is_one_line(capsys, tmp_path):
    (tmp_path / "m.keras").write_text("no archive")
    assert "m.keras" in fails(capsys, "export", tmp_path / "m.keras", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_version_that_is_there_is_one_line(capsys, tmp_path, model_file):
    run(capsys, "export", model_file, tmp_path / "m")
    before = sorted((tmp_path / "m").rglob("*"))
    line = fails(capsys, "export", model_file, tmp_path / "m", "--version", 1)
    assert "Version 1 is already in" in line
    assert sorted((tmp_path / "m").rglob("*")) == before


def test_a_taken_port_and_an_empty_directory_are_one_line(
    capsys, tmp_path, model_file, taken_port
):
    (tmp_path / "empty").mkdir()
    assert "empty" in fails(capsys, "serve", tmp_path / "empty", "--port", 0)
    run(capsys, "export", model_file, tmp_path / "m")
    line = fails(capsys, "serve", tmp_path / "m", "--port", taken_port)
    assert str(taken_port) in line


def test_what_the_server_refuses_is_one_line(capsys, tmp_path, model_file):
    run(capsys, "export", model_file, tmp_path / "m")
    np.save(tmp_path / "wrong.npy", np.zeros((1, 28, 28, 1), "float32"))
    (tmp_path / "text.png").write_text("no picture")
    with PredictionServer(tmp_path / "m", port=0) as server:
        ask = ["predict", "--address", server.address, "--model-name"]
        line = fails(capsys, *ask, "m", tmp_path / "wrong.npy")
        assert "wrong.npy: `image` must be of shape (None, 8, 8, 1). Received" in line
        assert "NOT_FOUND" in fails(capsys, *ask, "other", tmp_path / "wrong.npy")
        assert "text.png" in fails(capsys, *ask, "m", tmp_path / "text.png")
        assert "gone.npy" in fails(capsys, *ask, "m", tmp_path / "gone.npy")


def test_the_installed_command_says_an_error_in_one_line_and_nothing_else():
    done = subprocess.run(
        [COMMAND, "serve", "nowhere", "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
