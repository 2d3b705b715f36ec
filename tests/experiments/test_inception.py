"""Figures 2 and 3: steps, maxima, orders, ratios; a run at smoke scale."""

import json

import keras
import numpy as np
import pytest

from bn_keras.data import Arrays
from bn_keras.experiments import inception
from bn_keras.experiments.curves import (
    Curve,
    accuracy_curve,
    halvings,
    sample,
    scaled_down,
)
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
        "halved": {"paper": 1, "tuned": 6},
        "sweep": [[0.0015, 1, 0.4], [0.0075, 6, 0.5]],
        "curves": {"paper": curves | failing, "tuned": curves},
    }


def row(measurements, beginning):
    (found,) = [
        one for one in inception.rows(measurements) if one.claim.startswith(beginning)
    ]
    return found


def test_the_best_of_a_curve_is_the_first_of_its_maxima():
    assert inception.best(curve(0.1, 0.4, 0.3, 0.4)) == (0.4, 10)


def test_the_ratio_is_of_inceptions_steps_to_its_own_best(measurements):
    curves = measurements["curves"]["paper"]
    # Inception is at its best, 0.4, after 30 steps; BN-x5 between 0.1 and 0.5.
    assert inception.speedups(curves, "bn-x5") == pytest.approx([30 / 7.5] * 2)
    assert inception.speedups(curves, "bn-x5-sigmoid") == [None, None]


def test_orders_of_the_paper_agree(measurements):
    maxima = row(measurements, "order of the best accuracies, the paper's rates")
    assert maxima.agrees is True
    assert maxima.measured == maxima.paper
    assert maxima.measured == (
        "BN-x30 > BN-x5 > BN-Baseline > Inception > BN-x5-Sigmoid"
    )
    speed = row(measurements, "order of the speeds to Inception's best, the paper's")
    assert speed.agrees is True
    assert speed.measured == speed.paper == "BN-x5 > BN-x30 > BN-Baseline > Inception"


def test_an_order_that_one_seed_does_not_have_does_not_agree(measurements):
    curves = measurements["curves"]["paper"]
    curves["bn-x5"][1], curves["bn-x30"][1] = curves["bn-x30"][1], curves["bn-x5"][1]
    beginning = "order of the best accuracies, the paper's rates"
    assert row(measurements, beginning).agrees is False


def test_the_comparison_that_the_paper_does_not_make_has_no_verdict(measurements):
    verdicts = [
        one.agrees for one in inception.rows(measurements) if "tuned" in one.claim
    ]
    assert len(verdicts) == 11
    assert set(verdicts) == {None}
    claims = [one.paper for one in inception.rows(measurements) if "tuned" in one.claim]
    assert set(claims) == {"-"}


def test_the_default_compares_what_it_says(monkeypatch):
    """Inception's best of the sweep, its multiples, its decay; nothing twice."""
    trained = []

    def measure(parts, *_):
        trained.extend(parts)
        return Measured({part.name: told(**part.arguments) for part in parts}, 1.0)

    def told(*, learning_rate, halved, **_):
        best = (learning_rate, halved) == (0.03, 6)
        return {"final": 0.5 if best else 0.4, "of": [learning_rate, halved]}

    monkeypatch.setattr(inception, "measure", measure)
    found = inception.run(scale="default")
    assert found["rates"] == {"paper": 0.0015, "tuned": 0.03}
    assert found["halved"] == {"paper": 1, "tuned": 6}
    assert found["seconds"] == 2.0
    assert len(found["sweep"]) == 2 * 5
    assert [0.06, 1, 0.4] in found["sweep"]
    of = {
        comparison: {name: curves[2]["of"] for name, curves in variants.items()}
        for comparison, variants in found["curves"].items()
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


def test_fewer_steps_than_inception_agree_with_every_seed(measurements):
    found = row(measurements, "BN-x5, the paper's rates: times fewer steps")
    assert found.paper == "more than 1 (14.8)"
    assert found.measured == "4.0 (4.0 to 4.0)"
    assert found.agrees is True
    for last, measured, agrees in (
        (0.4, "2.5 (1.0 to 4.0)", None),
        (0.35, "1 of 2 seeds do not reach it", False),
    ):
        measurements["curves"]["paper"]["bn-x5"][0] = curve(0.1, 0.2, 0.3, last)
        found = row(measurements, "BN-x5, the paper's rates: times fewer steps")
        assert (found.measured, found.agrees) == (measured, agrees)


def test_an_inception_at_chance_is_no_measure(measurements):
    curves = measurements["curves"]["paper"]
    curves["inception"][1] = curve(0.1, 0.1, 0.1, 0.12)
    for beginning in (
        "BN-x5, the paper's rates: times fewer steps",
        "order of the best accuracies, the paper's rates",
        "order of the speeds to Inception's best, the paper's rates",
    ):
        assert row(measurements, beginning).agrees is None


def test_steps_to_inceptions_best_are_told_beside_the_runs(measurements):
    found = row(measurements, "Inception, the paper's rates: steps to it, of 30")
    assert found.measured == "30 (30 to 30)"


def test_what_fails_in_the_paper_is_told_by_seeds(measurements):
    fast = row(measurements, "Inception at 5 times")
    assert fast.measured == "10.0 (10.0 to 10.0); 1 of 2 seeds diverged"
    assert fast.agrees is False
    assert row(measurements, "Inception with sigmoid").agrees is True


def test_a_variant_that_never_gets_there_is_told(measurements):
    measurements["curves"]["paper"]["bn-x30"] = [curve(0.1, 0.2, 0.3, 0.3)] * 2
    found = row(measurements, "BN-x30, the paper's rates: times fewer steps")
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
        scaled_down(recipe, 16, 0.1, 4, 0.5, halvings(recipe), 7)
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


def arguments(**changes):
    small = {"data": "digits", "size": 8, "width": 1 / 32, "epochs": 1, "seed": 0}
    measured = {"variant": "inception", "learning_rate": 0.01, "every": 10, "halved": 1}
    return {**small, **measured, "images": 50, **changes}


@pytest.mark.slow
def test_a_training_that_diverges_is_at_chance():
    found = accuracy_curve({}, None, **arguments(learning_rate=1e30))
    assert found["diverged"] <= 3
    assert found["final"] == 0.1


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_curve(tmp_path, monkeypatch):
    whole = accuracy_curve({}, None, **arguments(epochs=2))
    measure = Curve._measure

    def killed(self):
        if self.step > 60:  # in the second epoch
            raise KeyboardInterrupt
        measure(self)

    with monkeypatch.context() as patch:
        patch.setattr(Curve, "_measure", killed)
        with pytest.raises(KeyboardInterrupt):
            accuracy_curve({}, tmp_path, **arguments(epochs=2))
    assert accuracy_curve({}, tmp_path, **arguments(epochs=2)) == whole
    # Killed once more, after the training: nothing is trained again.
    monkeypatch.setattr(Curve, "on_train_begin", None)
    assert accuracy_curve({}, tmp_path, **arguments(epochs=2)) == whole
