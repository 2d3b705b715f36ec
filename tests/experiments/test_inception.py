"""Figures 2 and 3: steps, final accuracies, speed-ups; a smoke run."""

import json

import keras
import numpy as np
import pytest

from bn_keras.data import Arrays, Data
from bn_keras.experiments import experiment, figure_3
from bn_keras.experiments.curves import (
    AccuracyCurve,
    halvings,
    hold_out,
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
    """Return three seeds that learn as in the paper."""

    def seeds(*accuracy):
        return [curve(*accuracy) for _ in range(3)]

    curves = {
        "inception": seeds(0.1, 0.2, 0.3, 0.4, 0.4, 0.4),
        "bn-baseline": seeds(0.1, 0.3, 0.45, 0.5, 0.5, 0.5),
        "bn-x5": seeds(0.1, 0.5, 0.6, 0.6, 0.6, 0.6),
        "bn-x30": seeds(0.1, 0.45, 0.6, 0.7, 0.7, 0.7),
        "bn-x5-sigmoid": seeds(0.1, 0.2, 0.3, 0.35, 0.35, 0.35),
        "inception-x5": [
            *(curve(0.1, 0.1, diverged=15), curve(0.1, 0.2, 0.2, 0.1)),
            curve(0.1, 0.1, diverged=12),
        ],
        "inception-sigmoid": seeds(0.1, 0.1, 0.1, 0.11),
    }
    return {
        "scale": "default",
        "seconds": 1.0,
        "targets": [0.3],
        "rates": {"paper": 0.0015, "tuned": 0.0075},
        "halved": {"paper": 1, "tuned": 6},
        "sweep": [[0.0015, 1, 0.4], [0.0075, 6, 0.5]],
        "curves": {"tuned": curves, "paper": dict(curves)},
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
def test_the_final_accuracy_is_the_mean_of_the_last_looks():
    assert figure_3.final_accuracy(curve(0.9, 0.3, 0.4, 0.5)) == pytest.approx(0.4)


@pytest.mark.fast
def test_the_speedup_is_relative_to_inceptions_steps_to_its_final_accuracy(
    measurements,
):
    curves = measurements["curves"]["paper"]
    # Inception is at its final 0.4 after 30 steps; BN-x5 between 0.1 and 0.5.
    assert figure_3.speedups(curves, "bn-x5") == pytest.approx([30 / 7.5] * 3)
    assert figure_3.speedups(curves, "bn-x5-sigmoid") == [None] * 3
    assert figure_3.speedups(curves, "bn-x5", 0.3) == pytest.approx([20 / 5] * 3)


@pytest.mark.fast
def test_one_lucky_look_does_not_count_as_reaching_an_accuracy():
    lucky = {
        "inception": [curve(0.1, 0.4, 0.1, 0.2, 0.3, 0.3)],
        "bn": [curve(*[0.4] * 6)],
    }
    # The isotonic curve is at 0.233 from step 10 to 30, and at 0.3 from step 40.
    (ratio,) = figure_3.speedups(lucky, "bn", 0.3)
    assert ratio == pytest.approx(40)


@pytest.mark.fast
def test_the_claims_of_the_paper_are_judged_on_the_tuned_rates(measurements):
    rows = EXPERIMENT.rows(measurements)
    verdicts = {row.fact: (row.direction, row.size) for row in rows if row.fact}
    assert verdicts == {
        "bn-baseline-faster": ("yes", "no"),  # 1.8 of 2.3 times
        "bn-x5-faster": ("yes", "no"),  # 4 of 14.8
        "bn-x30-faster": ("yes", "no"),
        "bn-x30-slower": ("yes", "yes"),  # 8.57 steps instead of 7.5
        "bn-x30-best": ("yes", None),
        "sigmoid-learns": ("yes", "yes"),
        "sigmoid-chance": ("yes", None),
        "inception-x5-diverges": ("undecided", None),
    }
    assert {row.paper for row in rows if "the paper's rates" in row.claim} == {"-"}
    speedup = row(measurements, "BN-x5, rates tuned for Inception: speed-up to Incep")
    assert speedup.paper == "faster, 14.8 times"
    assert speedup.measured == "4.0 times (4.0 to 4.0)"


@pytest.mark.fast
def test_a_variant_that_never_reaches_inceptions_accuracy_is_not_faster(measurements):
    curves = measurements["curves"]["tuned"]
    curves["bn-x5"][0] = curve(0.1, 0.2, 0.3, 0.3, 0.3, 0.3)
    speedup = row(measurements, "BN-x5, rates tuned for Inception: speed-up to Incep")
    assert speedup.measured == "not reached with 1 of 3 seeds"
    assert (speedup.direction, speedup.size) == ("no", "no")


@pytest.mark.fast
def test_no_verdict_is_given_if_inception_is_at_chance(measurements):
    measurements["curves"]["tuned"]["inception"][1] = curve(*[0.11] * 6)
    judged = {row.fact for row in EXPERIMENT.rows(measurements) if row.fact}
    assert judged == {"sigmoid-chance", "inception-x5-diverges"}


@pytest.mark.fast
def test_what_fails_in_the_paper_is_reported_with_the_number_of_seeds(measurements):
    fast = row(measurements, "Inception x5, rates tuned")
    assert fast.measured == ("10.0 (10.0 to 10.0); 2 of 3 seeds diverged; chance is 10")
    # A result without these at the tuned rates is judged on the paper's.
    for name in figure_3.FAILING:
        del measurements["curves"]["tuned"][name]
    assert row(measurements, "Inception x5, the paper's").direction == "undecided"


@pytest.mark.fast
def test_time_and_memory_stand_beside_the_accuracy(measurements):
    for seed in measurements["curves"]["tuned"]["bn-x5"]:
        seed |= {"milliseconds": 64.2, "megabytes": 1234}
    final = row(measurements, "BN-x5, rates tuned for Inception: final")
    assert final.measured == "60.0 (60.0 to 60.0); 64 ms per step, 1,234 MB"


@pytest.mark.fast
def test_held_out_pictures_are_not_trained_on():
    images = np.arange(100.0).reshape(-1, 1, 1, 1)
    split = Arrays(images, np.repeat(np.arange(10), 10))
    examples = Data("x", split, split, tuple("abcdefghij"))
    held = hold_out(examples, 30)
    assert (len(held.train), len(held.test)) == (90, 10)  # at most a tenth
    both = np.concatenate([held.train.images, held.test.images])
    np.testing.assert_array_equal(np.sort(both.ravel()), images.ravel())


@pytest.mark.fast
def test_the_default_plan_trains_the_paper_s_and_the_tuned_rates(monkeypatch):
    """Check the tuned rate, its multiples, the decays, and that nothing is repeated."""
    trained = []

    def measure(parts, *_):
        trained.extend(parts)
        results = {part.name: train(**part.arguments) for part in parts}
        return Measured(results, 1.0, {}, [])

    def train(*, learning_rate, halved, held_out, give_up, epochs, **_):
        best = (learning_rate, halved) == (0.03, 6)
        assert (held_out, epochs) in ((5000, 2), (0, 2))
        return {"final": 0.5 if best else 0.4, "of": [learning_rate, halved, give_up]}

    monkeypatch.setattr(experiment, "measure", measure)
    measurements = EXPERIMENT.run(scale="default")
    assert measurements["rates"] == {"paper": 0.0015, "tuned": 0.03}
    assert measurements["halved"] == {"paper": 1, "tuned": 6}
    assert measurements["seconds"] == 3.0
    assert len(measurements["sweep"]) == 2 * 3
    assert [0.0075, 1, 0.4] in measurements["sweep"]
    of = {
        comparison: {name: curves[-1]["of"] for name, curves in variants.items()}
        for comparison, variants in measurements["curves"].items()
    }
    assert of["paper"] == {
        "inception": [0.0015, 1, None],
        "bn-x5": [0.0075, 6, None],
    }
    assert of["tuned"] == {
        "inception": [0.03, 6, None],
        "bn-baseline": [0.03, 6, None],
        "bn-x5": [0.15, 6, None],
        "bn-x30": [0.9, 6, None],
        "bn-x5-sigmoid": [0.15, 6, None],
        "inception-x5": [0.15, 6, 1000],
        "inception-sigmoid": [0.03, 6, 1000],
    }
    # The sweep, three seeds of seven at the tuned rates, one of two at the paper's.
    assert len({part.name for part in trained}) == len(trained) == 6 + 3 * 7 + 2


@pytest.mark.fast
def test_the_figure_has_one_panel_per_comparison(measurements):
    del measurements["curves"]["paper"]["inception-x5"]
    left, right = EXPERIMENT.plot(measurements).axes
    assert len(left.get_lines()) == 7 + 1
    assert len(right.get_lines()) == 6 + 1
    assert len({line.get_color() for line in left.get_lines()}) == 8
    assert left.get_xlabel() == "steps of 32 pictures"
    assert left.get_ylabel() == "test accuracy"
    diverged = left.get_lines()[5]
    assert diverged.get_label() == "Inception x5"
    np.testing.assert_allclose(
        diverged.get_ydata(), [0.1, 0.4 / 3, 0.4 / 3, 0.1], rtol=1e-6
    )


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
    others = {"images": 50, "stem": None, "held_out": 0, "give_up": None}
    return {**small, **measured, **others, **changes}


@pytest.mark.slow
def test_a_training_that_diverges_counts_as_being_at_chance():
    curve = measure_accuracy_curve({}, None, **arguments(learning_rate=1e30))
    assert curve["diverged"] <= 3
    assert curve["final"] == 0.1


@pytest.mark.slow
def test_a_training_at_chance_ends_early():
    curve = measure_accuracy_curve(
        {}, None, **arguments(variant="inception-sigmoid", give_up=20, epochs=3)
    )
    assert curve["gave_up"] == curve["steps"][-1] == 20


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_to_the_same_curve(tmp_path, monkeypatch):
    def run(folder):
        curve = measure_accuracy_curve({}, folder, **arguments(epochs=2))
        # Time and memory are those of a process.
        return {
            key: curve[key] for key in curve if key not in ("milliseconds", "megabytes")
        }

    whole = run(None)
    measure = AccuracyCurve._measure

    def interrupt(self):
        if self.step > 60:  # in the second epoch
            raise KeyboardInterrupt
        measure(self)

    with monkeypatch.context() as patch:
        patch.setattr(AccuracyCurve, "_measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert run(tmp_path) == whole
    # Resumed after the end of the training: nothing is trained again.
    monkeypatch.setattr(AccuracyCurve, "on_train_begin", None)
    assert run(tmp_path) == whole
