"""Figure 1: the training that is followed, the measure of drift, the rows, the plot."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bn_keras.data import Shuffling
from bn_keras.experiments import mnist
from bn_keras.experiments.mnist_training import follow, load_binary, mini_batches
from bn_keras.models.mlp import INITIAL_STDDEV
from bn_keras.training import build
from bn_keras.training.recipes import BN_MLP, MLP

EPSILON = 1e-3  # of the layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class NetworkInFloat64:
    """Section 4.1's network, its gradients written out, in NumPy."""

    def __init__(self, model, deviation, momentum):
        self.kernels = [
            np.float64(layer.kernel) * deviation / INITIAL_STDDEV
            for layer in model.layers
            if hasattr(layer, "kernel")
        ]
        self.normalized, self.momentum = momentum is not None, momentum
        # Beta stands where the bias would.
        self.offsets = [np.zeros(kernel.shape[1]) for kernel in self.kernels]
        self.gammas = [np.ones(100) for _ in range(3)]
        self.means = [np.zeros(100) for _ in range(3)]
        self.variances = [np.ones(100) for _ in range(3)]

    def forward(self, images, moments):
        """Inputs of each layer; of the sigmoids; the normalized; probabilities."""
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

    def look(self, images, labels):
        layers, _, probabilities = self.forward(
            images, lambda index, x: (self.means[index], self.variances[index])
        )
        accuracy = (probabilities.argmax(1) == labels).mean()
        return accuracy, np.percentile(layers[2][3], (15, 50, 85), axis=0)


@pytest.mark.parametrize("recipe", [BN_MLP, MLP], ids=["with BN", "without"])
def test_a_training_is_the_papers_network_and_its_looks_are_inference(recipe):
    recipe = replace(recipe, learning_rate=0.3, seed=3)
    data = load_binary("digits", None)
    deviation, steps, every = 0.5, 12, 4
    course = follow(recipe, data, deviation, steps, every)
    momentum = recipe.bn_momentum if recipe.batch_normalization else None
    network = NetworkInFloat64(build(recipe, data), deviation, momentum)
    batches = mini_batches(data.train, recipe).take(steps).as_numpy_iterator()
    looks = []
    for number, (images, labels) in enumerate(batches, start=1):
        network.step(images, labels, recipe.learning_rate)
        if number % every == 0:
            looks.append(network.look(data.test.images, data.test.labels))
    accuracy, percentiles = zip(*looks, strict=True)
    # One of the 360 images may lie on the border between two classes.
    np.testing.assert_allclose(course.accuracy, accuracy, atol=1.01 / 360)
    np.testing.assert_allclose(course.percentiles, percentiles, rtol=0, atol=2e-4)


def test_the_initial_weights_have_the_deviation():
    # A rate this small leaves them: the last hidden input is W sigmoid(about 0).
    data, recipe = load_binary("digits", None), replace(MLP, learning_rate=1e-12)
    medians = follow(recipe, data, 0.01, 1, 1).percentiles[0, 1]
    # A sum of 100 weights times 1/2; the deviation of 100 such is known to 7 %.
    assert medians.std() == pytest.approx(0.01 * np.sqrt(100) / 2, rel=0.2)


def test_images_are_binary_as_mnist_binary_has_them():
    data = load_binary("digits", None)
    assert set(np.unique(data.train.images)) == {0, 1}
    assert data.train.images.shape == (1437, 8, 8, 1)
    assert data.test.images.shape == (360, 8, 8, 1)


def test_mini_batches_are_those_of_every_other_training():
    split = load_binary("digits", None).train
    recipe = replace(MLP, batch_size=479, seed=5)  # a third of an epoch
    found = mini_batches(split, recipe).take(7).as_numpy_iterator()
    expected = split.batches(479, Shuffling(5), epochs=3).take(7).as_numpy_iterator()
    for (images, labels), (others, classes) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, classes)


def test_mini_batches_are_full_and_leave_an_epochs_rest_out():
    split = load_binary("digits", None).train
    stream = mini_batches(split, MLP)
    assert stream.element_spec[0].shape == (60, 8, 8, 1)
    orders = [
        np.concatenate([labels for _, labels in part.as_numpy_iterator()])
        for part in (stream.take(23), stream.skip(23).take(23))
    ]
    assert not np.array_equal(*orders)
    # 57 of the 1,437 examples are left out of an epoch.
    whole = np.bincount(split.labels)
    for labels in orders:
        missing = whole - np.bincount(labels, minlength=10)
        assert missing.min() >= 0
        assert missing.sum() == 57


def test_steps_must_be_a_multiple_of_every():
    message = "`steps` must be a multiple of `every`. Received: steps=10, every=4"
    with pytest.raises(ValueError, match=message):
        follow(MLP, load_binary("digits", None), 0.01, 10, 4)


