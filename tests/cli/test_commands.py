"""The commands that compute: what they print and write."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from command_line_calls import error_line, run
from image_files import write_image_folder
from PIL import Image

from bn_keras.training.recipes import BN_X5
from bn_keras_serving import PredictionServer


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
    _, out, _ = run(
        capsys, "train", "bn-mlp", "--data", "digits", "--workdir", trained.parent,
        "--batch-size", 120, "--linear-scaling", "--seed", 7, "--dry-run", "--restart",
    )  # fmt: skip
    assert "of 11 steps of 120 examples, learning rate 1, seed 7" in out
    assert "(replacing the model there)" in out
    assert "resuming" not in out


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
    assert "Received (unfinished, this): seed: 0, 1." in line
    _, out, _ = run(capsys, *dry_run, trained.parent, "--epochs", 2)
    assert "bn-mlp.checkpoints (resuming from the last one)" in out
    shutil.rmtree(checkpoint.parent)
    line = error_line(capsys, *dry_run, trained.parent, "--seed", 1)
    assert "Received (finished, this): seed: 0, 1" in line


def test_a_finished_run_is_left_alone(capsys, trained):
    contents = {path: path.read_bytes() for path in trained.parent.iterdir()}
    command = ("train", "bn-mlp", "--data", "digits", "--epochs", 1, "--workdir")
    for more in ((), ("--dry-run",)):
        status, out, error = run(capsys, *command, trained.parent, *more)
        assert (status, error) == (0, "")
        assert out == f"finished: {trained} (--restart trains again)\n"
    assert {path: path.read_bytes() for path in trained.parent.iterdir()} == contents


def test_train_and_evaluate_begin_with_a_summary_and_evaluate_writes_a_table(
    capsys, tmp_path
):
    write_image_folder(tmp_path / "p", ("cat", "dog"), 30, (12, 10))
    (tmp_path / "p" / "cat" / "x.heic").write_text("")
    options = ("--data", "image_folder", "--data-dir", tmp_path / "p")
    _, _, error = run(
        capsys, "train", "bn-mlp", *options, "--workdir", tmp_path / "w",
        "--epochs", 1, "--batch-size", 16, "--keep-best", "--log-seconds", 0.01,
    )  # fmt: skip
    lines = [line.removeprefix("bn-keras: ") for line in error.splitlines()]
    assert lines[0] == ("p: 48 training, 6 validation and 6 test examples of 2 classes")
    assert lines[1] == "width x height 10 x 12 pixels"
    assert "every tenth picture is a test picture" in lines
    assert "ignored files: 1 .heic" in lines
    assert "every tenth training example is a validation example" in lines
    assert any(line.startswith("1 replica, devices ") for line in lines)
    assert "trains 1 epoch of 3 steps" in lines
    assert any(line.startswith("epoch 1/1, step ") for line in lines)
    assert "validation top-1" in lines[-1]
    table = tmp_path / "p.csv"
    _, out, error = run(
        capsys, "evaluate", tmp_path / "w" / "bn-mlp.keras", *options,
        "--predictions", table,
    )  # fmt: skip
    assert "1 replica, devices " in error
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [
        str(tmp_path / "p" / name / f"{number:03}.png")
        for name in ("cat", "dog")
        for number in (0, 10, 20)
    ]
    right = sum(row["class"] == row["predicted"] for row in rows)
    assert f"top1 {right / 6:.4f}" in out
    for row in rows:
        is_right = row["class"] == row["predicted"]
        assert (row["rank_of_class"] == "1") == is_right
        assert (row["probability"] == row["probability_of_class"]) == is_right
        assert 0.5 <= float(row["probability"]) <= 1


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
    # The server keeps the middle of 16 x 16 pixels, of any format.
    large = pixels.repeat(2, 0).repeat(2, 1)
    Image.fromarray(large).save(tmp_path / "digit.png")
    Image.fromarray(large).save(tmp_path / "digit.bmp")
    with PredictionServer(tmp_path / "m", port=0) as server:
        _, out, error = run(
            capsys, "predict", "--address", server.address, "--model-name", "m",
            tmp_path / "digit.png", tmp_path / "digit.bmp",
        )  # fmt: skip
    assert error == ""
    model = keras.models.load_model(model_file)
    expected = model(large[4:12, 4:12].reshape(1, 8, 8, 1) * (2 / 255) - 1)
    assert len(out.splitlines()) == 2
    for line in out.splitlines():
        answer = json.loads(line)["probabilities"]
        np.testing.assert_allclose(answer, expected, atol=1e-6)
