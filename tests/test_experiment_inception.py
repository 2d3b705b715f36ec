"""Figures 2 and 3: steps, maxima, orders, ratios; a run at smoke scale."""

import json

import keras
import numpy as np
import pytest

from bn_keras import recipes
from bn_keras.data import Arrays
from bn_keras.experiments import inception
from bn_keras.experiments.curves import Curve, sample, scaled_down
from bn_keras.preprocessing import Preprocessing


def curve(*accuracy, diverged=None):
    return {
        "steps": list(range(0, 10 * len(accuracy), 10)),
        "accuracy": list(accuracy),
        "final": accuracy[-1],
        "diverged": diverged,
    }


@pytest.fixture
def measurements():
    """Two seeds in the paper's order of maxima and of steps."""
    curves = {
        "inception": [curve(0.1, 0.2, 0.3, 0.4), curve(0.1, 0.2, 0.3, 0.4)],
        "bn-baseline": [curve(0.1, 0.3, 0.45, 0.5), curve(0.1, 0.3, 0.4, 0.5)],
        "bn-x5": [curve(0.1, 0.5, 0.6, 0.6), curve(0.1, 0.5, 0.6, 0.6)],
        "bn-x30": [curve(0.1, 0.45, 0.6, 0.7), curve(0.1, 0.45, 0.6, 0.7)],
        "bn-x5-sigmoid": [curve(0.1, 0.2, 0.3, 0.35), curve(0.1, 0.2, 0.3, 0.35)],
    }
    failing = {
        "inception-x5": [curve(0.1, 0.1, diverged=15), curve(0.1, 0.2, 0.2, 0.1)],
        "inception-sigmoid": [curve(0.1, 0.1, 0.1, 0.1), curve(0.1, 0.1, 0.1, 0.11)],
    }
    return {
        "scale": "default",
        "seconds": 1.0,
        "rates": {"paper": 0.0015, "tuned": 0.0075},
        "sweep": [[0.0015, 0.4], [0.0075, 0.5]],
        "curves": {"paper": curves | failing, "tuned": curves},
    }


def row(measurements, beginning):
    (found,) = [
        one for one in inception.rows(measurements) if one.claim.startswith(beginning)
    ]
    return found


def test_a_curve_reaches_an_accuracy_between_its_points():
    one = curve(0.1, 0.3, 0.2, 0.5)
    assert inception.steps_to(one, 0.2) == pytest.approx(5)
    assert inception.steps_to(one, 0.3) == pytest.approx(10)
    assert inception.steps_to(one, 0.4) == pytest.approx(20 + 10 * 0.2 / 0.3)
    assert inception.steps_to(one, 0.05) == 0
    assert inception.steps_to(one, 0.6) is None


def test_the_best_of_a_curve_is_the_first_of_its_maxima():
    assert inception.best(curve(0.1, 0.4, 0.3, 0.4)) == (0.4, 10)


def test_the_ratio_is_of_inceptions_steps_to_its_own_best(measurements):
    curves = measurements["curves"]["paper"]
    # Inception is at its best, 0.4, after 30 steps; BN-x5 between 0.1 and 0.5.
    assert inception.speedups(curves, "bn-x5") == pytest.approx([30 / 7.5] * 2)
    assert inception.speedups(curves, "bn-x5-sigmoid") == [None, None]


def test_orders_of_the_paper_agree(measurements):
    maxima = row(measurements, "order of maxima, the paper's rates")
    assert maxima.agrees
    assert maxima.measured == (
        "BN-x30 > BN-x5 > BN-Baseline > Inception > BN-x5-Sigmoid"
    )
    speed = row(measurements, "order of speed, the paper's rates")
    assert speed.agrees
    assert speed.measured == "BN-x5 > BN-x30 > BN-Baseline > Inception"


def test_another_order_does_not_agree(measurements):
    curves = measurements["curves"]["tuned"]
    curves["bn-x5"], curves["bn-x30"] = curves["bn-x30"], curves["bn-x5"]
    assert not row(measurements, "order of maxima, rates tuned").agrees
    assert not row(measurements, "order of speed, rates tuned").agrees


def test_what_fails_in_the_paper_is_told_by_seeds(measurements):
    fast = row(measurements, "Inception at 5 times")
    assert fast.measured.startswith("1 of 2 diverged; 10.0 (")
    assert not fast.agrees
    assert row(measurements, "Inception with sigmoid").agrees


def test_a_variant_that_never_gets_there_is_told(measurements):
    measurements["curves"]["paper"]["bn-x30"] = [curve(0.1, 0.2, 0.3, 0.3)] * 2
    found = row(
        measurements, "BN-x30: times fewer steps to Inception's best accuracy, the"
    )
    assert found.measured == "2 of 2 seeds do not reach it"
    assert found.agrees is False


def test_the_figure_has_a_panel_for_each_comparison(measurements):
    left, right = inception.plot(measurements).axes
    assert len(left.get_lines()) == 7 + 1
    assert len(right.get_lines()) == 5 + 1
    assert left.get_xlabel() == "steps"
    assert left.get_ylabel() == "test accuracy"
    diverged = left.get_lines()[5]
    assert diverged.get_label() == "Inception x5"
    np.testing.assert_allclose(diverged.get_ydata(), [0.1, 0.15, 0.15, 0.1])


def test_rates_decay_as_the_variants_differ():
    slow, fast = (
        scaled_down(recipe, 16, 0.1, 4, 0.5, 7)
        for recipe in (recipes.BN_BASELINE, recipes.BN_X5)
    )
    ends = [one.decay ** (one.epochs / one.decay_epochs) for one in (slow, fast)]
    np.testing.assert_allclose(ends, [0.5, 0.5**6])
    assert slow.local_response_normalization
    assert slow.l2 == 5 * fast.l2
    assert (slow.learning_rate, slow.seed, slow.preprocessing.size) == (
        0.5,
        7,
        (16,) * 2,
    )


def test_a_sample_is_the_same_each_time_and_of_all_classes():
    split = Arrays(np.arange(100.0).reshape(-1, 1, 1, 1), np.repeat(np.arange(10), 10))
    one, two = sample(split, 60), sample(split, 60)
    np.testing.assert_array_equal(one.images, two.images)
    assert len(set(one.labels)) == 10
    np.testing.assert_array_equal(one.images.ravel() // 10, one.labels)


def test_a_curve_goes_on_where_it_was_cut(tmp_path):
    images = np.eye(4, dtype="float32").reshape(4, 2, 2, 1)
    labels = np.arange(4)
    split = Arrays(images, labels)
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, kernel_initializer="identity"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    curves = []
    for steps in (4, 2):
        curves.append(Curve(split, Preprocessing(), 2, tmp_path / "curve.json"))
        model.fit(
            np.tile(images, (steps, 1, 1, 1)),
            np.tile(np.eye(4), (steps, 1)),
            batch_size=4,
            callbacks=[curves[-1]],
            verbose=0,
        )
    assert curves[1].accuracy == {0: 1.0, 2: 1.0, 4: 1.0, 6: 1.0}
    assert json.loads((tmp_path / "curve.json").read_text()).keys() == {*"0246"}


@pytest.mark.slow
def test_a_smoke_run_is_measured_once(tmp_path):
    first = inception.run(tmp_path, "smoke")
    told = []
    again = inception.run(tmp_path, "smoke", on_part=lambda *a: told.append(a))
    assert again == first
    assert all(done == total for _, done, total in told)
    assert json.loads(json.dumps(first)) == first
    assert inception.rows(first)
    inception.plot(first)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match=r"default, full\. Received: scale='x'"):
        inception.run(scale="x")
