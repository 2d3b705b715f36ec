"""BN-Inception is trained on images, killed, resumed, evaluated and served."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bn_keras import data
from bn_keras.cli.user_files import load_model
from bn_keras.evaluation import evaluate
from bn_keras.training import run_record
from bn_keras_serving import PredictionClient, PredictionServer

SIDE, PER_CLASS = 48, 60


def draw_pictures(draw):
    """Return two noisy images by name: diagonal stripes and round spots."""
    y, x = np.mgrid[:427, :640] / 5.0
    shades = {"stripes": np.sin(x + y), "spots": np.sin(x) * np.sin(y)}
    colors = {"stripes": (150, 110, 90), "spots": (110, 130, 120)}
    return {
        name: (
            np.array(colors[name])
            + 50 * shade[..., None]
            + draw.normal(0, 12, (427, 640, 3))
        )
        .clip(0, 255)
        .astype(np.uint8)
        for name, shade in shades.items()
    }


@pytest.fixture(scope="module")
def images_on_disk(tmp_path_factory):
    """Write crops of two large drawn images as JPEG files.

    Training images are from their left two thirds, validation images from the rest.
    """
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for name, picture in draw_pictures(draw).items():
        for split, count in (("train", PER_CLASS), ("val", 15)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                top = draw.integers(picture.shape[0] - SIDE)
                border = picture.shape[1] * 2 // 3
                low, high = (0, border) if split == "train" else (border, 640)
                left = draw.integers(low, high - 64)
                crop = picture[top : top + SIDE, left : left + 64]
                Image.fromarray(crop).save(folder / split / name / f"{index}.jpg")
    return folder


def bn_keras(*arguments):
    return [sys.executable, "-m", "bn_keras", *map(str, arguments)]


@pytest.mark.slow
def test_a_model_trained_on_a_folder_has_the_same_outputs_over_grpc(
    tmp_path, images_on_disk
):
    data_options = ("--data", "image_folder", "--data-dir", images_on_disk)
    train = bn_keras(
        *("train", "bn-x5", *data_options, "--workdir", tmp_path / "run"),
        *("--image-size", 32, "--width", 0.1, "--batch-size", 16, "--epochs", 6),
        *("--linear-scaling", "--checkpoint-steps", 2),
    )
    process = subprocess.Popen(train, stdout=subprocess.DEVNULL)
    checkpoints = tmp_path / "run" / "bn-x5.checkpoints"
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    subprocess.run(train, check=True, capture_output=True)
    path = tmp_path / "run" / "bn-x5.keras"
    curve = (tmp_path / "run" / "bn-x5.csv").read_text().splitlines()
    assert len(curve) == 1 + 6

    model, run = load_model(path), run_record.read_for_model(path)
    image_data = data.image_folder(images_on_disk)
    assert run.class_names == ("spots", "stripes")
    evaluation = evaluate(model, image_data.test, 144, run.preprocessing)
    assert evaluation.images == 30
    assert evaluation.top1 > 0.8  # by chance 0.5 +- 0.09

    subprocess.run(
        bn_keras("export", path, tmp_path / "models"), check=True, capture_output=True
    )
    files = [Path(os.fsdecode(name)).read_bytes() for name in image_data.test.paths]
    with (
        PredictionServer(tmp_path / "models", "images", port=0) as server,
        PredictionClient(server.address, "images") as client,
    ):
        outputs = client.predict(np.array(files, object), "predict_encoded")
    (actual,) = outputs.values()
    ((images, _),) = image_data.test.batches(30, preprocessing=run.preprocessing)
    expected = model.predict(images.numpy(), verbose=0)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
