"""The warning of section 2: the layer and its bias, the figure and the rows."""

import keras
import numpy as np
import pytest
from keras import ops

from bn_keras.experiments import section2
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.layers.outside_normalization import OutsideNormalization
from bn_keras.experiments.section2 import EXPERIMENT
from bn_keras.experiments.section2_training import EPSILON, RATE


def layer(end=50.0, change=1e-7, deviations=20.0):
    return {
        "steps": [0, 1, 2],
        "bias": [0.0, end / 2, end],
        "loss": [1.0, 0.5, 0.5],
        "end": end,
        "formula": 50.0,
        "change": change,
        "deviations": deviations,
    }


def network(weights, accuracy):
    return {
        "loss": [2.0, 1.0],
        "accuracy": [0.1, accuracy],
        "weights": [weights, weights],
        "initial": 8.0,
    }


@pytest.fixture
def measurements():
    """Return two seeds that behave as the paper says."""
    kinds = {
        "bn": [layer(0.0), layer(1e-6)],
        "scaled": [layer(80.0, deviations=90.0), layer(70.0, deviations=60.0)],
        "centred": [layer(), layer()],
    }
    good, bad = network(9.0, 0.99), network(500.0, 0.1)
    return {
        "scale": "smoke",
        "seconds": 1.0,
        "steps": 2,
        "rates": [1.0, 2.0],
        "layer": kinds,
        "network": {
            "bn": {"1.0": [good, good], "2.0": [good, good]},
            "scaled": {"1.0": [good, bad], "2.0": [bad, bad]},
            "centred": {"2.0": [bad, bad]},
        },
    }


def descend(kind, weights, steps):
    """Return the layer's descent in float64, by the formulas of sections 2 and 3."""
    digits = load_data("digits", None).train
    inputs = digits.images.reshape(len(digits), -1).astype(float)
    inputs -= inputs.mean(0)
    targets = (digits.labels % 2 == 0).astype(float)
    bias, biases, losses, sizes = 0.0, [], [], []
    for _ in range(steps + 1):
        x = inputs @ weights + bias
        deviation = 1.0 if kind == "centred" else np.sqrt(x.var() + EPSILON)
        normalized = (x - x.mean()) / deviation
        sizes.append(abs(bias) / x.std())
        biases.append(bias)
        losses.append(np.mean((normalized - targets) ** 2))
        slope = 2 * (normalized - targets) / len(targets)
        if kind == "bn":
            slope -= slope.mean() + normalized * np.mean(slope * normalized)
        slope /= deviation
        bias -= RATE * slope.sum()
        weights = weights - RATE * inputs.T @ slope
    return biases, losses, np.median(sizes[steps // 2 :])


def initial_weights(seed):
    keras.utils.set_random_seed(seed)
    dense = keras.layers.Dense(
        1, kernel_initializer=keras.initializers.RandomNormal(stddev=1 / 8)
    )
    dense.build((None, 64))
    return np.asarray(ops.convert_to_numpy(dense.kernel), float)[:, 0]


@pytest.mark.parametrize("kind", section2.STYLES)
def test_bias_and_loss_follow_the_formulas_in_float64(kind):
    measured = section2.measure_layer({}, None, kind, seed=1, steps=8)
    biases, losses, deviations = descend(kind, initial_weights(1), 8)
    assert measured["steps"] == list(range(9))
    np.testing.assert_allclose(measured["bias"], biases, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(measured["loss"], losses, rtol=1e-3)
    # With BN the bias consists of rounding errors.
    if kind != "bn":
        np.testing.assert_allclose(measured["deviations"], deviations, rtol=1e-3)
    assert measured["change"] < 1e-5


def test_the_bias_grows_by_the_formula_if_the_mean_is_outside_the_step():
    measured = section2.measure_layer({}, None, "centred", seed=0, steps=20)
    even = np.mean(load_data("digits", None).train.labels % 2 == 0)
    np.testing.assert_allclose(measured["formula"], 2 * RATE * 20 * even)
    np.testing.assert_allclose(measured["end"], measured["formula"], rtol=1e-5)


@pytest.mark.fast
def test_statistics_outside_the_step_are_constant_in_the_gradient():
    tf = pytest.importorskip("tensorflow")
    x = np.array([[1.0, -2.0], [3.0, 0.5], [5.0, 4.0]], np.float32)
    outer = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 1.0]], np.float32)
    inputs = tf.constant(x)
    for scaled, factor in ((False, 1.0), (True, 1 / np.sqrt(x.var(0) + 1e-3))):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = OutsideNormalization(scaled)(inputs)
            loss = tf.reduce_sum(outputs * outer)
        np.testing.assert_allclose(outputs, (x - x.mean(0)) * factor, rtol=1e-5)
        np.testing.assert_allclose(tape.gradient(loss, inputs), outer * factor, 1e-5)


