"""The loss landscape: curves, figure, rows and a smoke run."""

import json

import keras
import numpy as np
import pytest

from bn_keras.experiments import landscape_training
from bn_keras.experiments.landscape import EXPERIMENT, PLANS
from bn_keras.experiments.landscape_training import (
    BATCH_SIZE,
    train_linear,
)

POINTS = [0, 10, 20]


def network(scale):
    """Return the curves of one training, rougher by that factor."""
    shift = {"2": [scale, 50.0, scale], "3": [3 * scale, 3 * scale, 99.0]}
    return {
        "steps": POINTS,
        "loss": [2.0, 1.5, 1.0],
        "loss_least": [1.0, 1.0, 1.0],
        "loss_most": [1 + scale, 1 + 2 * scale, 1 + 3 * scale],
        "loss_variation": [scale, 2 * scale, 3 * scale],
        "distance_least": [0.5 * scale, 9.0, 0.1],
        "distance_most": [2 * scale, 9.0, 2 * scale],
        "smoothness": [scale, 4 * scale, 2 * scale],
        "shift_distance": shift,
        "shift_cosine": {
            key: [1 / (1 + value) for value in values] for key, values in shift.items()
        },
    }


@pytest.fixture
def measurements():
    """Return two seeds that are 2 and 4 times as rough, with more shift, without BN."""

    def facts(title):
        return {
            "title": title,
            "with": [network(1.0), network(1.0)],
            "without": [network(2.0), network(4.0)],
        }

    return {
        "scale": "smoke",
        "seconds": 1.0,
        "vgg": facts("VGG-11 on digits"),
        "linear": facts("5-layer deep linear network"),
    }


def row(measurements, claim, network="vgg"):
    """Return the one row of that network whose claim contains those words."""
    title = measurements[network]["title"]
    (row,) = [
        row
        for row in EXPERIMENT.rows(measurements)
        if row.claim.startswith(title) and claim in row.claim
    ]
    return row


MEDIANS = [
    "loss variation, median over the steps",
    "gradient predictiveness, median over the steps",
    "effective beta-smoothness, median over the steps",
]


@pytest.mark.fast
@pytest.mark.parametrize("network", ["vgg", "linear"])
@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_give_the_factor_by_which_bn_is_smoother(measurements, network, claim):
    claimed = row(measurements, claim, network)
    assert claimed.paper == "smoother with BN"
    assert claimed.measured == "without BN 3.00 (2.00 to 4.00) times as large"
    assert claimed.agrees is True


@pytest.mark.fast
def test_the_first_step_has_separate_rows_without_a_verdict(measurements):
    measurements["vgg"]["without"][1]["smoothness"][0] = 0.8
    first = row(measurements, "effective beta-smoothness, at the first step")
    assert first.measured == "without BN 1.40 (0.80 to 2.00) times as large"
    assert (first.paper, first.agrees) == ("-", None)
    assert row(measurements, MEDIANS[2]).measured.startswith("without BN 3.00 (2.00")


@pytest.mark.fast
def test_claims_are_short(measurements):
    measurements["linear"]["title"] = "25-layer deep linear network"
    assert all(len(row.claim) <= 80 for row in EXPERIMENT.rows(measurements))


@pytest.mark.fast
@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_disagree_if_one_seed_is_rougher_with_bn(measurements, claim):
    measurements["vgg"]["without"][1] = network(0.5)
    assert row(measurements, claim).agrees is False
    assert row(measurements, claim, "linear").agrees is True


@pytest.mark.fast
@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_have_no_verdict_if_the_shown_difference_is_zero(measurements, claim):
    measurements["vgg"]["without"][1] = network(1.001)
    assert row(measurements, claim).agrees is None


@pytest.mark.fast
@pytest.mark.parametrize("value", [np.inf, np.nan, None])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("key", ["with", "without"])
@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_have_no_verdict_if_a_seed_diverged(measurements, claim, key, seed, value):
    measurements["vgg"]["without"][1 - seed] = network(0.5)
    for name in ("loss_variation", "distance_most", "smoothness"):
        measurements["vgg"][key][seed][name][2] = value
    undecided = row(measurements, claim)
    assert undecided.agrees is None
    assert "nan" in undecided.measured


@pytest.mark.fast
def test_a_loss_that_does_not_vary_gives_no_ratio(measurements):
    measurements["vgg"]["with"][0] = network(0.0)
    assert row(measurements, MEDIANS[0]).agrees is None


@pytest.mark.fast
def test_rows_of_the_covariate_shift_agree_if_bn_does_not_reduce_it(measurements):
    for network in ("vgg", "linear"):
        # The mean over the layers of their medians over the steps.
        length = row(measurements, "covariate shift, L2, layers 2 and 3", network)
        assert length.measured == "with BN 0.38 (0.25 to 0.50) times as large"
        angle = row(measurements, "covariate shift, cosine, layers 2 and 3", network)
        assert angle.measured == (
            "with BN 0.375 (0.375 to 0.375), without BN 0.188 (0.138 to 0.238)"
        )
        assert length.agrees is False
        assert angle.agrees is False
        facts = measurements[network]
        facts["with"], facts["without"] = facts["without"], facts["with"]
        for claim in ("shift, L2", "shift, cosine"):
            assert row(measurements, claim, network).agrees is True


