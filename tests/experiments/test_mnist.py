"""Figure 1: the observed training, the drift, the rows and the plot."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bn_keras.data import Shuffling
from bn_keras.experiments import mnist_summary
from bn_keras.experiments.answers import pack_answers
from bn_keras.experiments.mnist import EXPERIMENT
from bn_keras.experiments.mnist_training import (
    load_binary,
    mini_batches,
    observe_training,
)
from bn_keras.models.mlp import INITIAL_STDDEV
from bn_keras.training import build
from bn_keras.training.recipes import BN_MLP, MLP

EPSILON = 1e-3  # of the layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class NetworkInFloat64:
    """Section 4.1's network in NumPy, with its gradients written out."""

    def __init__(self, model, deviation, momentum):
        self.kernels = [
            np.float64(layer.kernel) * deviation / INITIAL_STDDEV
            for layer in model.layers
            if hasattr(layer, "kernel")
        ]
        self.normalized, self.momentum = momentum is not None, momentum
        # Beta takes the place of the bias.
        self.offsets = [np.zeros(kernel.shape[1]) for kernel in self.kernels]
        self.gammas = [np.ones(100) for _ in range(3)]
        self.means = [np.zeros(100) for _ in range(3)]
        self.variances = [np.ones(100) for _ in range(3)]

    def forward(self, images, moments):
        """Return the values within each hidden layer, the last u, and probabilities."""
        u, layers = np.float64(images).reshape(len(images), -1), []
        for index in range(3):
            x = u @ self.kernels[index]
            mean, variance = moments(index, x)
            xhat, gamma = x, 1
            if self.normalized:
                xhat = (x - mean) / np.sqrt(variance + EPSILON)
                gamma = self.gammas[index]
            y = gamma * xhat + self.offsets[index]
            layers.append((u, xhat, variance, y))
            u = sigmoid(y)
        logits = u @ self.kernels[3] + self.offsets[3]
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return layers, u, exponentials / exponentials.sum(1, keepdims=True)

    def step(self, images, labels, rate):
        def of_the_batch(index, x):
            mean, variance = x.mean(0), x.var(0)
            if self.normalized:
                new = 1 - self.momentum
                unbiased = variance * len(x) / (len(x) - 1)
                self.means[index] += new * (mean - self.means[index])
                self.variances[index] += new * (unbiased - self.variances[index])
            return mean, variance

        layers, last, probabilities = self.forward(images, of_the_batch)
        d = (probabilities - np.eye(10)[labels]) / len(labels)
        changes = [(self.kernels[3], last.T @ d), (self.offsets[3], d.sum(0))]
        d = d @ self.kernels[3].T
        for index in (2, 1, 0):
            u, xhat, variance, y = layers[index]
            d = d * sigmoid(y) * (1 - sigmoid(y))
            changes.append((self.offsets[index], d.sum(0)))
            if self.normalized:
                dgamma = (d * xhat).sum(0)
                changes.append((self.gammas[index], dgamma))
                scale = self.gammas[index] / np.sqrt(variance + EPSILON)
                d = scale * (d - d.mean(0) - xhat * dgamma / len(d))
            changes.append((self.kernels[index], u.T @ d))
            d = d @ self.kernels[index].T
        for weights, gradient in changes:
            weights -= rate * gradient

    def observe(self, images, labels):
        layers, _, probabilities = self.forward(
            images, lambda index, x: (self.means[index], self.variances[index])
        )
        accuracy = (probabilities.argmax(1) == labels).mean()
        return accuracy, np.percentile(layers[2][3], (15, 50, 85), axis=0)


@pytest.mark.parametrize("recipe", [BN_MLP, MLP], ids=["with BN", "without"])
def test_training_matches_the_papers_formulas_and_observes_in_inference_mode(recipe):
    recipe = replace(recipe, learning_rate=0.3, seed=3)
    data = load_binary("digits", None)
    deviation, steps, every = 0.5, 12, 4
    observations = observe_training(recipe, data, deviation, steps, every)
    momentum = recipe.bn_momentum if recipe.batch_normalization else None
    network = NetworkInFloat64(build(recipe, data), deviation, momentum)
    batches = mini_batches(data.train, recipe).take(steps).as_numpy_iterator()
    expected = []
    for number, (images, labels) in enumerate(batches, start=1):
        network.step(images, labels, recipe.learning_rate)
        if number % every == 0:
            expected.append(network.observe(data.test.images, data.test.labels))
    accuracy, percentiles = zip(*expected, strict=True)
    # One of the 360 images may be on the border between two classes.
    np.testing.assert_allclose(observations.accuracy, accuracy, atol=1.01 / 360)
    np.testing.assert_allclose(observations.percentiles, percentiles, rtol=0, atol=2e-4)
    assert observations.correct.mean() == observations.accuracy[-1]


