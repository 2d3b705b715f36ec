"""Two replicas, compared with NumPy in float64 on the union of their batches."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from layer_in_replicas import (
    CASES,
    MOMENTUM,
    REPRESENTATIVES,
    UNSYNCHRONIZED_CASES,
    build,
    inputs_of_fit,
)
from normalization_oracle import oracle
from paths import ROOT, SUPPORT

from bn_keras import BatchNormalization


def run(name, folder, **environment):
    completed = subprocess.run(
        [sys.executable, SUPPORT / "layer_in_replicas.py", name, folder],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr[-4000:]
    return dict(np.load(folder / f"{name}.npz"))


def run_on_tensorflow(name, folder):
    return run(name, folder, KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def mirrored(folder):
    return run_on_tensorflow("mirrored", folder)


@pytest.fixture(scope="module")
def mirrored_slow(folder):
    return run_on_tensorflow("mirrored_slow", folder)


@pytest.fixture(scope="module")
def mesh(folder, mirrored):  # loads the model that `mirrored` saved
    return run(
        "mesh",
        folder,
        KERAS_BACKEND="jax",
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )


def cases(prefix, names):
    """Return a parameter for each case: its name, and the fixture with its results."""
    return [
        pytest.param(name, "mirrored", id=name)
        if f"{prefix} {name}" in REPRESENTATIVES
        else pytest.param(name, "mirrored_slow", id=name, marks=pytest.mark.slow)
        for name in names
    ]


def expected_batch(x, cotangent, mask, arguments):
    """Return the oracle's results for a batch, and the count behind each mean."""
    layer = BatchNormalization(axis=arguments.get("axis", -1))
    build(layer, x.shape)
    channel_axes = np.mod(np.atleast_1d(layer.axis), x.ndim)
    axes = tuple(axis for axis in range(x.ndim) if axis not in channel_axes)
    shape = [size if axis in channel_axes else 1 for axis, size in enumerate(x.shape)]
    gamma, beta = (np.reshape(weight, shape) for weight in (layer.gamma, layer.beta))
    mask = None if mask is None else mask[..., None]
    unmasked = np.broadcast_to(True if mask is None else mask, x.shape)
    count = unmasked.sum(axes, keepdims=True)
    return oracle(x, gamma, beta, cotangent, axes, layer.epsilon, mask), count


def expected_statistics(mean, variance, count, arguments):
    """Return the population statistics after the first mini-batch."""
    if arguments.get("unbiased", True):
        variance = variance * count / (count - 1)
    if "averaging" in arguments:  # after one step, the average is the value itself
        return mean, variance
    return (1 - MOMENTUM) * mean, MOMENTUM + (1 - MOMENTUM) * variance


def assert_statistics(results, name, mean, variance, rtol):
    for statistic, value in (("moving_mean", mean), ("moving_variance", variance)):
        stored = results[f"{name}/{statistic}"]
        np.testing.assert_allclose(stored, np.reshape(value, stored.shape), rtol=rtol)


@pytest.mark.parametrize(("name", "run"), cases("synchronized", CASES))
def test_synchronized_replicas_behave_as_one_batch(name, run, request):
    results = request.getfixturevalue(run)
    x, cotangent, masks, arguments = CASES[name]
    mask = None if masks is None else np.concatenate(masks)
    expected, count = expected_batch(
        np.concatenate(x), np.concatenate(cotangent), mask, arguments
    )

    assert results.get(f"synchronized {name}/error") is None

    def parts(value):
        return [results[f"synchronized {name}/{value}/{index}"] for index in (0, 1)]

    # A float32 mean near 1e4 is exact to 1e-3.
    tolerance = 5e-3 if "far" in name else 2e-5
    for value, expected_value in (
        (np.concatenate(parts("outputs")), expected.outputs),
        (np.concatenate(parts("x")), expected.inputs_gradient),
        (sum(parts("gamma")), expected.gamma_gradient),
        (sum(parts("beta")), expected.beta_gradient),
    ):
        scale = max(1, np.abs(expected_value).max())
        np.testing.assert_allclose(
            value / scale, expected_value.reshape(value.shape) / scale, atol=tolerance
        )
    mean, variance = expected_statistics(
        expected.mean, expected.variance, count, arguments
    )
    # The same holds for the mean of each replica, and the square of the distance
    # between them, which is 2, is a part of the variance.
    rtol = 3e-3 if "far" in name else 1e-5
    assert_statistics(results, f"synchronized {name}", mean, variance, rtol)