def test_drift_is_the_wandering_of_percentiles_in_widths():
    rng = np.random.default_rng(0)
    found = np.sort(rng.normal(size=(20, 3, 7)), axis=1)
    expected = [
        np.mean([np.sqrt(np.mean((q - q.mean()) ** 2)) for q in found[:, :, unit].T])
        / np.mean([q[2] - q[0] for q in found[:, :, unit]])
        for unit in range(7)
    ]
    np.testing.assert_allclose(mnist.drift(found), expected, rtol=1e-12)
    # Neither scale nor offset of the input matter.
    np.testing.assert_allclose(mnist.drift(5 * found - 3), expected, rtol=1e-12)


def test_the_typical_unit_is_the_median():
    assert mnist.typical(np.array([5.0, 1.0, 3.0])) == 2
    assert mnist.typical(np.array([4.0, 1.0, 3.0, 2.0])) == 3


def made_up(**changes):
    """Two seeds, looks after 10, 20, 30 and 40 steps."""
    with_bn = {
        "accuracy": [[0.8, 0.95, 0.96, 0.98], [0.92, 0.93, 0.96, 0.97]],
        "drift": [0.2, 0.1],
        "unit": 3,
        "percentiles": [[-1, 0, 1], [-1.1, 0, 1], [-1, 0.1, 1], [-1, 0, 1.2]],
    }
    without = {
        "accuracy": [[0.1, 0.3, 0.9, 0.94], [0.1, 0.2, 0.91, 0.9]],
        "drift": [0.8, 0.5],
        "unit": 9,
        "percentiles": [[0, 0, 0], [-1, 0, 1], [-2, 0, 3], [-4, 0, 5]],
    }
    return {
        "scale": "default",
        "seconds": 1.0,
        "data": "mnist",
        "deviation": 0.01,
        "learning_rate": 0.5,
        "steps": [10, 20, 30, 40],
        "networks": {BN_MLP.name: with_bn | changes, MLP.name: without},
    }


def test_rows_hold_what_was_measured():
    passing, best, ending, drifting = mnist.rows(made_up())
    assert passing.measured == "15 (10 to 20) with BN, 35 (30 to 40) without"
    assert best.measured == "97.5 (97.0 to 98.0) with BN, 92.5 (91.0 to 94.0) without"
    assert ending.measured == "97.5 (97.0 to 98.0) with BN, 92.0 (90.0 to 94.0) without"
    assert drifting.measured == (
        "0.150 (0.100 to 0.200) with BN, 0.650 (0.500 to 0.800) without"
    )
    assert passing.agrees is best.agrees is ending.agrees is True
    assert drifting.agrees is True
    json.dumps(mnist.rows(made_up()))


def test_a_claim_fails_with_one_seed_that_does_not_hold_it():
    worse = made_up(
        accuracy=[[0.8, 0.95, 0.96, 0.98], [0.8, 0.8, 0.9, 0.89]], drift=[0.2, 0.6]
    )
    passing, best, ending, drifting = mnist.rows(worse)
    assert passing.measured == "not passed in 1 of 2 trainings"
    assert passing.agrees is best.agrees is ending.agrees is False
    assert drifting.agrees is False


def test_a_drift_that_is_not_a_number_decides_nothing():
    drifting = mnist.rows(made_up(drift=[0.2, float("nan")]))[-1]
    assert drifting.agrees is None


def test_the_axis_is_wider_where_a_curve_would_lie_outside_it():
    low = made_up(accuracy=[[0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.2, 0.6]])
    assert mnist.plot(low).axes[0].get_ylim() == (0, 1)


def test_the_figure_has_the_papers_axes():
    figure = mnist.plot(made_up())
    accuracy, without, with_bn = figure.axes
    assert accuracy.get_ylim() == (0.7, 1)
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


def test_a_smoke_run_measures_once_and_goes_on_from_what_it_has(tmp_path):
    parts = []

    def note(name, done, total):
        parts.append((name, done, total))

    found = mnist.run(tmp_path, "smoke", on_part=note)
    assert parts == [("", 0, 2), ("bn-mlp-seed0", 1, 2), ("mlp-seed0", 2, 2)]
    parts.clear()
    assert mnist.run(tmp_path, "smoke", on_part=note) == found
    assert parts == [("", 2, 2)]
    assert json.loads(json.dumps(found)) == found
    assert found["steps"] == [50, 100, 150, 200]
    assert found["networks"]["bn-mlp"]["accuracy"][0][-1] > 0.7
    assert len(mnist.rows(found)) == 4
    mnist.plot(found).canvas.draw()