def test_initial_weights_have_the_given_deviation():
    # A rate this small does not change them: the last hidden input is W sigmoid(~0).
    data, recipe = load_binary("digits", None), replace(MLP, learning_rate=1e-12)
    medians = observe_training(recipe, data, 0.01, 1, 1).percentiles[0, 1]
    # Each is a sum of 100 weights times 1/2; 100 of them determine it to 7 %.
    assert medians.std() == pytest.approx(0.01 * np.sqrt(100) / 2, rel=0.2)


@pytest.mark.fast
def test_images_are_binary():
    data = load_binary("digits", None)
    assert set(np.unique(data.train.images)) == {0, 1}
    assert data.train.images.shape == (1437, 8, 8, 1)
    assert data.test.images.shape == (360, 8, 8, 1)


def test_mini_batches_equal_those_of_other_trainings():
    split = load_binary("digits", None).train
    recipe = replace(MLP, batch_size=479, seed=5)  # a third of an epoch
    batches = mini_batches(split, recipe).take(7).as_numpy_iterator()
    expected = split.batches(479, Shuffling(5), epochs=3).take(7).as_numpy_iterator()
    for (images, labels), (others, classes) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, classes)


def test_mini_batches_are_full_and_drop_the_remainder_of_an_epoch():
    split = load_binary("digits", None).train
    stream = mini_batches(split, MLP)
    assert stream.element_spec[0].shape == (60, 8, 8, 1)
    orders = [
        np.concatenate([labels for _, labels in part.as_numpy_iterator()])
        for part in (stream.take(23), stream.skip(23).take(23))
    ]
    assert not np.array_equal(*orders)
    # 57 of the 1,437 examples of an epoch are left out.
    whole = np.bincount(split.labels)
    for labels in orders:
        missing = whole - np.bincount(labels, minlength=10)
        assert missing.min() >= 0
        assert missing.sum() == 57


@pytest.mark.fast
def test_steps_must_be_a_multiple_of_every():
    message = "`steps` must be a multiple of `every`. Received: steps=10, every=4"
    with pytest.raises(ValueError, match=message):
        observe_training(MLP, load_binary("digits", None), 0.01, 10, 4)


@pytest.mark.fast
def test_drift_is_the_movement_of_percentiles_in_widths():
    rng = np.random.default_rng(0)
    percentiles = np.sort(rng.normal(size=(20, 3, 7)), axis=1)
    expected = [
        np.mean(
            [np.sqrt(np.mean((q - q.mean()) ** 2)) for q in percentiles[:, :, unit].T]
        )
        / np.mean([q[2] - q[0] for q in percentiles[:, :, unit]])
        for unit in range(7)
    ]
    np.testing.assert_allclose(mnist_summary.drift(percentiles), expected, rtol=1e-12)
    # Neither the scale nor the offset of the input matters.
    np.testing.assert_allclose(
        mnist_summary.drift(5 * percentiles - 3), expected, rtol=1e-12
    )


@pytest.mark.fast
def test_the_typical_unit_has_the_median_drift():
    assert mnist_summary.median_unit(np.array([5.0, 1.0, 3.0])) == 2
    assert mnist_summary.median_unit(np.array([4.0, 1.0, 3.0, 2.0])) == 3


IMAGES = 100


def answers(*right):
    """Return the packed answers of seeds that have so many of 100 images right."""
    return [pack_answers(np.arange(IMAGES) < count) for count in right]


def made_up(**changes):
    """Return measurements of two seeds, observed after 10, 20, 30 and 40 steps."""
    with_bn = {
        "accuracy": [[0.8, 0.95, 0.96, 0.98], [0.92, 0.93, 0.96, 0.97]],
        "drift": [0.2, 0.1],
        "unit": 3,
        "percentiles": [[-1, 0, 1], [-1.1, 0, 1], [-1, 0.1, 1], [-1, 0, 1.2]],
        "correct": answers(98, 97),
    }
    without = {
        "accuracy": [[0.1, 0.3, 0.9, 0.94], [0.1, 0.2, 0.91, 0.9]],
        "drift": [0.8, 0.41],
        "unit": 9,
        "percentiles": [[0, 0, 0], [-1, 0, 1], [-2, 0, 3], [-4, 0, 5]],
        "correct": answers(94, 93),
    }
    networks = {BN_MLP.name: with_bn | changes, MLP.name: without}
    return {
        "scale": "default",
        "seconds": 1.0,
        "data": "mnist",
        "images": IMAGES,
        "deviation": 0.01,
        "learning_rate": 0.5,
        "steps": [10, 20, 30, 40],
        "networks": networks,
        "tuned": {
            "deviation": 0.1,
            "learning_rate": 1.0,
            **{
                key: {name: of[key] for name, of in networks.items()}
                for key in ("accuracy", "correct")
            },
        },
    }


