"""Two replicas against NumPy in float64 on their joint batch."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from layer_in_replicas import CASES, MOMENTUM, UNSYNCHRONIZED, build, inputs_of_fit
from normalization_oracle import oracle
from paths import ROOT, SUPPORT

from bn_keras import BatchNormalization

PROGRAM = SUPPORT / "layer_in_replicas.py"


def run(what, folder, **environment):
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, PROGRAM, what, folder],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(np.load(folder / f"{what}.npz"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def mirrored(folder):
    return run("mirrored", folder, KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="")


@pytest.fixture(scope="module")
def mesh(folder, mirrored):
    return run(
        "mesh",
        folder,
        KERAS_BACKEND="jax",
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )


def expected_of(x, cotangent, mask, arguments):
    """The oracle for one batch, and the number of values behind each mean."""
    layer = BatchNormalization(axis=arguments.get("axis", -1))
    build(layer, x.shape)
    kept = np.mod(np.atleast_1d(layer.axis), x.ndim)
    axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
    weight = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
    gamma, beta = (np.reshape(one, weight) for one in (layer.gamma, layer.beta))
    mask = None if mask is None else mask[..., None]
    counted = np.broadcast_to(True if mask is None else mask, x.shape)
    count = counted.sum(axes, keepdims=True)
    return oracle(x, gamma, beta, cotangent, axes, layer.epsilon, mask), count


def averaged(mean, variance, count, arguments):
    """The population statistics after this one mini-batch."""
    if arguments.get("unbiased", True):
        variance = variance * count / (count - 1)
    if "averaging" in arguments:  # at the first step, the value itself
        return mean, variance
    return (1 - MOMENTUM) * mean, MOMENTUM + (1 - MOMENTUM) * variance


def assert_statistics(found, name, mean, variance, rtol):
    for statistic, value in (("moving_mean", mean), ("moving_variance", variance)):
        stored = found[f"{name}/{statistic}"]
        np.testing.assert_allclose(stored, np.reshape(value, stored.shape), rtol=rtol)


@pytest.mark.parametrize("name", CASES)
def test_synchronized_replicas_are_one_batch(name, mirrored):
    x, cotangent, masks, arguments = CASES[name]
    mask = None if masks is None else np.concatenate(masks)
    expected, count = expected_of(
        np.concatenate(x), np.concatenate(cotangent), mask, arguments
    )

    assert mirrored.get(f"synchronized {name}/error") is None

    def parts(value):
        return [mirrored[f"synchronized {name}/{value}/{index}"] for index in (0, 1)]

    # A float32 mean near 1e4 is known to 1e-3.
    tolerance = 5e-3 if "far" in name else 2e-5
    for value, wanted in (
        (np.concatenate(parts("outputs")), expected.outputs),
        (np.concatenate(parts("x")), expected.inputs_gradient),
        (sum(parts("gamma")), expected.gamma_gradient),
        (sum(parts("beta")), expected.beta_gradient),
    ):
        scale = max(1, np.abs(wanted).max())
        np.testing.assert_allclose(
            value / scale, wanted.reshape(value.shape) / scale, atol=tolerance
        )
    mean, variance = averaged(expected.mean, expected.variance, count, arguments)
    # So is that of each replica; the distance between them, 2, is in the variance.
    rtol = 3e-3 if "far" in name else 1e-5
    assert_statistics(mirrored, f"synchronized {name}", mean, variance, rtol)


@pytest.mark.parametrize("name", UNSYNCHRONIZED)
def test_unsynchronized_statistics_are_the_mean_over_the_replicas(name, mirrored):
    x, cotangent, _, arguments = UNSYNCHRONIZED[name]
    assert mirrored.get(f"unsynchronized {name}/error") is None
    statistics = []
    for index in (0, 1):
        expected, count = expected_of(x[index], cotangent[index], None, arguments)
        found = mirrored[f"unsynchronized {name}/outputs/{index}"]
        np.testing.assert_allclose(found, expected.outputs, atol=1e-4)
        if not len(x[index]):  # it left them as they were
            statistics.append((np.zeros(3), np.ones(3)))
            continue
        moments = averaged(expected.mean, expected.variance, count, arguments)
        statistics.append([value.ravel() for value in moments])
    mean, variance = np.mean(statistics, axis=0)
    assert_statistics(mirrored, f"unsynchronized {name}", mean, variance, 1e-4)


def test_fit_under_a_strategy_follows_the_joint_batches(mirrored):
    x = inputs_of_fit()[0].astype(np.float64)
    mean, variance = np.zeros(3), np.ones(3)
    for batch in (x[:8], x[8:16]):  # the last, of one example, leaves them untouched
        mean = MOMENTUM * mean + (1 - MOMENTUM) * batch.mean(0)
        variance = MOMENTUM * variance + (1 - MOMENTUM) * batch.var(0, ddof=1)
    assert_statistics(mirrored, "fit True", mean, variance, 1e-3)


def test_fit_under_a_strategy_unsynchronized_averages_the_replicas(mirrored):
    x = inputs_of_fit()[0].astype(np.float64)
    mean, variance = np.zeros(3), np.ones(3)
    for batch in (x[:8], x[8:16]):
        own = np.mean([part.var(0, ddof=1) for part in (batch[:4], batch[4:])], axis=0)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * batch.mean(0)
        variance = MOMENTUM * variance + (1 - MOMENTUM) * own
    assert_statistics(mirrored, "fit False", mean, variance, 1e-3)


def test_a_model_saved_under_a_strategy_loads_without_one(folder, mirrored):
    loaded = keras.models.load_model(folder / "mirrored.keras")
    assert loaded.layers[0].synchronized
    x, y = inputs_of_fit()
    np.testing.assert_allclose(
        np.asarray(loaded(x)), mirrored["predictions"], rtol=1e-5, atol=1e-5
    )
    before = np.asarray(loaded.layers[0].moving_mean)
    loaded.compile("sgd", "mse")
    loaded.fit(x, y, batch_size=8, verbose=0)
    assert np.all(np.asarray(loaded.layers[0].moving_mean) != before)


def test_a_model_saved_under_a_strategy_loads_on_jax(mirrored, mesh):
    np.testing.assert_allclose(
        mesh["predictions"], mirrored["predictions"], rtol=1e-5, atol=1e-5
    )


def test_two_devices_of_a_jax_mesh_are_one_batch(mesh):
    assert (mesh["two/devices"], mesh["one/devices"]) == (2, 1)
    x = inputs_of_fit()[0][:8].astype(np.float64)
    variance = MOMENTUM + (1 - MOMENTUM) * x.var(0, ddof=1)
    for name in ("one", "two"):
        assert_statistics(mesh, name, (1 - MOMENTUM) * x.mean(0), variance, 1e-3)
