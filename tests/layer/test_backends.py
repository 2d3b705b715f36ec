"""The same results on every path of TensorFlow and on every backend."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from layer_on_backend import MEANS, run
from normalization_oracle import TENSORFLOW, oracle, random_case, tensorflow_only
from paths import ROOT, SUPPORT

from bn_keras import BatchNormalization

SHAPE, AXES = (16, 32, 32, 16), (0, 1, 2)
COUNT = 16 * 32 * 32
TESTS = ROOT / "tests" / "layer"


def environment(backend):
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def inputs():
    x, gamma, beta, _ = random_case(SHAPE, AXES, mean=1.0)
    return {"x": x, "gamma": gamma, "beta": beta}


def expected_results(inputs, mean):
    """Return the outputs, the mean and the unbiased variance of a training step."""
    x = inputs["x"] + np.float32(mean)
    expected = oracle(
        x, inputs["gamma"], inputs["beta"], np.zeros_like(x), AXES, epsilon=1e-3
    )
    variance = expected.variance.ravel() * COUNT / (COUNT - 1)
    return expected.outputs, expected.mean.ravel(), variance


def assert_close(results, expected, mean):
    # A float32 mean near 1000 is exact to 1e-4 of these deviations at best.
    tolerance = 2e-3 if mean else 1e-4
    np.testing.assert_allclose(results[0], expected[0], atol=tolerance)
    np.testing.assert_allclose(results[1], expected[1], rtol=1e-5)
    np.testing.assert_allclose(results[2], expected[2], rtol=tolerance / 2)


@tensorflow_only
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("path", ["fused", "graph", "xla", "plain", "plain xla"])
def test_outputs_and_stored_variance_are_equal_on_every_path(path, mean, inputs):
    import tensorflow as tf

    x = tf.constant(inputs["x"] + np.float32(mean))
    layer = BatchNormalization(momentum=0.0)
    layer.build(x.shape)
    layer.gamma.assign(inputs["gamma"].ravel())
    layer.beta.assign(inputs["beta"].ravel())

    def call(x):
        mask = tf.ones(x.shape[:-1], tf.bool) if "plain" in path else None
        return layer(x, training=True, mask=mask)

    if path in ("graph", "xla", "plain xla"):
        call = tf.function(call, jit_compile="xla" in path)
    results = call(x), layer.moving_mean, layer.moving_variance
    assert_close(results, expected_results(inputs, mean), mean)


@pytest.mark.parametrize("backend", ["jax", "numpy", "tensorflow"])
def test_outputs_and_stored_variance_are_equal_on_every_backend(
    backend, inputs, tmp_path
):
    if backend == keras.backend.backend():
        results = run(inputs)
    else:
        np.savez(tmp_path / "inputs.npz", **inputs)
        completed = subprocess.run(
            [
                sys.executable,
                SUPPORT / "layer_on_backend.py",
                tmp_path / "inputs.npz",
                tmp_path / "results.npz",
            ],
            env=environment(backend),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert completed.returncode == 0, completed.stderr[-2000:]
        results = np.load(tmp_path / "results.npz")
    for mean in MEANS:
        outputs, *statistics = expected_results(inputs, mean)
        names = ("outputs", "mean", "variance")
        values = [results[f"{mean}/{name}"] for name in names]
        assert_close(values, (outputs, *statistics), mean)
        # With momentum 0, inference differs only by the factor m / (m - 1) of the
        # variance.
        scale = np.sqrt((1 - 1 / COUNT) * statistics[1] + 1e-3)
        scale /= np.sqrt(statistics[1] + 1e-3)
        inferred = inputs["beta"] + (outputs - inputs["beta"]) * scale
        values = [results[f"{mean}/inference"], *values[1:]]
        assert_close(values, (inferred, *statistics), mean)


@pytest.mark.skipif(not TENSORFLOW, reason="runs in that process")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            [
                "test_batch_normalization.py",
                "test_kernels.py",
                "test_second_derivatives.py",
                "-k",
                "(one_two_three or biased) and (channels_last or per-activation) "
                "or algorithm_1 or deviations or single_value or hessian",
            ],
            id="representatives",
        ),
        pytest.param(
            [
                "test_batch_normalization.py",
                "test_kernels.py",
                "test_second_derivatives.py",
                "test_features.py",
                "test_as_keras_layer.py",
                "-m",
                "slow or not slow",
            ],
            id="all",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_tests_of_the_layer_pass_on_jax(arguments):
    completed = subprocess.run(
        # In one process: two would import Keras and JAX twice.
        [sys.executable, "-m", "pytest", "-q", "-n0", "-pno:cacheprovider", *arguments],
        env=environment("jax"),
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert completed.returncode == 0, completed.stdout[-6000:]
    assert " passed" in completed.stdout