@pytest.mark.fast
def test_rows_hold_what_was_measured():
    steps, last, drift, tuned, tuned_steps = EXPERIMENT.rows(made_up())
    assert steps.measured.startswith(
        "15 (10 to 20) with BN, 35 (30 to 40) without: 2.4 times"
    )
    assert last.measured == (
        "97.5 (97.0 to 98.0) with BN, 92.0 (90.0 to 94.0) without; "
        "difference 4.00 (1.00 to 8.00)"
    )
    assert last.n == "2 seeds, 100 pictures"
    assert drift.measured.startswith(
        "0.150 (0.100 to 0.200) with BN, 0.605 (0.410 to 0.800) without: 4.0 times"
    )
    assert [row.direction for row in (steps, last, drift)] == [
        "undecided",  # 2 to 3 times, with two seeds
        "yes",  # 1 to 8 of 100 pictures
        "yes",
    ]
    # The baseline at its best is not in the paper.
    assert {(row.paper, row.direction) for row in (tuned, tuned_steps)} == {("-", None)}
    assert "rate 1, deviation 0.1" in tuned.claim
    json.dumps(EXPERIMENT.rows(made_up()))


@pytest.mark.fast
def test_a_training_that_never_exceeds_contradicts_the_claim():
    worse = made_up(
        accuracy=[[0.8, 0.95, 0.96, 0.98], [0.8, 0.8, 0.9, 0.89]], drift=[0.2, 0.6]
    )
    steps, _, drift, *_ = EXPERIMENT.rows(worse)
    assert steps.measured == "not exceeded in 1 of 2 trainings"
    assert (steps.direction, drift.direction) == ("no", "undecided")


@pytest.mark.fast
def test_a_drift_of_nan_decides_nothing():
    drift = EXPERIMENT.rows(made_up(drift=[0.2, float("nan")]))[2]
    assert drift.direction == "undecided"


@pytest.mark.fast
def test_the_axis_starts_at_0_if_a_curve_would_be_below_it():
    low = made_up(accuracy=[[0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.2, 0.6]])
    assert EXPERIMENT.plot(low).axes[0].get_ylim() == (0, 1)


@pytest.mark.fast
def test_the_figure_has_the_axes_of_the_paper():
    figure = EXPERIMENT.plot(made_up())
    accuracy, tuned, without, with_bn = figure.axes
    assert accuracy.get_ylim() == tuned.get_ylim() == (0.7, 1)
    assert accuracy.get_title() == "(a) rate 0.5, deviation 0.01"
    assert tuned.get_title() == "(a) rate 1, deviation 0.1"
    assert [line.get_label() for line in accuracy.lines] == ["With BN", "Without BN"]
    assert [line.get_linestyle() for line in accuracy.lines] == ["-", "--"]
    np.testing.assert_allclose(accuracy.lines[0].get_xdata(), [0.01, 0.02, 0.03, 0.04])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [0.86, 0.94, 0.96, 0.975])
    assert len(accuracy.collections) == 2  # the ranges over the seeds
    for axes, title in ((without, "(b) Without BN"), (with_bn, "(c) With BN")):
        assert axes.get_title() == title
        assert len(axes.lines) == 3
    np.testing.assert_allclose(without.lines[0].get_ydata(), [0, 1, 3, 5])
    assert without.get_ylim() == with_bn.get_ylim()
    assert {axes.get_xlabel() for axes in figure.axes} == {"steps (thousands)"}
    figure.canvas.draw()


def test_a_smoke_run_measures_each_part_once(tmp_path):
    parts = []

    def note(name, done, total):
        parts.append((name, done, total))

    measurements = EXPERIMENT.run(tmp_path, "smoke", on_part=note)
    assert [name for name, *_ in parts] == [
        *("", "bn-mlp-seed0", "mlp-seed0"),
        *("", "bn-mlp-tuned-seed0", "mlp-tuned-seed0"),
    ]
    parts.clear()
    assert EXPERIMENT.run(tmp_path, "smoke", on_part=note) == measurements
    assert parts == [("", 2, 2), ("", 2, 2)]
    assert json.loads(json.dumps(measurements)) == measurements
    assert measurements["steps"] == [50, 100, 150, 200]
    assert measurements["networks"]["bn-mlp"]["accuracy"][0][-1] > 0.7
    assert len(EXPERIMENT.rows(measurements)) == 5
    EXPERIMENT.plot(measurements).canvas.draw()
