"""Figures 2 and 3: steps, best accuracies, orders, speed-ups; a smoke run."""

import json

import keras
import numpy as np
import pytest

from bn_keras.data import Arrays
from bn_keras.experiments import experiment, figure_3
from bn_keras.experiments.curves import (
    AccuracyCurve,
    halvings,
    measure_accuracy_curve,
    sample,
    scale_down,
)
from bn_keras.experiments.inception import EXPERIMENT
from bn_keras.experiments.parts import Measured
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.training import recipes


def curve(*accuracy, diverged=None):
    return {
        "steps": list(range(0, 10 * len(accuracy), 10)),
        "accuracy": list(accuracy),
        "final": accuracy[-1],
        "diverged": diverged,
    }


@pytest.fixture
def measurements():
    """Return two seeds in the paper's order of best accuracies and of steps."""
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
        "halved": {"paper": 1, "tuned": 6},
        "sweep": [[0.0015, 1, 0.4], [0.0075, 6, 0.5]],
        "curves": {"paper": curves | failing, "tuned": curves},
    }


def row(measurements, beginning):
    (row,) = [
        row for row in EXPERIMENT.rows(measurements) if row.claim.startswith(beginning)
    ]
    return row


@pytest.mark.fast
def test_the_best_of_a_curve_is_the_first_of_its_maxima():
    assert figure_3.best(curve(0.1, 0.4, 0.3, 0.4)) == (0.4, 10)


@pytest.mark.fast
def test_the_speedup_is_relative_to_inceptions_steps_to_its_own_best(measurements):
    curves = measurements["curves"]["paper"]
    # Inception is at its best, 0.4, after 30 steps; BN-x5 between 0.1 and 0.5.
    assert figure_3.speedups(curves, "bn-x5") == pytest.approx([30 / 7.5] * 2)
    assert figure_3.speedups(curves, "bn-x5-sigmoid") == [None, None]


@pytest.mark.fast
def test_the_orders_of_the_paper_agree(measurements):
    maxima = row(measurements, "order by best accuracy, the paper's rates")
    assert maxima.agrees is True
    assert maxima.measured == maxima.paper
    assert maxima.measured == (
        "BN-x30 > BN-x5 > BN-Baseline > Inception > BN-x5-Sigmoid"
    )
    speed = row(measurements, "order by speed to Inception's best, the paper's")
    assert speed.agrees is True
    assert speed.measured == speed.paper == "BN-x5 > BN-x30 > BN-Baseline > Inception"


@pytest.mark.fast
def test_an_order_that_one_seed_contradicts_does_not_agree(measurements):
    curves = measurements["curves"]["paper"]
    curves["bn-x5"][1], curves["bn-x30"][1] = curves["bn-x30"][1], curves["bn-x5"][1]
    beginning = "order by best accuracy, the paper's rates"
    assert row(measurements, beginning).agrees is False


@pytest.mark.fast
def test_the_tuned_comparison_which_is_not_the_papers_has_no_verdict(measurements):
    verdicts = [
        row.agrees for row in EXPERIMENT.rows(measurements) if "tuned" in row.claim
    ]
    assert len(verdicts) == 11
    assert set(verdicts) == {None}
    claims = [
        row.paper for row in EXPERIMENT.rows(measurements) if "tuned" in row.claim
    ]
    assert set(claims) == {"-"}


@pytest.mark.fast
def test_the_default_plan_trains_the_paper_s_and_the_tuned_rates(monkeypatch):
    """Check the tuned rate, its multiples, the decays, and that nothing is repeated."""
    trained = []

    def measure(parts, *_):
        trained.extend(parts)
        return Measured({part.name: train(**part.arguments) for part in parts}, 1.0)

    def train(*, learning_rate, halved, **_):
        best = (learning_rate, halved) == (0.03, 6)
        return {"final": 0.5 if best else 0.4, "of": [learning_rate, halved]}

    monkeypatch.setattr(experiment, "measure", measure)
    measurements = EXPERIMENT.run(scale="default")
    assert measurements["rates"] == {"paper": 0.0015, "tuned": 0.03}
    assert measurements["halved"] == {"paper": 1, "tuned": 6}
    assert measurements["seconds"] == 2.0
    assert len(measurements["sweep"]) == 2 * 5
    assert [0.06, 1, 0.4] in measurements["sweep"]
    of = {
        comparison: {name: curves[2]["of"] for name, curves in variants.items()}
        for comparison, variants in measurements["curves"].items()
    }
    assert of["paper"] == {
        "inception": [0.0015, 1],
        "bn-baseline": [0.0015, 1],
        "bn-x5": [0.0075, 6],
        "bn-x30": [0.045, 6],
        "bn-x5-sigmoid": [0.0075, 6],
        "inception-x5": [0.0075, 1],
        "inception-sigmoid": [0.0015, 1],
    }
    assert of["tuned"] == {
        "inception": [0.03, 6],
        "bn-baseline": [0.03, 6],
        "bn-x5": [0.15, 6],
        "bn-x30": [0.9, 6],
        "bn-x5-sigmoid": [0.15, 6],
    }
    assert len({part.name for part in trained}) == len(trained) == 10 + 3 * 12 - 3


@pytest.mark.fast
def test_a_speedup_must_hold_for_every_seed(measurements):
    speedup = row(measurements, "BN-x5, the paper's rates: speed-up")
    assert speedup.paper == "more than 1 (14.8)"
    assert speedup.measured == "4.0 (4.0 to 4.0)"
    assert speedup.agrees is True
    for last, measured, agrees in (
        (0.4, "2.5 (1.0 to 4.0)", None),
        (0.35, "1 of 2 seeds do not reach it", False),
    ):
        measurements["curves"]["paper"]["bn-x5"][0] = curve(0.1, 0.2, 0.3, last)
        speedup = row(measurements, "BN-x5, the paper's rates: speed-up")
        assert (speedup.measured, speedup.agrees) == (measured, agrees)


