"""The deep linear network in NumPy, against Keras' layers, and its experiment."""

import json

import keras
import numpy as np
import pytest

from bn_keras import BatchNormalization
from bn_keras.experiments.deep_linear import EXPERIMENT, PLANS
from bn_keras.experiments.deep_linear_network import (
    EPSILON,
    NETWORKS,
    NORMS,
    group_by_layer,
    initial_weights,
    loss_and_gradients,
    make_examples,
)
from bn_keras.experiments.deep_linear_training import train
from bn_keras.experiments.layers.lp_normalization import LpNormalization

UNITS, EXAMPLES = 4, 30


def network_in_keras(network, depth):
    """Return the same network of Keras' layers, in float64."""
    x = inputs = keras.Input((UNITS,), dtype="float64")
    for layer in range(depth):
        x = keras.layers.Dense(UNITS, use_bias=False, dtype="float64")(x)
        if network == "bn" and layer < depth - 1:
            x = BatchNormalization(epsilon=EPSILON, dtype="float64")(x)
        elif network != "none" and layer < depth - 1:
            p, after_mean = NORMS[network]
            x = LpNormalization(
                p, epsilon=EPSILON, centred=after_mean, dtype="float64"
            )(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("network", NETWORKS)
def test_loss_and_gradients_are_those_of_the_layers(network):
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(2)
    weights = initial_weights(network, 3, UNITS, rng)
    weights = [weight + 0.2 * rng.normal(size=weight.shape) for weight in weights]
    inputs = rng.normal(size=(UNITS, EXAMPLES)) + 0.5
    targets = rng.normal(size=(UNITS, UNITS)) @ inputs
    loss, gradients = loss_and_gradients(
        network, weights, make_examples(network, inputs, targets)
    )
    model = network_in_keras(network, 3)
    # Here `(outputs, inputs)` and columns; in Keras `(inputs, outputs)` and vectors.
    for variable, weight in zip(model.trainable_variables, weights, strict=True):
        variable.assign(weight.T if len(variable.shape) == 2 else weight[:, 0])
    with tf.GradientTape() as tape:
        outputs = model(inputs.T, training=True)
        expected = tf.reduce_sum((outputs - targets.T) ** 2)
    assert loss == pytest.approx(float(expected), rel=1e-9)
    others = tape.gradient(expected, model.trainable_variables)
    for gradient, other in zip(gradients, others, strict=True):
        other = np.asarray(other)
        other = other.T if other.ndim == 2 else other[:, np.newaxis]
        np.testing.assert_allclose(gradient, other, rtol=1e-7, atol=1e-8)


@pytest.mark.fast
def test_initial_weights_are_glorots_and_grouped_by_layer():
    weights = initial_weights("bn", 25, 10, np.random.default_rng(0))
    kernels = np.array([w for w in weights if w.shape[1] > 1])
    assert kernels.shape == (25, 10, 10)
    assert np.abs(kernels).max() <= np.sqrt(6 / 20)
    assert kernels.std() == pytest.approx(np.sqrt(2 / 20), rel=0.03)
    groups = group_by_layer(weights)
    assert groups[:2] == [[0, 1, 2], [3, 4, 5]]
    assert groups[-1] == [72]  # no normalization after the last layer
    assert len(initial_weights("none", 25, 10, np.random.default_rng(0))) == 25


def tiny(**changes):
    sizes = {"depth": 3, "units": 3, "examples": 20, "steps": 4, "every": 2}
    sizes |= {"factors": [1, 2], "drawn": [2, 3], "seed": 1, "rate": 1e-4}
    return train(None, None, **{"network": "none", **sizes, **changes})


@pytest.mark.fast
def test_training_is_gradient_descent_and_probes_come_before_their_step():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 20))
    y = rng.normal(size=(3, 3)) @ x
    a, b, c = initial_weights("none", 3, 3, rng)

    def gradients(a, b, c):
        error = 2 * (c @ b @ a @ x - y)
        return (
            (c @ b).T @ error @ x.T,
            c.T @ error @ (a @ x).T,
            error @ (b @ a @ x).T,
        )

    losses, variations, shifts = [], [], []
    for step in range(4):
        f, g, h = gradients(a, b, c)
        probed = [
            np.sum(((c - r * h) @ (b - r * g) @ (a - r * f) @ x - y) ** 2)
            for r in (1e-4, 2e-4)
        ]
        if step % 2 == 0:
            losses.append(np.sum((c @ b @ a @ x - y) ** 2))
            variations.append(np.ptp(probed))
            changed = gradients(a - 1e-4 * f, b - 1e-4 * g, c)[2]
            shifts.append(np.linalg.norm(changed - h))
        a, b, c = a - 1e-4 * f, b - 1e-4 * g, c - 1e-4 * h
    curves = tiny()
    np.testing.assert_allclose(curves["loss"], losses, rtol=1e-3)
    np.testing.assert_allclose(curves["loss_variation"], variations, rtol=1e-3)
    np.testing.assert_allclose(curves["shift_distance"]["3"], shifts, rtol=1e-3)
    assert curves["steps"] == [0, 2]


