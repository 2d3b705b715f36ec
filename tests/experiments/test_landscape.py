"""The loss landscape: its measured curves, its figure, its rows and a smoke run."""

import json

import keras
import numpy as np
import pytest

from bn_keras.experiments import landscape

POINTS = [0, 10, 20]


def network(scale):
    """What one seed of one network measures, rougher by that factor."""
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
    """Without BN 2 and 4 times as rough; its covariate shift so much larger too."""

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


def row(measurements, claim, setup="vgg"):
    """The one row of that set-up whose claim has those words."""
    title = measurements[setup]["title"]
    (found,) = [
        row
        for row in landscape.rows(measurements)
        if row.claim.startswith(title) and claim in row.claim
    ]
    return found


MEDIANS = [
    "loss variation, median over the steps",
    "gradient predictiveness, median over the steps",
    "effective beta-smoothness, median over the steps",
]


@pytest.mark.parametrize("setup", ["vgg", "linear"])
@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_name_the_factor_by_which_bn_is_smoother(measurements, setup, claim):
    found = row(measurements, claim, setup)
    assert found.paper == "smoother with BN"
    assert found.measured == "without BN 3.00 (2.00 to 4.00) times as large"
    assert found.agrees is True


def test_the_first_step_has_rows_of_its_own_that_judge_nothing(measurements):
    measurements["vgg"]["without"][1]["smoothness"][0] = 0.8
    found = row(measurements, "effective beta-smoothness, at the first step")
    assert found.measured == "without BN 1.40 (0.80 to 2.00) times as large"
    assert (found.paper, found.agrees) == ("-", None)
    assert row(measurements, MEDIANS[2]).measured.startswith("without BN 3.00 (2.00")


def test_claims_are_short(measurements):
    measurements["linear"]["title"] = "25-layer deep linear network"
    assert all(len(row.claim) <= 80 for row in landscape.rows(measurements))


@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_disagree_where_one_seed_is_rougher_with_bn(measurements, claim):
    measurements["vgg"]["without"][1] = network(0.5)
    assert row(measurements, claim).agrees is False
    assert row(measurements, claim, "linear").agrees is True


@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_judge_nothing_where_no_difference_is_shown(measurements, claim):
    measurements["vgg"]["without"][1] = network(1.001)
    assert row(measurements, claim).agrees is None


@pytest.mark.parametrize("value", [np.inf, np.nan, None])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("word", ["with", "without"])
@pytest.mark.parametrize("claim", MEDIANS)
def test_rows_judge_nothing_where_a_seed_diverged(
    measurements, claim, word, seed, value
):
    measurements["vgg"]["without"][1 - seed] = network(0.5)
    for name in ("loss_variation", "distance_most", "smoothness"):
        measurements["vgg"][word][seed][name][2] = value
    found = row(measurements, claim)
    assert found.agrees is None
    assert "nan" in found.measured


def test_a_loss_that_does_not_vary_at_all_gives_no_ratio(measurements):
    measurements["vgg"]["with"][0] = network(0.0)
    assert row(measurements, MEDIANS[0]).agrees is None


def test_rows_of_the_covariate_shift_agree_where_bn_does_not_lessen_it(measurements):
    for setup in ("vgg", "linear"):
        # The mean over the layers of their medians over the steps.
        length = row(measurements, "covariate shift, L2, layers 2 and 3", setup)
        assert length.measured == "with BN 0.38 (0.25 to 0.50) times as large"
        angle = row(measurements, "covariate shift, cosine, layers 2 and 3", setup)
        assert angle.measured == (
            "with BN 0.375 (0.375 to 0.375), without BN 0.188 (0.138 to 0.238)"
        )
        assert length.agrees is False
        assert angle.agrees is False
        facts = measurements[setup]
        facts["with"], facts["without"] = facts["without"], facts["with"]
        for claim in ("shift, L2", "shift, cosine"):
            assert row(measurements, claim, setup).agrees is True


def test_cosines_that_differ_by_less_than_is_shown_decide_nothing(measurements):
    facts = measurements["linear"]
    for word, cosine in (("with", 0.99999), ("without", 0.99995)):
        for seed in facts[word]:
            seed["shift_cosine"] = {"2": [cosine] * 3, "3": [cosine] * 3}
    found = row(measurements, "shift, cosine", "linear")
    assert found.agrees is None
    assert found.measured.startswith("with BN 1.000 (1.000 to 1.000), without BN 1.000")


