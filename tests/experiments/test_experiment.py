"""Run an experiment: its rounds, its seeds, and what is measured once."""

import inspect
import json
import pickle

import pytest

from bn_keras.experiments.catalog import EXPERIMENTS, load_experiment
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.parts import Part

pytestmark = pytest.mark.fast


def square(directories, folder, number, seed=0):
    return number**2 + seed


def build(rounds, plans=None):
    return Experiment("squares", "Squares", plans or {"full": 3}, rounds, None, None)


def test_the_measurements_have_the_scale_and_the_seconds():
    def rounds(plan):
        results = yield [Part("one", square, {"number": plan})]
        return {"squares": results}

    measurements = build(rounds).run(scale="full")
    assert list(measurements) == [
        *("scale", "plan", "seconds", "sources", "commits", "squares")
    ]
    assert measurements["scale"] == "full"
    assert measurements["seconds"] >= 0
    assert measurements["squares"] == {"one": 9}


def test_a_second_round_depends_on_the_results_of_the_first(tmp_path):
    def rounds(plan):
        first = yield [Part("first", square, {"number": plan})]
        both = yield [Part("second", square, {"number": first["first"]})]
        return {"results": dict(both)}

    progress = []
    run = build(rounds).run
    measurements = run(tmp_path, "full", on_part=lambda *part: progress.append(part))
    assert measurements["results"] == {"first": 9, "second": 81}
    assert progress == [("", 0, 1), ("first", 1, 1), ("", 0, 1), ("second", 1, 1)]
    progress.clear()
    again = run(tmp_path, "full", on_part=lambda *part: progress.append(part))
    assert again == measurements
    assert progress == [("", 1, 1), ("", 1, 1)]


def test_a_part_that_two_rounds_name_is_measured_and_timed_once():
    calls = []

    def count(directories, folder):
        calls.append(1)
        return len(calls)

    def rounds(plan):
        yield [Part("same", count, {}), Part("same", count, {})]
        results = yield [Part("same", count, {}), Part("other", count, {})]
        return dict(results)

    measurements = build(rounds).run(scale="full")
    assert (measurements["same"], measurements["other"]) == (1, 2)


def test_seeds_come_in_order_and_whole_comparisons_come_first():
    progress = []

    def rounds(plan):
        squares = yield from measure_seeds(
            2, {name: (square, {"number": len(name)}) for name in ("a", "bc")}
        )
        return {"squares": squares}

    measurements = build(rounds).run(
        scale="full", on_part=lambda name, *_: progress.append(name)
    )
    assert measurements["squares"] == {"a": [1, 2], "bc": [4, 5]}
    assert progress == ["", "a-seed0", "bc-seed0", "a-seed1", "bc-seed1"]


def test_an_unknown_scale_is_refused_with_the_known_ones():
    experiment = build(None, {"smoke": 1, "full": 2})
    with pytest.raises(ValueError, match=r"one of smoke, full\. Received: scale='big'"):
        experiment.run(scale="big")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_parts_of_every_experiment_can_be_sent_to_a_worker_and_called(name):
    experiment = load_experiment(name)
    for plan in experiment.plans.values():
        parts = next(experiment.rounds(plan))
        assert len({part.name for part in parts}) == len(parts)
        for part in parts:
            assert pickle.loads(pickle.dumps(part)) == part
            assert json.dumps(part.arguments)
            inspect.signature(part.function).bind(
                directories={}, folder=None, **part.arguments
            )