@pytest.mark.fast
def test_no_verdict_is_given_if_inception_is_at_chance(measurements):
    curves = measurements["curves"]["paper"]
    curves["inception"][1] = curve(0.1, 0.1, 0.1, 0.12)
    for beginning in (
        "BN-x5, the paper's rates: speed-up",
        "order by best accuracy, the paper's rates",
        "order by speed to Inception's best, the paper's rates",
    ):
        assert row(measurements, beginning).agrees is None


@pytest.mark.fast
def test_the_steps_to_inceptions_best_are_shown_with_those_of_the_run(measurements):
    steps = row(measurements, "Inception, the paper's rates: steps to its best")
    assert steps.claim.endswith(", of 30")
    assert steps.measured == "30 (30 to 30)"


@pytest.mark.fast
def test_what_fails_in_the_paper_is_reported_with_the_number_of_seeds(measurements):
    fast = row(measurements, "Inception at 5 times")
    assert fast.measured == "10.0 (10.0 to 10.0); 1 of 2 seeds diverged"
    assert fast.agrees is False
    assert row(measurements, "Inception with sigmoid").agrees is True


@pytest.mark.fast
def test_a_variant_that_never_reaches_inceptions_best_does_not_agree(measurements):
    measurements["curves"]["paper"]["bn-x30"] = [curve(0.1, 0.2, 0.3, 0.3)] * 2
    speedup = row(measurements, "BN-x30, the paper's rates: speed-up")
    assert speedup.measured == "2 of 2 seeds do not reach it"
    assert speedup.agrees is False


@pytest.mark.fast
def test_the_figure_has_one_panel_per_comparison(measurements):
    left, right = EXPERIMENT.plot(measurements).axes
    assert len(left.get_lines()) == 7 + 1
    assert len(right.get_lines()) == 5 + 1
    assert left.get_xlabel() == "steps"
    assert left.get_ylabel() == "test accuracy"
    diverged = left.get_lines()[5]
    assert diverged.get_label() == "Inception x5"
    np.testing.assert_allclose(diverged.get_ydata(), [0.1, 0.15, 0.15, 0.1])


@pytest.mark.fast
def test_the_variants_differ_in_their_decay():
    slow, fast = (
        scale_down(recipe, 16, 0.1, 4, 0.5, halvings(recipe), 7)
        for recipe in (recipes.BN_BASELINE, recipes.BN_X5)
    )
    ends = [r.decay ** (r.epochs / r.decay_epochs) for r in (slow, fast)]
    np.testing.assert_allclose(ends, [0.5, 0.5**6])
    assert slow.local_response_normalization
    assert slow.l2 == 5 * fast.l2
    assert (slow.learning_rate, slow.seed, slow.preprocessing.size) == (
        0.5,
        7,
        (16,) * 2,
    )


@pytest.mark.fast
def test_a_sample_is_the_same_each_time_and_of_all_classes():
    split = Arrays(np.arange(100.0).reshape(-1, 1, 1, 1), np.repeat(np.arange(10), 10))
    one, two = sample(split, 60), sample(split, 60)
    np.testing.assert_array_equal(one.images, two.images)
    assert len(set(one.labels)) == 10
    np.testing.assert_array_equal(one.images.ravel() // 10, one.labels)


def test_a_curve_is_resumed_where_it_was_interrupted(tmp_path):
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
        curves.append(AccuracyCurve(split, Preprocessing(), 2, tmp_path / "curve.json"))
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
def test_a_smoke_run_measures_each_part_once(tmp_path):
    first = EXPERIMENT.run(tmp_path, "smoke")
    progress = []
    again = EXPERIMENT.run(tmp_path, "smoke", on_part=lambda *a: progress.append(a))
    assert again == first
    assert all(done == total for _, done, total in progress)
    assert json.loads(json.dumps(first)) == first
    assert EXPERIMENT.rows(first)
    EXPERIMENT.plot(first)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def arguments(**changes):
    small = {"data": "digits", "size": 8, "width": 1 / 32, "epochs": 1, "seed": 0}
    measured = {"variant": "inception", "learning_rate": 0.01, "every": 10, "halved": 1}
    return {**small, **measured, "images": 50, **changes}


@pytest.mark.slow
def test_a_training_that_diverges_counts_as_being_at_chance():
    curve = measure_accuracy_curve({}, None, **arguments(learning_rate=1e30))
    assert curve["diverged"] <= 3
    assert curve["final"] == 0.1


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_to_the_same_curve(tmp_path, monkeypatch):
    whole = measure_accuracy_curve({}, None, **arguments(epochs=2))
    measure = AccuracyCurve._measure

    def interrupt(self):
        if self.step > 60:  # in the second epoch
            raise KeyboardInterrupt
        measure(self)

    with monkeypatch.context() as patch:
        patch.setattr(AccuracyCurve, "_measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measure_accuracy_curve({}, tmp_path, **arguments(epochs=2))
    assert measure_accuracy_curve({}, tmp_path, **arguments(epochs=2)) == whole
    # Resumed after the end of the training: nothing is trained again.
    monkeypatch.setattr(AccuracyCurve, "on_train_begin", None)
    assert measure_accuracy_curve({}, tmp_path, **arguments(epochs=2)) == whole
