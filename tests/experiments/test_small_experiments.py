"""The small experiments: their formulas, and that each runs."""

import json

import numpy as np
import pytest

from bn_keras.experiments import depth, population_training
from bn_keras.experiments.answers import pack_answers
from bn_keras.experiments.catalog import load_experiment
from bn_keras.experiments.regularization import EXPERIMENT as REGULARIZATION


@pytest.mark.fast
def test_the_distance_of_means_is_in_standard_deviations():
    values = [np.array([1.0, 4.0]), None, np.array([0.0]), None]
    reference = [
        np.array([0.0, 0.0]),
        np.array([1.0, 4.0]),
        np.array([0.0]),
        np.ones(1),
    ]
    expected = np.sqrt((1 + 16 / 4 + 0) / 3)
    assert population_training.distance(values, reference) == pytest.approx(expected)


@pytest.mark.fast
def test_the_imbalance_compares_the_first_fifth_with_the_last():
    ratios = [8.0, 2.0, *[99.0] * 6, 0.5, 2.0]
    assert depth.imbalance(ratios) == pytest.approx(4.0)
    assert depth.imbalance([3.0, 6.0]) == pytest.approx(0.5)


def regularized(bn_without, bn_with):
    """Return measurements in which so many of 1,000 answers are right with BN."""

    def seeds(right):
        answers = [pack_answers(np.arange(1000) < right + seed) for seed in range(5)]
        facts = {"train": 1.0, "test": right / 1000, "images": 1000}
        return [{**facts, "correct": text} for text in answers]

    bn = [[seeds(bn_without), seeds(bn_with), seeds(bn_with)]] * 2
    none = [[seeds(900)] * 3] * 2
    plan = {"l2": [1e-3, 2e-4], "images": 20, "epochs": 2, "seeds": 5}
    return {"plan": plan, "results": {"bn": bn, "none": none}}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("without", "with_dropout", "direction"),
    [(950, 950, "yes"), (940, 938, "yes"), (930, 960, "no"), (945, 950, "undecided")],
)
def test_dropout_can_be_removed_within_a_margin(without, with_dropout, direction):
    row, other, *_ = REGULARIZATION.rows(regularized(without, with_dropout))
    assert (row.fact, row.direction) == ("dropout", direction)
    assert (other.paper, other.direction) == ("-", None)
    assert row.n == "5 seeds, 1,000 pictures"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("depth", "population-statistics", "batch-size", "regularization"),
        *("vgg", "vgg-sweep"),
    ],
)
def test_a_smoke_run_measures_each_part_once(name, tmp_path):
    experiment = load_experiment(name)
    first = experiment.run(tmp_path, "smoke")
    progress = []
    again = experiment.run(tmp_path, "smoke", on_part=lambda *a: progress.append(a))
    assert again == first
    assert all(done == total for _, done, total in progress)
    assert json.loads(json.dumps(first)) == first
    rows = experiment.rows(first)
    assert rows
    assert all(len(row.claim) <= 100 for row in rows)
    experiment.plot(first).canvas.draw()