@pytest.mark.parametrize(("name", "run"), cases("unsynchronized", UNSYNCHRONIZED_CASES))
def test_unsynchronized_statistics_are_the_mean_over_the_replicas(name, run, request):
    results = request.getfixturevalue(run)
    x, cotangent, _, arguments = UNSYNCHRONIZED_CASES[name]
    assert results.get(f"unsynchronized {name}/error") is None
    statistics = []
    for index in (0, 1):
        expected, count = expected_batch(x[index], cotangent[index], None, arguments)
        outputs = results[f"unsynchronized {name}/outputs/{index}"]
        np.testing.assert_allclose(outputs, expected.outputs, atol=1e-4)
        if not len(x[index]):  # an empty replica keeps the initial values
            statistics.append((np.zeros(3), np.ones(3)))
            continue
        moments = expected_statistics(
            expected.mean, expected.variance, count, arguments
        )
        statistics.append([value.ravel() for value in moments])
    mean, variance = np.mean(statistics, axis=0)
    assert_statistics(results, f"unsynchronized {name}", mean, variance, 1e-4)


def test_fit_under_a_strategy_averages_the_moments_of_joint_batches(mirrored):
    x = inputs_of_fit()[0].astype(np.float64)
    mean, variance = np.zeros(3), np.ones(3)
    for batch in (x[:8], x[8:16]):  # the last batch of one example changes nothing
        mean = MOMENTUM * mean + (1 - MOMENTUM) * batch.mean(0)
        variance = MOMENTUM * variance + (1 - MOMENTUM) * batch.var(0, ddof=1)
    assert_statistics(mirrored, "fit True", mean, variance, 1e-3)


def test_fit_under_a_strategy_unsynchronized_averages_over_the_replicas(mirrored):
    x = inputs_of_fit()[0].astype(np.float64)
    mean, variance = np.zeros(3), np.ones(3)
    for batch in (x[:8], x[8:16]):
        variances = [part.var(0, ddof=1) for part in (batch[:4], batch[4:])]
        mean = MOMENTUM * mean + (1 - MOMENTUM) * batch.mean(0)
        variance = MOMENTUM * variance + (1 - MOMENTUM) * np.mean(variances, axis=0)
    assert_statistics(mirrored, "fit False", mean, variance, 1e-3)


def test_a_model_saved_under_a_strategy_loads_without_one(folder, mirrored):
    loaded = keras.models.load_model(folder / "mirrored.keras")
    assert loaded.layers[0].synchronized
    x, y = inputs_of_fit()
    np.testing.assert_allclose(
        np.asarray(loaded(x)), mirrored["predictions"], rtol=1e-5, atol=1e-5
    )
    old_mean = np.asarray(loaded.layers[0].moving_mean)
    loaded.compile("sgd", "mse")
    loaded.fit(x, y, batch_size=8, verbose=0)
    assert np.all(np.asarray(loaded.layers[0].moving_mean) != old_mean)


def test_a_model_saved_under_a_strategy_loads_on_jax(mirrored, mesh):
    np.testing.assert_allclose(
        mesh["predictions"], mirrored["predictions"], rtol=1e-5, atol=1e-5
    )


def test_two_devices_of_a_jax_mesh_behave_as_one_batch(mesh):
    assert (mesh["two/devices"], mesh["one/devices"]) == (2, 1)
    x = inputs_of_fit()[0][:8].astype(np.float64)
    variance = MOMENTUM + (1 - MOMENTUM) * x.var(0, ddof=1)
    for name in ("one", "two"):
        assert_statistics(mesh, name, (1 - MOMENTUM) * x.mean(0), variance, 1e-3)
