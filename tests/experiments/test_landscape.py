"""The loss around VGG: curves, figure, rows and a smoke run."""

import json

import keras
import numpy as np
import pytest

from bn_keras.experiments import landscape_training
from bn_keras.experiments.landscape import EXPERIMENT, PLANS
from bn_keras.experiments.landscape_training import BATCH_SIZE
from bn_keras.experiments.smoothness import geometric_mean_ratio, rows_of_smoothness

POINTS = [0, 10, 20]
MEASURES = ["loss variation", "gradient predictiveness", "effective beta-smoothness"]


def network(scale, cosine=0.5):
    """Return the curves of one training, rougher by that factor."""
    shift = {"5": [scale] * 3, "10": [2 * scale] * 3}
    return {
        "steps": POINTS,
        "loss": [2.0, 1.5, 1.0],
        "loss_least": [1.0, 1.0, 1.0],
        "loss_most": [1 + scale, 1 + 2 * scale, 1 + 3 * scale],
        "loss_variation": [scale, 2 * scale, 3 * scale],
        "distance_least": [0.5 * scale, 9.0, 0.1],
        "distance_most": [2 * scale, 9.0 * scale, 2 * scale],
        "smoothness": [scale, 4 * scale, 2 * scale],
        "shift_distance": shift,
        "shift_cosine": {key: [cosine, None, cosine] for key in shift},
    }


@pytest.fixture
def measurements():
    """Return three seeds that are about 3 times as rough without BN."""
    return {
        "scale": "default",
        "seconds": 1.0,
        "title": "VGG-16 on digits",
        "curves": {
            "bn": {"0.1": [network(1.0, 0.3)] * 3},
            "none": {
                "0.1": [network(x, y) for x, y in ((2.7, 0.5), (3, 0.6), (3.3, 0.4))]
            },
        },
    }


def row(measurements, claim):
    """Return the one row whose claim contains those words."""
    (row,) = [row for row in EXPERIMENT.rows(measurements) if claim in row.claim]
    return row


@pytest.mark.fast
@pytest.mark.parametrize("claim", MEASURES)
def test_rows_give_the_factor_by_which_bn_is_smoother(measurements, claim):
    claimed = row(measurements, claim)
    assert claimed.paper == "smoother with BN"
    # The geometric mean of 2.7, 3 and 3.3, and Student's interval of their logarithms.
    assert claimed.measured.startswith("without BN 2.99 times (2.33 to 3.84) as large")
    assert "larger at 100% of the probes" in claimed.measured
    assert (claimed.n, claimed.direction) == ("3 seeds", "yes")


@pytest.mark.fast
@pytest.mark.parametrize("claim", MEASURES)
def test_seeds_that_contradict_each_other_decide_nothing(measurements, claim):
    measurements["curves"]["none"]["0.1"][1] = network(0.2)
    assert row(measurements, claim).direction == "undecided"
    measurements["curves"]["none"]["0.1"] = [network(x) for x in (0.2, 0.3, 0.25)]
    assert row(measurements, claim).direction == "no"


@pytest.mark.fast
@pytest.mark.parametrize("value", [np.inf, np.nan, None])
@pytest.mark.parametrize("claim", MEASURES)
def test_a_probe_that_overflows_is_rougher(measurements, claim, value):
    for seed in measurements["curves"]["none"]["0.1"]:
        for name in ("loss_variation", "distance_most", "smoothness"):
            seed[name] = [*seed[name][:2], value]
    assert row(measurements, claim).direction == "yes"
    # The network with BN was a little rougher at the other probes.
    measurements["curves"]["bn"]["0.1"] = [network(x) for x in (3.3, 3.4, 3.5)]
    assert row(measurements, claim).measured.startswith("without BN 0.88 times")


@pytest.mark.fast
def test_an_overflow_of_both_networks_compares_nothing():
    assert geometric_mean_ratio([np.inf, 8.0], [np.inf, 2.0]) == pytest.approx(2)
    assert geometric_mean_ratio([1.0, 4.0], [1.0, 1.0]) == pytest.approx(2)


