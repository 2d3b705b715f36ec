"""TensorFlow Serving's own example clients, unchanged, against the embedded server.

They are read from a checkout of https://github.com/tensorflow/serving, which the
environment variable `TFS_SOURCES` names; none of them is part of this project. What
they would download is put in its place: MNIST's files, and a `requests` of two
functions, of which one answers with a picture drawn here.
"""

import gzip
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving_models import function, write

from bn_keras_serving import PredictionServer

CLASSES = 1001
MNIST_NAMES = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")

# Stands in for the package `requests`, as far as the clients use it.
REQUESTS = """
import datetime, json, os, time, urllib.request

class Response:
    def __init__(self, content, seconds=0.0):
        self.content = content
        self.elapsed = datetime.timedelta(seconds=seconds)

    def raise_for_status(self):
        pass  # urllib has raised

    def json(self):
        return json.loads(self.content)

def get(url, stream):
    assert url.startswith("https://") and stream, url
    with open(os.environ["PICTURE"], "rb") as file:
        return Response(file.read())

def post(url, data):
    began = time.perf_counter()
    url = url.replace("localhost:8501", os.environ["REST_ADDRESS"])
    with urllib.request.urlopen(url, data.encode(), timeout=60) as answer:
        return Response(answer.read(), time.perf_counter() - began)
"""


class Resnet(tf.Module):
    """Has the names of the ResNet that the clients ask, and a class for each colour."""

    def __init__(self):
        super().__init__()

        def scores(input_1):
            colour = tf.reduce_mean(input_1, [1, 2])
            number = tf.reduce_sum(colour * [100.0, 300.0, 600.0], 1)
            return {"activation_49": -tf.abs(tf.range(CLASSES + 0.0) - number[:, None])}

        self.served = {
            "serving_default": function(
                scores, input_1=([None, None, None, 3], tf.float32)
            )
        }


@pytest.fixture(scope="module")
def examples():
    sources = os.environ.get("TFS_SOURCES")
    if not sources:
        pytest.skip("TFS_SOURCES names no checkout of tensorflow/serving")
    examples = Path(sources) / "tensorflow_serving" / "example"
    assert (examples / "mnist_client.py").is_file(), f"not found in {examples}"
    return examples


def ran(examples, script, *arguments, **environment):
    """Run a script to its end, and return what it printed."""
    ended = subprocess.run(
        [sys.executable, examples / script, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(f"$ {script}\n{ended.stdout}")  # noqa: T201
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "cat.jpg"
    pixels = np.full((32, 48, 3), (200, 60, 120), np.uint8)
    pixels[:, 24:] = (40, 250, 10)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def downloads(tmp_path_factory, picture):
    """Environment in which the clients' downloads are local."""
    package = tmp_path_factory.mktemp("requests")
    (package / "requests.py").write_text(REQUESTS)
    return {"PYTHONPATH": str(package), "PICTURE": str(picture)}


@pytest.fixture(scope="module")
def warmed(examples, downloads, tmp_path_factory):
    """A version with the warm-up that their script writes into it."""
    directory = tmp_path_factory.mktemp("served") / "resnet"
    directory.mkdir()
    version = write(Resnet(), directory, 1)
    said = ran(examples, "resnet_warmup.py", version, **downloads)
    assert "Created the file" in said
    assert (version / "assets.extra" / "tf_serving_warmup_requests").stat().st_size
    return directory


@pytest.fixture(scope="module")
def resnet(warmed):
    with PredictionServer(warmed, port=0, rest_port=0) as server:
        yield server


def expected_class(picture):
    colour = np.mean(np.array(Image.open(io.BytesIO(picture.read_bytes()))), (0, 1))
    number = float(colour / 255 @ [100.0, 300.0, 600.0])
    assert abs(number - round(number)) < 0.45, "no tie between two classes"
    return round(number)


def test_the_resnet_client_of_grpc_is_told_the_class(
    examples, resnet, downloads, picture
):
    said = ran(
        examples, "resnet_client_grpc.py", f"--server={resnet.address}", **downloads
    )
    assert said == f"Prediction class: {expected_class(picture)}\n"


def test_the_resnet_client_of_rest_is_told_the_class(
    examples, resnet, downloads, picture
):
    said = ran(
        examples, "resnet_client.py", REST_ADDRESS=resnet.rest_address, **downloads
    )
    found = re.fullmatch(r"Prediction class: (\d+), avg latency: [0-9.]+ ms\n", said)
    assert found, said
    assert int(found[1]) == expected_class(picture)


def test_the_mnist_client_reports_the_error_rate_of_the_exported_model(
    examples, mnist_directory, tmp_path
):
    """Trained and exported by their script, served here, asked by their client."""
    work = tmp_path / "work"
    work.mkdir()
    for part in ("train", "t10k"):
        for name in MNIST_NAMES:
            (work / f"{part}-{name}").symlink_to(mnist_directory / f"{part}-{name}")
    exported = tmp_path / "mnist"
    ran(
        examples,
        "mnist_saved_model.py",
        "--training_iteration=200",
        f"--work_dir={work}",
        exported,
    )
    wrong = errors_of(exported / "1", work, 1000)
    assert 0 < wrong < 300, "neither perfect nor untrained"
    with PredictionServer(exported, "mnist", port=0) as server:
        said = ran(
            examples,
            "mnist_client.py",
            "--num_tests=1000",
            "--concurrency=10",
            f"--server={server.address}",
            f"--work_dir={work}",
        )
    assert said.count(".") > 1000
    (rate,) = re.findall(r"Inference error rate: ([0-9.]+)%", said)
    assert float(rate) == pytest.approx(100 * wrong / 1000, abs=1e-9)


def errors_of(version, work, count):
    """Count the errors with the exported weights, in NumPy and float64."""

    def read(name, offset):
        with gzip.open(work / f"t10k-{name}") as file:
            return np.frombuffer(file.read()[offset:], np.uint8)

    images = read(MNIST_NAMES[0], 16).reshape(-1, 784)[:count] / 255.0
    labels = read(MNIST_NAMES[1], 8)[:count]
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    tensors = [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]
    (kernel,) = (one for one in tensors if one.shape == (784, 10))
    (bias,) = (one for one in tensors if one.shape == (10,))
    return int(np.sum(np.argmax(images @ kernel.astype(float) + bias, 1) != labels))
