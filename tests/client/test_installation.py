"""The client in an environment without TensorFlow, as its documentation installs it."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT
from serving_models import Model, write

from bn_keras_serving import PredictionServer

CLIENT = """
import json, sys, time

start = time.perf_counter()
from bn_keras_serving import PredictionClient

seconds = time.perf_counter() - start
with PredictionClient(sys.argv[1], "multiply", timeout=30.0) as client:
    answer = client.predict([[1, 2, 3, 4]])
    metadata = client.metadata()
    rows = list(client.predict_many([[1, 2, 3, 4]], batch_size=1))
# Not the peak of `resource`, which a process inherits from the one that starts it.
peak = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps({
    "answer": answer["y"].tolist(),
    "rows": [row["y"].tolist() for row in rows],
    "signatures": sorted(metadata),
    "seconds": seconds,
    "MiB": peak,
    "modules": sorted(set(sys.modules) & {"tensorflow", "keras", "rich"}),
}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with the client alone."""
    folder = tmp_path_factory.mktemp("client") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet"]
    constraints = ROOT / "constraints.txt"
    packages = ["numpy", "grpcio", "protobuf"]
    subprocess.run([*install, *packages, "-c", constraints], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    return python


def run(python, *arguments):
    return subprocess.run(
        [python, *arguments],
        env={**os.environ, "PYTHONPATH": ""},
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_client_predicts_with_numpy_grpcio_and_protobuf_alone(python, tmp_path):
    write(Model(2), tmp_path, 1)
    with PredictionServer(tmp_path, "multiply", port=0) as server:
        done = run(python, "-c", CLIENT, server.address)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["answer"] == [[2, 4, 6, 8]]
    assert facts["rows"] == [[2, 4, 6, 8]]
    assert "serving_default" in facts["signatures"]
    assert facts["modules"] == []
    assert facts["seconds"] < 2.0  # 5.1 s and 785 MB with TensorFlow
    assert facts["MiB"] < 100


@pytest.mark.slow
def test_the_client_alone_takes_less_than_130_megabytes(python):
    folder = python.parents[1]
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    assert size < 130e6


@pytest.mark.slow
def test_without_their_packages_the_server_and_the_bar_say_what_is_missing(python):
    done = run(python, "-c", "from bn_keras_serving import PredictionServer")
    assert "No module named" in done.stderr
    code = (
        "from bn_keras_serving import PredictionClient\n"
        "client = PredictionClient('127.0.0.1:1', 'm')\n"
        "client.predict_many([1], progress=True)"
    )
    done = run(python, "-c", code)
    assert "`progress=True` needs the package rich. Install it with" in done.stderr