@pytest.mark.fast
def test_a_measure_without_a_claim_has_no_verdict(measurements):
    curves = measurements["curves"]
    rows = rows_of_smoothness("x", curves["none"]["0.1"], curves["bn"]["0.1"], {})
    assert {(row.paper, row.direction, row.fact) for row in rows} == {("-", None, "")}


@pytest.mark.fast
def test_the_covariate_shift_has_margins_that_were_fixed_before(measurements):
    length, angle = (
        row(measurements, f"covariate shift, {name}, layers 5 and 10")
        for name in ("L2", "mean cosine")
    )
    assert length.measured == "with BN 0.33 times (0.26 to 0.43) as large"
    assert length.direction == "no"
    assert angle.measured == (
        "with BN 0.300 (0.300 to 0.300), without BN 0.500 (0.252 to 0.748)"
    )
    assert angle.direction == "yes"  # 0.2 less, +- 0.25; the margin is -0.1
    measurements["curves"]["bn"]["0.1"] = [network(1.0, 0.45)] * 3
    assert row(measurements, "shift, mean cosine").direction == "undecided"
    none = measurements["curves"]["none"]["0.1"]
    none[:] = [network(x, y) for x, y in ((1.12, 0.5), (1.13, 0.52), (1.14, 0.48))]
    assert row(measurements, "shift, L2").direction == "yes"  # 0.87, at least 0.8
    assert row(measurements, "shift, mean cosine").direction == "yes"


@pytest.mark.fast
def test_networks_are_also_compared_from_where_both_learn(measurements):
    """Chance is a loss of 2.3; before, and without learning, the loss is flat."""
    for seed in measurements["curves"]["none"]["0.1"]:
        seed["distance_most"] = [1e-3, *seed["distance_most"][1:]]
    assert len(EXPERIMENT.rows(measurements)) == 5  # all learn from the start
    first, second, third = measurements["curves"]["none"]["0.1"]
    first["loss"], second["loss"] = [2.3, 1.5, 1.0], [2.3, 2.2, 2.1]
    third["loss"] = [2.3, 2.31, None]
    table = EXPERIMENT.rows(measurements)
    assert len(table) == 10
    assert {row.direction for row in table[5:]} == {None}
    learning = row(measurements, "rate 0.1, both learn: gradient predictiveness")
    assert learning.n == "2 seeds"
    assert learning.measured.endswith("by seed 2.7, 3")
    assert "at 100% of the probes" in learning.measured
    whole = row(measurements, "rate 0.1: gradient predictiveness")
    # The cube root of 1e-3 / 2 * 2.7 * 2.7, and so on.
    assert whole.measured.endswith("by seed 0.15, 0.17, 0.18")
    first["loss"] = second["loss"] = third["loss"]
    assert len(EXPERIMENT.rows(measurements)) == 5  # none learns


@pytest.mark.fast
def test_claims_are_short(measurements):
    measurements["title"] = "VGG-16 on cifar10"
    measurements["curves"]["none"]["0.1"][0]["loss"] = [2.3, 2.1, 2.0]
    assert len(EXPERIMENT.rows(measurements)) == 10
    assert all(len(row.claim) <= 88 for row in EXPERIMENT.rows(measurements))


def test_the_figure_has_the_papers_panels_for_each_rate(measurements):
    for networks in measurements["curves"].values():
        networks["0.01"] = networks["0.1"]
    figure = EXPERIMENT.plot(measurements)
    grid = np.array(figure.axes).reshape(5, 2)
    assert [axes.get_title() for axes in grid[0]] == [
        "VGG-16 on digits, rate 0.1",
        "VGG-16 on digits, rate 0.01",
    ]
    assert all(axes.get_xlabel().startswith("steps") for axes in grid[-1])
    for axes in grid[:3].ravel():
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
        assert len({line.get_marker() for line in axes.lines}) == 2
        assert len(axes.collections) == 2  # the shaded ranges
    for axes in grid[3:].ravel():
        assert [line.get_label() for line in axes.lines] == [
            "With BN, layer 5",
            "With BN, layer 10",
            "Without BN, layer 5",
            "Without BN, layer 10",
        ]
    # A probe at which no seed's gradient has a direction is left out.
    cosines = grid[4, 0].lines[2].get_ydata()
    np.testing.assert_allclose(np.ma.filled(cosines, 9.0), [0.5, 9.0, 0.5])
    without = grid[0, 0].collections[1].get_paths()[0].vertices
    assert without[:, 1].max() == pytest.approx(1 + 3 * 3)
    assert "Smaller is smoother" in figure.get_supxlabel()


