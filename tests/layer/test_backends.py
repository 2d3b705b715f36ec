"""One computation on every path here, and on other backends in their processes."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from normalization_oracle import oracle, problem
from paths import ROOT

from bn_keras import BatchNormalization

SHAPE, AXES = (16, 32, 32, 16), (0, 1, 2)
SIZE = 16 * 32 * 32
# Written once, run here and under the other backends.
PROGRAM = """
import sys
import keras
import numpy as np
from bn_keras import BatchNormalization

given = np.load(sys.argv[1])
results = {}
for mean in (0, 1000):
    layer = BatchNormalization(momentum=0.0)
    layer.build(given["x"].shape)
    layer.gamma.assign(given["gamma"].ravel())
    layer.beta.assign(given["beta"].ravel())
    x = given["x"] + np.float32(mean)
    results[f"{mean}/outputs"] = np.asarray(layer(x, training=True))
    results[f"{mean}/mean"] = np.asarray(layer.moving_mean)
    results[f"{mean}/variance"] = np.asarray(layer.moving_variance)
    results[f"{mean}/inference"] = np.asarray(layer(x))
np.savez(sys.argv[2], **results)
assert "jax" in sys.modules or keras.backend.backend() != "jax"
if keras.backend.backend() != "tensorflow":
    assert not hasattr(sys.modules.get("tensorflow"), "nn")
"""


def environment(backend):
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def given():
    x, gamma, beta, _ = problem(SHAPE, AXES, mean=1.0)
    return x, gamma, beta


def expected_of(given, mean):
    x, gamma, beta = given
    x = x + np.float32(mean)
    found = oracle(x, gamma, beta, np.zeros_like(x), AXES, 1e-3)
    variance = found.variance.ravel() * SIZE / (SIZE - 1)
    return found.outputs, found.mean.ravel(), variance


def assert_agrees(outputs, mean, variance, expected, large_mean):
    # Near 1000 a float32 mean is known to 1e-4 of these deviations at best.
    tolerance = 2e-3 if large_mean else 1e-4
    np.testing.assert_allclose(outputs, expected[0], atol=tolerance)
    np.testing.assert_allclose(mean, expected[1], rtol=1e-5)
    np.testing.assert_allclose(variance, expected[2], rtol=tolerance / 2)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's own paths"
)
@pytest.mark.parametrize("mean", [0, 1000])
@pytest.mark.parametrize("path", ["fused", "graph", "xla", "plain", "plain xla"])
def test_every_path_on_tensorflow_agrees_stored_variance_included(path, mean, given):
    import tensorflow as tf

    x, gamma, beta = given
    x = tf.constant(x + np.float32(mean))
    layer = BatchNormalization(momentum=0.0)
    layer.build(x.shape)
    layer.gamma.assign(gamma.ravel())
    layer.beta.assign(beta.ravel())

    def run(x):
        mask = tf.ones(x.shape[:-1], tf.bool) if "plain" in path else None
        return layer(x, training=True, mask=mask)

    if path in ("graph", "xla", "plain xla"):
        run = tf.function(run, jit_compile="xla" in path)
    outputs = run(x)
    statistics = layer.moving_mean, layer.moving_variance
    assert_agrees(outputs, *statistics, expected_of(given, mean), mean)


@pytest.mark.parametrize("backend", ["jax", "numpy", "tensorflow"])
def test_every_backend_agrees_stored_variance_included(backend, given, tmp_path):
    np.savez(tmp_path / "given.npz", x=given[0], gamma=given[1], beta=given[2])
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        [*command, tmp_path / "given.npz", tmp_path / "found.npz"],
        env=environment(backend),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    for mean in (0, 1000):
        expected = expected_of(given, mean)
        results = [found[f"{mean}/{name}"] for name in ("outputs", "mean", "variance")]
        assert_agrees(*results, expected, mean)
        # With momentum 0 inference differs by m / (m - 1) alone.
        inferred = [found[f"{mean}/inference"], *results[1:]]
        scale = np.sqrt((1 - 1 / SIZE) * expected[2] + 1e-3)
        scale /= np.sqrt(expected[2] + 1e-3)
        beta = given[2]
        expected = beta + (expected[0] - beta) * scale, *expected[1:]
        assert_agrees(*inferred, expected, mean)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="this is that process"
)
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            ["test_batch_normalization.py", "-k", "moving_statistics or biased"],
            id="statistics",
        ),
        pytest.param(
            ["test_kernels.py", "-k", "forward or deviations or one_value"],
            id="kernels",
        ),
        pytest.param(
            [
                "test_kernels.py",
                "test_batch_normalization.py",
                "test_layer_features.py",
                "test_layer_keras.py",
            ],
            id="everything",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_layers_own_tests_hold_on_jax(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env=environment("jax"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:]
