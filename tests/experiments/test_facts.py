"""The table of facts: each claim's set-up is the plan's, or the difference is named."""

import pytest

from bn_keras.experiments import pages
from bn_keras.experiments.catalog import load_experiment
from bn_keras.experiments.experiment import plan_as_json
from bn_keras.experiments.facts import FACTS

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("key", FACTS)
def test_the_plan_equals_the_papers_set_up_or_names_the_difference(key):
    fact = FACTS[key]
    experiment = load_experiment(fact.experiment)
    setup = experiment.setup(experiment.plans["default"])
    for name, value in fact.setup.items():
        assert name in setup, f"{fact.experiment} does not say its {name!r}"
        if setup[name] != value:
            assert experiment.differences.get(name), (
                f"{fact.experiment}: {name} is {setup[name]!r}, the paper's {value!r}"
            )


@pytest.mark.parametrize("name", sorted({fact.experiment for fact in FACTS.values()}))
def test_a_named_difference_is_one(name):
    experiment = load_experiment(name)
    setup = experiment.setup(experiment.plans["default"])
    for key in experiment.differences:
        papers = [
            fact.setup[key]
            for fact in FACTS.values()
            if fact.experiment == name and key in fact.setup
        ]
        assert key not in setup or setup[key] not in papers, (name, key)


def test_a_published_row_judges_each_claim_once():
    judged = {}
    for name in {fact.experiment for fact in FACTS.values()}:
        for row in (pages.read_result(name, "default") or {"rows": []})["rows"]:
            if row["fact"]:
                assert FACTS[row["fact"]].experiment == name
                judged.setdefault(row["fact"], []).append(row)
                assert row["paper"] != "-"
                assert row["direction"] in ("yes", "no", "undecided")
    assert all(len(rows) == 1 for rows in judged.values())
    # What has not been measured yet waits for a run with the sizes of today.
    for key in set(FACTS) - set(judged):
        name = FACTS[key].experiment
        result = pages.read_result(name, "default")
        plan = plan_as_json(load_experiment(name).plans["default"])
        assert not result or result["measurements"].get("plan") != plan, key
