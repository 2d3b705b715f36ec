"""The models run and fold on the JAX backend where TensorFlow is not installed."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules["tensorflow"] = None  # Importing it fails, as if it were not installed.
import keras
import numpy as np
from bn_keras.folding import fold_batch_normalization
from bn_keras.models import MLP, ConvNet, LocalResponseNormalization

assert keras.backend.backend() == "jax"
model = ConvNet((8, 8, 1), filters=(2,))
images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
assert np.all(np.isfinite(model(images, training=True)))  # moves the averages
result = fold_batch_normalization(model)
expected, actual = np.array(model(images)), np.array(result.model(images))
np.testing.assert_allclose(actual, expected, rtol=1e-5)
assert result.report.folded == 1, str(result.report)
"""
MORE = """
ones = np.ones((2, 8, 8, 1), "float32")
assert np.all(np.isfinite(MLP((8, 8, 1), units=(3,))(ones, training=True)))
y = np.asarray(LocalResponseNormalization(1, 1.0, 1.0, 0.5)(ones))
np.testing.assert_allclose(y, 0.5**0.5, rtol=1e-6)

inputs = keras.Input((8, 8, 3))
x = keras.layers.Conv2D(4, 3, groups=1, padding="same")(inputs)
x = keras.layers.AveragePooling2D(3, 2, padding="same")(x)
first = keras.layers.BatchNormalization()
x = keras.layers.ReLU()(first(x))
x = keras.layers.Dense(2)(keras.layers.BatchNormalization()(x))
model = keras.Model(inputs, x)
first.moving_mean.assign([1.0, -2, 3, 0])
first.moving_variance.assign([1e-4, 1, 9, 1e4])
result = fold_batch_normalization(model)
images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
expected, actual = np.array(model(images)), np.array(result.model(images))
assert abs(expected - actual).max() <= 1e-5 * abs(expected).max()
assert result.report.folded == 2, str(result.report)
"""


@pytest.mark.parametrize(
    "program",
    [PROGRAM, pytest.param(PROGRAM + MORE, marks=pytest.mark.slow)],
    ids=["a small network", "more layers"],
)
def test_models_run_and_fold_on_jax_without_tensorflow(program):
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        check=True,
    )
