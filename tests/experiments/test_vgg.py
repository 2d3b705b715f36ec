"""VGG with and without BN: its training, the rows and figures of both experiments."""

import keras
import numpy as np
import pytest

from bn_keras.experiments import vgg_training
from bn_keras.experiments.answers import pack_answers, unpack_answers
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.vgg import EXPERIMENT, PLANS
from bn_keras.experiments.vgg_sweep import EXPERIMENT as SWEEP
from bn_keras.experiments.vgg_sweep import PLANS as SWEEP_PLANS


def test_a_training_starts_from_scaled_glorot_weights_and_tests_all_pictures(
    monkeypatch,
):
    built = []
    build = vgg_training.VGG
    monkeypatch.setattr(
        vgg_training, "VGG", lambda **sizes: built.append(build(**sizes)) or built[0]
    )
    result = vgg_training.train_and_test(
        {},
        None,
        batch_normalization=True,
        rate=0.0,  # the weights stay as they were
        initial_scale=3.0,
        data="digits",
        depth=11,
        width=1 / 16,
        steps=2,
        every=1,
        test=True,
        seed=1,
    )
    (model,) = built
    *hidden, classifier = [
        layer.kernel for layer in model.layers if hasattr(layer, "kernel")
    ]
    for kernel in hidden:
        *window, inputs, outputs = kernel.shape
        deviation = np.sqrt(2 / (np.prod(window) * (inputs + outputs)))
        assert np.std(kernel) == pytest.approx(3 * deviation, rel=0.15)
        assert np.abs(kernel).max() <= 3 * np.sqrt(3) * deviation * 1.001
    assert np.abs(classifier).max() <= np.sqrt(6 / sum(classifier.shape))
    test = load_data("digits", None).test
    images = keras.ops.image.resize(test.images, (32, 32))
    answers = model.predict(2 * images - 1, verbose=0).argmax(-1)
    (correct,) = unpack_answers([result["correct"]], result["images"])
    # Equal but for pictures between two classes.
    assert np.mean(correct == (answers == test.labels)) > 0.97
    assert result["test"][-1] == pytest.approx(correct.mean(), abs=1e-4)
    assert len(result["accuracy"]) == len(result["test"]) == 2


def measured(accuracies, test):
    """Return three seeds with these training accuracies and a final test accuracy."""
    return [
        {
            "accuracy": [value + 0.01 * seed for value in accuracies],
            "test": [0.1, test],
            "correct": pack_answers(np.arange(1000) < 1000 * test),
            "images": 1000,
        }
        for seed in range(3)
    ]


def measurements(without=(0.1, 0.1), high=(0.1, 0.1)):
    """Return the rates of the figure; at the higher one only BN learns."""
    return {
        "plan": {**PLANS["default"]._asdict(), "rates": [0.1, 0.5]},
        "results": {
            "bn": {"0.1": measured((0.5, 0.9), 0.8), "0.5": measured((0.4, 0.8), 0.7)},
            "none": {"0.1": measured(without, 0.6), "0.5": measured(high, 0.1)},
        },
    }


@pytest.mark.fast
def test_rows_judge_speed_chance_and_the_test_accuracy():
    rows = {row.fact: row for row in EXPERIMENT.rows(measurements((0.3, 0.7)))}
    faster = rows["vgg-trains"]
    assert faster.measured == (
        "71.0 (70.0 to 72.0) with BN, 51.0 (50.0 to 52.0) without; "
        "difference 20.0 (20.0 to 20.0)"
    )
    assert (faster.n, faster.direction) == ("3 seeds", "yes")
    assert rows["vgg-trains-high"].direction == "yes"
    chance = rows["vgg-chance"]
    assert (chance.measured, chance.direction) == ("11.0 (10.0 to 12.0)", "yes")
    test = rows["vgg-test"]
    assert test.measured.startswith(
        "80.0 (80.0 to 80.0) with BN, 60.0 (60.0 to 60.0) without; difference 20.0"
    )
    assert (test.n, test.direction) == ("3 seeds, 1,000 pictures", "yes")


@pytest.mark.fast
def test_a_network_that_learns_at_the_high_rate_contradicts_the_claims():
    rows = EXPERIMENT.rows(measurements(high=(0.7, 0.9)))
    verdicts = {row.fact: row.direction for row in rows if row.fact}
    assert verdicts["vgg-chance"] == verdicts["vgg-trains-high"] == "no"
    # At chance in some seeds only.
    assert [
        row.direction
        for row in EXPERIMENT.rows(measurements(high=(0.1, 0.19)))
        if row.fact == "vgg-chance"
    ] == ["undecided"]


@pytest.mark.fast
def test_the_figure_has_a_column_for_each_rate():
    figure = EXPERIMENT.plot(measurements())
    assert len(figure.axes) == 2 * 2
    assert [axes.get_title() for axes in figure.axes[:2]] == ["rate 0.1", "rate 0.5"]
    training = figure.axes[0]
    line, _ = training.lines
    np.testing.assert_allclose(line.get_xydata(), [[150, 51], [300, 91]])
    assert training.get_ylabel() == "training accuracy (%)"
    figure.canvas.draw()


def grids():
    """Return accuracies of two scales, three rates and two seeds."""
    with_bn = [
        [[0.5, 0.5], [0.4, 0.4], [0.1, 0.1]],
        [[0.6, 0.5], [0.4, 0.3], [0.1] * 2],
    ]
    without = [[[0.1, 0.1]] * 3, [[0.3, 0.1], [0.25, 0.4], [0.1, 0.1]]]
    plan = {
        **SWEEP_PLANS["default"]._asdict(),
        "scales": [1.0, 2**0.5],
        "rates": [0.1, 0.3, 1.0],
        "seeds": 2,
    }
    return {"plan": plan, "accuracy": {"bn": with_bn, "none": without}}


@pytest.mark.fast
def test_rows_count_rates_and_initial_weights_with_which_a_network_learns():
    rates, scales, cells, best = SWEEP.rows(grids())
    assert rates.measured == "2.0 (2.0 to 2.0) with BN, 1.5 (1.0 to 2.0) without"
    assert (rates.fact, rates.direction) == ("vgg-rates", "undecided")
    assert scales.measured == "2.0 (2.0 to 2.0) with BN, 1.0 (1.0 to 1.0) without"
    assert (scales.fact, scales.direction) == ("vgg-initialization", "yes")
    assert cells.measured == "4.0 (4.0 to 4.0) with BN, 1.5 (1.0 to 2.0) without"
    assert best.measured == "55.0 (50.0 to 60.0) with BN, 35.0 (30.0 to 40.0) without"


@pytest.mark.fast
def test_the_grid_shows_each_number_in_its_cell():
    figure = SWEEP.plot(grids())
    with_bn, without, bar = figure.axes
    assert [text.get_text() for text in with_bn.texts[:3]] == ["50.0", "40.0", "10.0"]
    assert [text.get_text() for text in without.texts[3:]] == ["20.0", "32.5", "10.0"]
    labels = [label.get_text() for label in with_bn.get_yticklabels()]
    assert labels == ["1", "1.41"]
    assert "last 100 of 400 steps" in bar.get_ylabel()


@pytest.mark.fast
@pytest.mark.parametrize("plans", [PLANS, SWEEP_PLANS])
def test_every_curve_ends_with_the_last_step(plans):
    assert all(plan.steps % plan.every == 0 for plan in plans.values())
