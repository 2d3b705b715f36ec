"""The experiment with noise after BN and with p-norms."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from bn_keras.experiments.facts import FACTS
from bn_keras.experiments.noise import EXPERIMENT, LABELS, PLANS
from bn_keras.experiments.noisy_training import (
    absolute_changes,
    moment_distances,
    train_network,
    typical_unit,
)


def measurements(seeds=3, **changed):
    """Return made-up measurements: each network learns to a different accuracy."""
    ends = {"none": 0.4, "bn": 0.8, "noisy-bn": 0.79, "noise": 0.1}
    ends |= {"l1": 0.79, "l2": 0.8, "linf": 0.79}
    ends |= {"l1-centred": 0.8, "linf-centred": 0.7} | changed
    ways = {"none": 0.1, "bn": 0.01, "noisy-bn": 0.3}

    def one(name, seed):
        curve = np.linspace(0.1, ends[name], 8) + 0.01 * seed
        way = changed.get("way", ways.get(name, 0.2))
        return {
            "accuracy": curve.tolist(),
            "loss": (2.3 - curve).tolist(),
            "test": [ends[name] / 2, ends[name]],
            "train": [ends[name] / 2, ends[name] + 0.001 * seed],
            "changes": {
                layer: {"mean": way, "variance": way + 0.01 * seed}
                for layer in ("2", "9", "13")
            },
            "instability": {"2": way, "9": way, "13": way},
            "unit": {"mean": [0.0, 0.5, None], "deviation": [1.0, 1.1, 0.9]},
        }

    return {
        "scale": "default",
        "seconds": 1.0,
        "every": 50,
        "test_every": 200,
        "target": 0.35,
        "networks": {
            name: [one(name, seed) for seed in range(seeds)] for name in LABELS
        },
    }


def verdicts(facts):
    """Return the direction of each claim of the paper."""
    return {row.fact: row.direction for row in EXPERIMENT.rows(facts) if row.fact}


@pytest.mark.fast
def test_distances_are_those_between_gaussians_in_standard_deviations():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(4, 5000, 3)) * [1, 2, 3] + draw.normal(size=(4, 1, 3))
    moments = np.stack([values.mean(axis=1), values.var(axis=1)], axis=1)
    distances = moment_distances(moments)
    assert distances.shape == (3, 3)
    for step in range(3):
        for unit in range(3):
            (m, v), (n, w) = moments[step, :, unit], moments[step + 1, :, unit]
            # The closed form of the 2-Wasserstein distance.
            squared = (m - n) ** 2 + v + w - 2 * np.sqrt(v * w)
            expected = np.sqrt(squared / ((v + w) / 2))
            np.testing.assert_allclose(distances[step, unit], expected, rtol=1e-9)
    # Pairing sorted values gives the shortest way.
    first, second = np.sort(values[0], axis=0), np.sort(values[1], axis=0)
    way = np.sqrt(((first - second) ** 2).mean(axis=0))
    scale = np.sqrt((values[0].var(axis=0) + values[1].var(axis=0)) / 2)
    np.testing.assert_allclose(distances[0], way / scale, rtol=0.05, atol=0.02)


@pytest.mark.fast
def test_distances_do_not_depend_on_the_scale_or_constant_of_a_unit():
    draw = np.random.default_rng(1)
    mean, variance = draw.normal(size=(6, 4)), draw.uniform(1, 2, (6, 4))
    scale, shift = np.array([0.01, 1, 5, 300]), np.array([7, -100, 0, 1])
    moved = np.stack([scale * mean + shift, scale**2 * variance], axis=1)
    plain = np.stack([mean, variance], axis=1)
    np.testing.assert_allclose(
        moment_distances(moved), moment_distances(plain), rtol=1e-9
    )


@pytest.mark.fast
def test_units_that_do_not_vary_or_are_not_finite_have_no_distance():
    moments = np.array([[[1, 1, 1.0], [0, 2, np.nan]], [[1, 2, 1.0], [0, 2, np.inf]]])
    distances = moment_distances(moments)
    np.testing.assert_allclose(distances, [[np.nan, 1 / np.sqrt(2), np.nan]])
    assert typical_unit(distances) == 1
    assert typical_unit(np.full((2, 3), np.nan)) == 0


@pytest.mark.fast
def test_the_typical_unit_has_the_median_instability():
    distances = np.array([[5, 1, np.nan, 3, 9], [5, 1, np.nan, 3, 9]], float)
    assert typical_unit(distances) == 0


@pytest.mark.fast
def test_changes_are_absolute():
    moments = np.random.default_rng(2).normal(size=(5, 2, 3))
    changes = absolute_changes(moments)
    assert changes.shape == (4, 2, 3)
    np.testing.assert_allclose(changes[1], abs(moments[2] - moments[1]))


@pytest.mark.fast
def test_measurements_as_in_the_paper_agree_with_every_claim():
    facts = measurements()
    assert verdicts(facts) == {
        "noisy-unstable": "yes",
        "noisy-similar": "yes",
        "noisy-better": "yes",
        "noise-fails": "yes",
        "vgg-l1": "yes",
        "vgg-l2": "yes",
        "vgg-linf": "yes",
    }
    rows = {row.claim: row for row in EXPERIMENT.rows(facts)}
    assert all(len(claim) <= 88 for claim in rows)
    noisy = rows["training accuracy without noise: noisy BN below BN (points)"]
    assert noisy.measured.startswith("1.0 points (1.0 to 1.0); With noisy BN 79.1")
    assert noisy.n == "3 seeds"
    change = rows[
        "change of mean and variance per step, geometric mean over layers 2, 9, 13"
    ]
    assert change.measured.startswith("noisy BN 2.9")
    # The verdicts on norms are on training mini-batches, of the last quarter: the last
    # two of eight points, which are 10.0 and 8.6 points apart.
    where = "last quarter of the training mini-batches"
    centred = rows[f"{where}: L∞, centered below BN (points)"]
    assert (centred.paper, centred.direction) == ("-", None)
    assert centred.measured.startswith("9.3")
    inference = rows["training accuracy without noise: L∞ below BN (points)"]
    assert (inference.paper, inference.direction) == ("-", None)
    assert inference.measured.startswith("1.0")
    # From 0.1 to 0.8 in eight points of 50 steps, 0.35 is reached after 175 steps.
    steps = rows["steps to 35% training accuracy, with noise"].measured
    assert "With BN 170 (165 to 175)" in steps


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"way": 0.05}, "noisy-unstable"),
        ({"noisy-bn": 0.7}, "noisy-similar"),
        ({"noisy-bn": 0.3}, "noisy-better"),
        ({"noise": 0.3}, "noise-fails"),
        ({"l1": 0.45}, "vgg-l1"),
        ({"linf": 0.45}, "vgg-linf"),
    ],
)
def test_a_claim_is_contradicted_by_all_seeds_and_left_open_by_one(changed, fact):
    facts, other = measurements(), measurements(**changed)
    if "way" in changed:  # only noisy BN moves differently
        other["networks"]["none"] = facts["networks"]["none"]
    assert verdicts(other)[fact] == "no"
    for name, seeds in facts["networks"].items():
        seeds[1] = other["networks"][name][1]
    assert verdicts(facts)[fact] == "undecided"


@pytest.mark.fast
def test_a_missing_change_decides_nothing():
    facts = measurements()
    facts["networks"]["noisy-bn"][0]["changes"]["2"]["mean"] = None
    assert verdicts(facts)["noisy-unstable"] == "undecided"


@pytest.mark.fast
def test_nothing_is_decided_about_noise_if_the_network_without_it_is_at_chance():
    facts = measurements(none=0.11, noise=0.1)
    assert verdicts(facts)["noise-fails"] == "undecided"


@pytest.mark.fast
def test_networks_that_never_reach_the_target_are_reported():
    (row,) = [
        r for r in EXPERIMENT.rows(measurements(none=0.2)) if "steps to" in r.claim
    ]
    assert row.measured.endswith("; Without BN not within 400 (3 of 3 seeds)")


def test_the_figure_shows_curves_units_and_norms():
    figure = EXPERIMENT.plot(measurements())
    assert isinstance(figure, Figure)
    left, middle, right = figure.axes
    assert left.get_xlabel() == right.get_xlabel() == "steps"
    assert left.get_ylabel() == "training accuracy"
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == ["Without BN", "With BN", "With noisy BN", "Noise without BN"]
    lines = {line.get_label(): line for line in left.get_lines()}
    assert lines["With BN"].get_linestyle() == "-"
    assert lines["Without BN"].get_linestyle() == "--"
    np.testing.assert_array_equal(lines["With BN"].get_xdata(), 50 * np.arange(1, 9))
    mean = np.linspace(0.1, 0.8, 8) + 0.01
    np.testing.assert_allclose(lines["With BN"].get_ydata(), mean)
    assert left.get_ylim() == (0, 1)
    assert len(left.get_lines()) == 4
    assert len(right.get_lines()) == 7
    assert len(middle.get_lines()) == 3
    assert [text.get_text() for text in middle.get_yticklabels()] == texts[:3]


def test_a_noisy_network_is_trained_tested_and_observed():
    sizes = PLANS["smoke"]._asdict()
    for name in ("target", "seeds", "networks"):
        del sizes[name]
    training = train_network({}, None, network="noisy-bn", seed=0, **sizes)
    assert training == json.loads(json.dumps(training))
    assert len(training["accuracy"]) == len(training["loss"]) == 4
    assert len(training["test"]) == len(training["train"]) == 1
    assert training["changes"]["8"]["mean"] > 0.05
    assert list(training["instability"]) == ["2", "6", "8"]
    # Without noise, only `beta` would move the mean: by less than 0.05.
    assert training["instability"]["8"] > 0.1
    assert len(training["unit"]["mean"]) == len(training["unit"]["deviation"]) == 20


@pytest.mark.slow
def test_a_smoke_run_measures_each_part_once(tmp_path):
    progress = []
    facts = EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: progress.append(part)
    )
    assert progress[0] == ("", 0, 5)
    assert [done for _, done, _ in progress] == list(range(6))
    assert json.loads(json.dumps(facts)) == facts
    assert {name: len(ones) for name, ones in facts["networks"].items()} == {
        "none": 1,
        "bn": 1,
        "noisy-bn": 1,
        "noise": 1,
        "linf": 1,
    }
    one = facts["networks"]["noisy-bn"][0]
    assert len(one["accuracy"]) == len(one["loss"]) == 4
    assert len(one["test"]) == 1
    assert list(one["instability"]) == ["2", "6", "8"]
    assert one["instability"]["8"] > 0.1
    assert facts["networks"]["bn"][0]["instability"]["8"] < 0.05
    EXPERIMENT.plot(facts)
    # Each claim has one row, and the smoke plan has one of the three p-norms.
    claims = {name for name, fact in FACTS.items() if fact.experiment == "noise"}
    judged = [row.fact for row in EXPERIMENT.rows(facts) if row.fact]
    assert sorted(judged) == sorted(claims - {"vgg-l1", "vgg-l2"})
    progress.clear()
    again = EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: progress.append(part)
    )
    assert progress == [("", 5, 5)]
    assert again == facts