@pytest.mark.fast
def test_cosines_that_look_equal_in_the_table_decide_nothing(measurements):
    facts = measurements["linear"]
    for key, cosine in (("with", 0.99999), ("without", 0.99995)):
        for seed in facts[key]:
            seed["shift_cosine"] = {"2": [cosine] * 3, "3": [cosine] * 3}
    shift = row(measurements, "shift, cosine", "linear")
    assert shift.agrees is None
    assert shift.measured.startswith("with BN 1.000 (1.000 to 1.000), without BN 1.000")


def test_the_figure_has_the_papers_panels_for_both_networks(measurements):
    figure = EXPERIMENT.plot(measurements)
    grid = np.array(figure.axes).reshape(5, 2)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == [
        "loss (range: variation)",
        "gradient predictiveness\n(smaller: smoother)",
        "effective beta-smoothness\n(smaller: smoother)",
        "covariate shift, L2",
        "covariate shift, cosine",
    ]
    assert [axes.get_title() for axes in grid[0]] == [
        "VGG-11 on digits",
        "5-layer deep linear network",
    ]
    assert [axes.get_xlabel() for axes in grid[-1]] == ["steps", "steps"]
    for axes in grid[:3].ravel():
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
        assert len(axes.collections) == 2  # the shaded ranges
    for axes in grid[3:].ravel():
        assert [line.get_label() for line in axes.lines] == [
            "With BN, layer 2",
            "With BN, layer 3",
            "Without BN, layer 2",
            "Without BN, layer 3",
        ]
    names = [text.get_text() for text in grid[0, 0].get_legend().get_texts()]
    assert names == ["With BN", "Without BN"]


def test_the_shading_is_the_range_over_the_rates_averaged_over_seeds(measurements):
    grid = np.array(EXPERIMENT.plot(measurements).axes).reshape(5, 2)
    without = grid[0, 0].collections[1].get_paths()[0].vertices
    assert without[:, 1].min() == 1.0
    assert without[:, 1].max() == pytest.approx(1 + 3 * (2 + 4) / 2)


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


def test_both_networks_of_a_seed_are_trained_on_the_same_data(monkeypatch):
    seen = []

    def record(model, loss, batches, **arguments):
        seen.append((model.count_params(), *next(iter(batches))))
        return {}

    monkeypatch.setattr(landscape_training, "_train_and_probe", record)
    for seed, bn in ((1, True), (1, False), (2, False)):
        train_linear(None, None, seed=seed, batch_normalization=bn, **_tiny_linear())
    (parameters, *data), (fewer, *same), (_, *other) = seen
    assert parameters > fewer
    for one, two, three in zip(data, same, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert (one != three).all()


def test_a_seed_gives_the_same_results_again():
    one, again = (
        train_linear(None, None, seed=1, batch_normalization=True, **_tiny_linear())
        for _ in range(2)
    )
    assert one == again


def _tiny_linear():
    return PLANS["smoke"].linear | {"steps": 1, "depth": 3, "drawn": [2, 3]}


@pytest.mark.fast
def test_every_plan_draws_layers_that_its_networks_have():
    kernels = {11: 9, 16: 14}  # convolutions of the network of 32x32, and the output
    for plan in PLANS.values():
        assert all(2 <= i <= kernels[plan.vgg["depth"]] for i in plan.vgg["drawn"])
        assert all(2 <= i <= plan.linear["depth"] for i in plan.linear["drawn"])
        assert plan.vgg["steps"] / plan.vgg["every"] <= 200
        assert plan.linear["steps"] / plan.linear["every"] <= 200


@pytest.mark.fast
def test_the_full_plan_has_the_papers_sizes():
    full = PLANS["full"]
    assert (full.vgg["data"], full.vgg["rate"]) == ("cifar10", 0.1)
    assert (full.vgg["steps"], BATCH_SIZE) == (15000, 128)
    assert (min(full.vgg["factors"]), max(full.vgg["factors"])) == (0.5, 4)
    assert (full.linear["depth"], full.linear["rate"]) == (25, 1e-6)
    assert full.linear["steps"] == 10000
    assert (min(full.linear["factors"]), max(full.linear["factors"])) == (0.01, 30)


def test_a_smoke_run_measures_each_part_once(tmp_path):
    progress = []
    measurements = EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: progress.append(part)
    )
    assert progress[0] == ("", 0, 4)
    assert progress[-1][1:] == (4, 4)
    assert measurements == json.loads(json.dumps(measurements))
    for network in ("vgg", "linear"):
        for key in ("with", "without"):
            (seed,) = measurements[network][key]
            assert np.isfinite(seed["smoothness"]).all()
    assert len(EXPERIMENT.rows(measurements)) == 16
    assert len(EXPERIMENT.plot(measurements).axes) == 10
    again = []
    assert measurements == EXPERIMENT.run(
        tmp_path, "smoke", on_part=lambda *part: again.append(part)
    )
    assert again == [("", 4, 4)]