def test_training_is_plain_descent_and_probes_use_the_batch_of_their_step():
    rng = np.random.default_rng(5)
    batches = [(rng.normal(size=(8, 3)), rng.normal(size=(8, 1))) for _ in range(4)]
    inputs = keras.Input((3,), dtype="float64")
    x = keras.layers.Dense(2, use_bias=False, dtype="float64")(inputs)
    model = keras.Model(
        inputs, keras.layers.Dense(1, use_bias=False, dtype="float64")(x)
    )
    a, b = map(np.array, model.get_weights())
    curves = landscape_training._train_and_probe(
        model,
        keras.losses.MeanSquaredError(reduction="sum", dtype="float64"),
        iter(batches),
        rate=0.01,
        factors=[1, 2],
        steps=4,
        every=2,
        drawn=[2],
    )

    def gradients(a, b, x, y):
        error = 2 * (x @ a @ b - y)
        return x.T @ error @ b.T, (x @ a).T @ error

    expected = []
    for step, (x, y) in enumerate(batches):
        g, h = gradients(a, b, x, y)
        stepped = [(a - r * g, b - r * h) for r in (0.01, 0.02)]
        if step % 2 == 0:
            losses = [np.sum((x @ p @ q - y) ** 2) for p, q in stepped]
            shift = np.linalg.norm(h - gradients(stepped[0][0], b, x, y)[1])
            loss, varied = np.sum((x @ a @ b - y) ** 2), np.ptp(losses)
            expected.append((loss, *sorted(losses), varied, shift))
        a, b = stepped[0]
    measured = zip(
        curves["loss"],
        curves["loss_least"],
        curves["loss_most"],
        curves["loss_variation"],
        curves["shift_distance"]["2"],
        strict=True,
    )
    # The curves have four digits, and Keras' learning rate is a float32.
    np.testing.assert_allclose(list(measured), expected, rtol=6e-4)
    np.testing.assert_allclose(model.get_weights()[0], a, rtol=1e-6, atol=1e-8)
    assert curves["steps"] == [0, 2]
    assert list(curves["shift_distance"]) == list(curves["shift_cosine"]) == ["2"]


@pytest.mark.fast
def test_every_plan_draws_layers_that_its_networks_have():
    kernels = {11: 9, 16: 14}  # convolutions of the network of 32x32, and the output
    for plan in PLANS.values():
        assert all(2 <= i <= kernels[plan.depth] for i in plan.drawn)
        assert plan.steps / plan.every <= 200


@pytest.mark.fast
def test_the_full_plan_has_the_papers_sizes():
    full = PLANS["full"]
    assert (full.data, full.rates) == ("cifar10", (0.1, 0.01))
    assert (full.steps, BATCH_SIZE) == (15000, 128)
    assert (min(full.factors), max(full.factors)) == (0.5, 4)


def test_a_smoke_run_measures_each_part_once(tmp_path):
    progress = []
    measurements = EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: progress.append(part)
    )
    assert progress[0] == ("", 0, 2)
    assert progress[-1][1:] == (2, 2)
    assert measurements == json.loads(json.dumps(measurements))
    for network in measurements["curves"].values():
        (seed,) = network["0.1"]
        assert np.isfinite(seed["smoothness"]).all()
    assert len(EXPERIMENT.rows(measurements)) == 5
    assert len(EXPERIMENT.plot(measurements).axes) == 5
    again = []
    assert measurements == EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: again.append(part)
    )
    assert again == [("", 2, 2)]