@pytest.mark.fast
def test_networks_of_a_seed_have_the_same_data_and_a_seed_repeats_itself():
    assert tiny() == tiny()
    assert tiny() != tiny(seed=2)
    # With one layer nothing is normalized: the networks are the same.
    one = {"depth": 1, "drawn": []}
    np.testing.assert_allclose(
        tiny(network="bn", **one)["loss"], tiny(network="none", **one)["loss"]
    )


@pytest.mark.fast
def test_a_training_that_diverges_counts_as_infinite_from_there():
    curves = tiny(rate=10.0, steps=40, every=4)
    assert len(curves["loss"]) == len(curves["steps"]) == 10
    assert np.isfinite(curves["loss"][0])
    assert np.isinf(curves["loss"][-1])
    assert np.isinf(curves["smoothness"][-1])


@pytest.mark.fast
def test_the_default_plan_is_the_papers_set_up():
    plan = PLANS["default"]
    assert (plan.depth, plan.units, plan.examples, plan.steps) == (25, 10, 1000, 10_000)
    assert plan.rates == (1e-7, 1e-6, 3e-6)
    assert (min(plan.factors), max(plan.factors)) == (0.01, 30)
    assert plan.drawn == (9, 17)
    assert set(plan.norms) == set(NORMS)
    assert plan.norm_rate == 1e-6


@pytest.mark.fast
def test_a_smoke_run_measures_each_part_once(tmp_path):
    first = EXPERIMENT.run(tmp_path, "smoke")
    progress = []
    again = EXPERIMENT.run(tmp_path, "smoke", on_part=lambda *a: progress.append(a))
    assert again == first
    assert all(done == total for _, done, total in progress)
    assert json.loads(json.dumps(first)) == first
    rows = EXPERIMENT.rows(first)
    assert {row.fact for row in rows} >= {"dln-beta", "dln-l1", "dln-l1-trains"}
    assert all(len(row.claim) <= 88 for row in rows)
    figure = EXPERIMENT.plot(first)
    assert len(figure.axes) == 5 * 4


@pytest.mark.fast
def test_a_p_norm_is_compared_with_no_normalization_and_with_bn():
    measurements = EXPERIMENT.run(scale="smoke")
    curves = measurements["curves"]

    def seeds(factor):
        (seed,) = curves["bn"]["1e-06"]
        names = ("loss", "loss_variation", "distance_most", "smoothness")
        scaled = {name: [factor * value for value in seed[name]] for name in names}
        return {"1e-06": [seed | scaled] * 3}

    factors = {"none": 6.0, "bn": 3.0, "l1": 2.0, "linf-centred": 1.0}
    measurements["curves"] = curves = {x: seeds(f) for x, f in factors.items()}
    rows = {row.claim: row for row in EXPERIMENT.rows(measurements)}
    smooth = rows["L1, rate 1e-6: effective beta-smoothness"]
    assert (smooth.paper, smooth.direction) == ("smoother with L1", "yes")
    assert smooth.measured.startswith("without L1 3.00 times")
    loss = rows["L1, rate 1e-6: training loss at step 15"]
    assert (loss.fact, loss.direction) == ("dln-l1-trains", "yes")
    better = rows["L1, rate 1e-6: last training loss of BN over its own"]
    assert (better.measured, better.direction) == ("1.50 times (1.50 to 1.50)", "yes")
    # The paper has no norm of centered activations.
    centered = [row for claim, row in rows.items() if claim.startswith("centered L∞")]
    assert {(row.paper, row.direction) for row in centered} == {("-", None)}
    assert len(centered) == 5
    # One line for each network beside the p-norms, one for each seed elsewhere.
    figure = EXPERIMENT.plot(measurements)
    assert [len(axes.lines) for axes in figure.axes[:2]] == [2 * 3, 4]
    (middle,) = [line for line in figure.axes[1].lines if line.get_label() == "L1"]
    (seed, *_) = curves["l1"]["1e-06"]
    np.testing.assert_allclose(middle.get_ydata(), seed["loss"])