def test_the_figure_has_the_papers_panels_for_both_set_ups(measurements):
    figure = landscape.plot(measurements)
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


def test_the_shaded_range_is_that_over_the_rates_averaged_over_the_seeds(measurements):
    grid = np.array(landscape.plot(measurements).axes).reshape(5, 2)
    without = grid[0, 0].collections[1].get_paths()[0].vertices
    assert without[:, 1].min() == 1.0
    assert without[:, 1].max() == pytest.approx(1 + 3 * (2 + 4) / 2)


def test_following_trains_as_plain_descent_does_and_probes_each_steps_batch():
    rng = np.random.default_rng(5)
    batches = [(rng.normal(size=(8, 3)), rng.normal(size=(8, 1))) for _ in range(4)]
    inputs = keras.Input((3,), dtype="float64")
    x = keras.layers.Dense(2, use_bias=False, dtype="float64")(inputs)
    model = keras.Model(
        inputs, keras.layers.Dense(1, use_bias=False, dtype="float64")(x)
    )
    a, b = map(np.array, model.get_weights())
    found = landscape._follow(
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
        found["loss"],
        found["loss_least"],
        found["loss_most"],
        found["loss_variation"],
        found["shift_distance"]["2"],
        strict=True,
    )
    # What is kept has four digits; Keras' learning rate is a float32.
    np.testing.assert_allclose(list(measured), expected, rtol=6e-4)
    np.testing.assert_allclose(model.get_weights()[0], a, rtol=1e-6, atol=1e-8)
    assert found["steps"] == [0, 2]
    assert list(found["shift_distance"]) == list(found["shift_cosine"]) == ["2"]


def test_both_networks_of_a_seed_see_the_same_data(monkeypatch):
    seen = []

    def follow(model, loss, batches, **arguments):
        seen.append((model.count_params(), *next(iter(batches))))
        return {}

    monkeypatch.setattr(landscape, "_follow", follow)
    for seed, bn in ((1, True), (1, False), (2, False)):
        landscape._measure_linear(
            None, None, seed=seed, batch_normalization=bn, **_tiny_linear()
        )
    (parameters, *data), (fewer, *same), (_, *other) = seen
    assert parameters > fewer
    for one, two, three in zip(data, same, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert (one != three).all()


def test_a_seed_measures_the_same_again():
    one, again = (
        landscape._measure_linear(
            None, None, seed=1, batch_normalization=True, **_tiny_linear()
        )
        for _ in range(2)
    )
    assert one == again


def _tiny_linear():
    return landscape.PLANS["smoke"].linear | {"steps": 1, "depth": 3, "drawn": [2, 3]}


def test_every_plan_draws_layers_that_it_has():
    kernels = {11: 9, 16: 14}  # convolutions of the network of 32x32, and the output
    for plan in landscape.PLANS.values():
        assert all(2 <= i <= kernels[plan.vgg["depth"]] for i in plan.vgg["drawn"])
        assert all(2 <= i <= plan.linear["depth"] for i in plan.linear["drawn"])
        assert plan.vgg["steps"] / plan.vgg["every"] <= 200
        assert plan.linear["steps"] / plan.linear["every"] <= 200


def test_the_full_plan_is_the_papers():
    full = landscape.PLANS["full"]
    assert (full.vgg["data"], full.vgg["rate"]) == ("cifar10", 0.1)
    assert (full.vgg["steps"], landscape._BATCH_SIZE) == (15000, 128)
    assert (min(full.vgg["factors"]), max(full.vgg["factors"])) == (0.5, 4)
    assert (full.linear["depth"], full.linear["rate"]) == (25, 1e-6)
    assert full.linear["steps"] == 10000
    assert (min(full.linear["factors"]), max(full.linear["factors"])) == (0.01, 30)


def test_a_smoke_run_measures_all_and_is_taken_over_by_the_next(tmp_path):
    told = []
    found = landscape.run(tmp_path, "smoke", on_part=lambda *facts: told.append(facts))
    assert told[0] == ("", 0, 4)
    assert told[-1][1:] == (4, 4)
    assert found == json.loads(json.dumps(found))
    for setup in ("vgg", "linear"):
        for word in ("with", "without"):
            (seed,) = found[setup][word]
            assert np.isfinite(seed["smoothness"]).all()
    assert len(landscape.rows(found)) == 16
    assert len(landscape.plot(found).axes) == 10
    again = []
    assert found == landscape.run(
        tmp_path, "smoke", on_part=lambda *facts: again.append(facts)
    )
    assert again == [("", 4, 4)]
