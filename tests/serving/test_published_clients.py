"""TensorFlow Serving's own example clients, unchanged, with the embedded server.

The environment variable `TFS_SOURCES` names a checkout of
https://github.com/tensorflow/serving, which is not part of this project. What the
clients would download is provided locally: the MNIST files, and a stand-in for the
package `requests` that returns a picture drawn here.
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

# A stand-in for the package `requests`, with the functions that the clients use.
REQUESTS = """
import datetime, json, os, time, urllib.request

class Response:
    def __init__(self, content, seconds=0.0):
        self.content = content
        self.elapsed = datetime.timedelta(seconds=seconds)

    def raise_for_status(self):
        pass  # urllib has raised an error

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
    """Has the names of the clients' ResNet; the mean color determines the class."""

    def __init__(self):
        super().__init__()

        def scores(input_1):
            color = tf.reduce_mean(input_1, [1, 2])
            number = tf.reduce_sum(color * [100.0, 300.0, 600.0], 1)
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
        pytest.skip("TFS_SOURCES does not name a checkout of tensorflow/serving")
    examples = Path(sources) / "tensorflow_serving" / "example"
    assert (examples / "mnist_client.py").is_file(), f"not found in {examples}"
    return examples


def run_script(examples, script, *arguments, **environment):
    """Run a script and return its output."""
    completed = subprocess.run(
        [sys.executable, examples / script, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(f"$ {script}\n{completed.stdout}")  # noqa: T201
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "cat.jpg"
    pixels = np.full((32, 48, 3), (200, 60, 120), np.uint8)
    pixels[:, 24:] = (40, 250, 10)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def downloads(tmp_path_factory, picture):
    """Environment variables that replace the clients' downloads by local files."""
    package = tmp_path_factory.mktemp("requests")
    (package / "requests.py").write_text(REQUESTS)
    return {"PYTHONPATH": str(package), "PICTURE": str(picture)}


@pytest.fixture(scope="module")
def model_with_warm_up(examples, downloads, tmp_path_factory):
    """A version with the warm-up file that TensorFlow Serving's script writes."""
    directory = tmp_path_factory.mktemp("served") / "resnet"
    directory.mkdir()
    version = write(Resnet(), directory, 1)
    output = run_script(examples, "resnet_warmup.py", version, **downloads)
    assert "Created the file" in output
    assert (version / "assets.extra" / "tf_serving_warmup_requests").stat().st_size
    return directory


@pytest.fixture(scope="module")
def resnet(model_with_warm_up):
    with PredictionServer(model_with_warm_up, port=0, rest_port=0) as server:
        yield server


def expected_class(picture):
    color = np.mean(np.array(Image.open(io.BytesIO(picture.read_bytes()))), (0, 1))
    number = float(color / 255 @ [100.0, 300.0, 600.0])
    assert abs(number - round(number)) < 0.45, "two classes must not tie"
    return round(number)


def test_the_resnet_client_for_grpc_prints_the_class(
    examples, resnet, downloads, picture
):
    output = run_script(
        examples, "resnet_client_grpc.py", f"--server={resnet.address}", **downloads
    )
    assert output == f"Prediction class: {expected_class(picture)}\n"


def test_the_resnet_client_for_rest_prints_the_class(
    examples, resnet, downloads, picture
):
    output = run_script(
        examples, "resnet_client.py", REST_ADDRESS=resnet.rest_address, **downloads
    )
    match = re.fullmatch(r"Prediction class: (\d+), avg latency: [0-9.]+ ms\n", output)
    assert match, output
    assert int(match[1]) == expected_class(picture)


def test_the_mnist_client_reports_the_error_rate_of_the_exported_model(
    examples, mnist_directory, tmp_path
):
    """Their script trains and exports the model, and their client sends requests."""
    work = tmp_path / "work"
    work.mkdir()
    for part in ("train", "t10k"):
        for name in MNIST_NAMES:
            (work / f"{part}-{name}").symlink_to(mnist_directory / f"{part}-{name}")
    exported = tmp_path / "mnist"
    run_script(
        examples,
        "mnist_saved_model.py",
        "--training_iteration=200",
        f"--work_dir={work}",
        exported,
    )
    errors = count_errors(exported / "1", work, 1000)
    assert 0 < errors < 300, "the model must be trained but not perfect"
    with PredictionServer(exported, "mnist", port=0) as server:
        output = run_script(
            examples,
            "mnist_client.py",
            "--num_tests=1000",
            "--concurrency=10",
            f"--server={server.address}",
            f"--work_dir={work}",
        )
    assert output.count(".") > 1000
    (rate,) = re.findall(r"Inference error rate: ([0-9.]+)%", output)
    assert float(rate) == pytest.approx(100 * errors / 1000, abs=1e-9)


def count_errors(version, work, count):
    """Count the errors of the exported weights, computed with NumPy in float64."""

    def read(name, offset):
        with gzip.open(work / f"t10k-{name}") as file:
            return np.frombuffer(file.read()[offset:], np.uint8)

    images = read(MNIST_NAMES[0], 16).reshape(-1, 784)[:count] / 255.0
    labels = read(MNIST_NAMES[1], 8)[:count]
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    tensors = [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]
    (kernel,) = (array for array in tensors if array.shape == (784, 10))
    (bias,) = (array for array in tensors if array.shape == (10,))
    return int(np.sum(np.argmax(images @ kernel.astype(float) + bias, 1) != labels))