def test_the_figure_shows_bias_loss_and_network(measurements):
    figure = EXPERIMENT.plot(measurements)
    bias, loss, weights, descent = figure.axes
    assert (bias.get_xlabel(), bias.get_ylabel()) == ("steps", "bias b")
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("steps", "loss")
    assert weights.get_xlabel() == descent.get_xlabel() == "epochs"
    assert "rate 2" in weights.get_title()
    for axes in figure.axes:
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--", ":"]
        assert len(axes.collections) == 3
    np.testing.assert_allclose(bias.lines[1].get_ydata(), [0, 37.5, 75])
    assert bias.get_legend().get_texts()[0].get_text() == "With BN"


@pytest.mark.fast
def test_measurements_as_in_the_paper_agree(measurements):
    rows = EXPERIMENT.rows(measurements)
    assert [row.direction for row in rows] == ["yes", "undecided", "yes"]
    assert rows[0].measured == (
        "50.00 (50.00 to 50.00); it changes the loss by 1e-07 at most"
    )
    # The interval of 4.5 and 3 times, with two seeds.
    assert rows[1].measured.startswith("3.7 (0.3 to ")
    assert rows[1].measured.endswith(
        "75.0 (60.0 to 90.0), with E[x] alone outside 20.0 (20.0 to 20.0)"
    )
    assert rows[2].claim.endswith("lowest rate that blows up, of 1, 2")
    assert rows[2].measured == (
        "at rate 1 to 2, with BN at none; weights at rate 2: 62.5 (62.5 to 62.5) "
        "times, with BN 1.1 (1.1 to 1.1) times"
    )
    assert all(len(row.claim) <= 88 for row in rows)


@pytest.mark.fast
@pytest.mark.parametrize(("name", "value"), [("end", 40.0), ("change", 0.01)])
def test_a_bias_against_the_formula_contradicts_the_claim(measurements, name, value):
    measurements["layer"]["centred"][1][name] = value
    assert EXPERIMENT.rows(measurements)[0].direction == "no"


@pytest.mark.fast
def test_a_network_that_blows_up_with_some_seeds_is_undecided(measurements):
    scaled = measurements["network"]["scaled"]
    scaled["2.0"][0] = network(79.0, 0.995)
    row = EXPERIMENT.rows(measurements)[2]
    assert row.direction == "undecided"
    assert row.measured.startswith("at rate 1, none with 1 seed, with BN at none")
    scaled["1.0"][1] = scaled["2.0"][1] = network(79.0, 0.995)
    assert EXPERIMENT.rows(measurements)[2].direction == "no"


@pytest.mark.fast
def test_a_blow_up_with_bn_contradicts_the_claim(measurements):
    measurements["network"]["bn"]["2.0"][0] = network(500.0, 0.1)
    assert EXPERIMENT.rows(measurements)[2].direction == "no"


@pytest.mark.fast
@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_weights_that_are_not_finite_count_as_blown_up(measurements, value):
    measurements["network"]["scaled"]["1.0"][0] = network(500.0, 0.1)
    measurements["network"]["scaled"]["1.0"][0]["weights"][-1] = value
    growth = EXPERIMENT.rows(measurements)[2]
    assert growth.direction == "yes"
    assert growth.measured.startswith("at rate 1, with BN at none")


def test_networks_differ_only_in_the_gradient_through_the_statistics():
    first, again, outside = (
        section2.measure_network({}, None, kind, 0, 2.0, 1)
        for kind in ("bn", "bn", "scaled")
    )
    assert first == again
    assert first["initial"] == outside["initial"]
    # If the loss does not depend on the scale of a kernel, the kernel grows; it grows
    # more if the gradient has a component along the kernel.
    assert outside["weights"][-1] > 1.2 * first["weights"][-1]


@pytest.mark.slow
def test_a_smoke_run_measures_each_part_once(tmp_path):
    progress = []
    first = EXPERIMENT.run(tmp_path, "smoke")
    second = EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: progress.append(part)
    )
    assert progress == [("", 6, 6)]
    assert second == first
    assert len(EXPERIMENT.plot(first).axes) == 4
    assert len(EXPERIMENT.rows(first)) == 3
