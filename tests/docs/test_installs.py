"""The documented installations, each in a fresh environment without TensorFlow."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

LAYER_ON_JAX = """
import keras
import numpy as np

import bn_keras

model = keras.Sequential(
    [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, use_bias=False),
        bn_keras.BatchNormalization(),
        keras.layers.ReLU(),
    ]
)
model.compile("sgd", "mse")
images = np.random.default_rng(0).random((32, 8, 8, 3), dtype="float32")
model.fit(images, np.zeros((32, 6, 6, 4)), verbose=0)
bn_keras.estimate_population_statistics(model, images, verbose=0)
folding = bn_keras.fold_batch_normalization(model)
assert folding.report.folded == 1
np.testing.assert_allclose(folding.model(images), model(images), atol=1e-5)
bn_keras.replace_batch_normalization(model)
"""


@pytest.mark.slow
def test_the_layer_works_with_keras_and_jax_alone(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet"]
    constraints = ROOT / "constraints.txt"
    subprocess.run([*install, "keras", "jax", "-c", constraints], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    done = subprocess.run(
        [python, "-W", "error::ImportWarning", "-c", LAYER_ON_JAX],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
