"""Figure 4: the errors of crops and ensemble, and their intervals."""

import numpy as np
import pytest

from bn_keras import data
from bn_keras.evaluation import evaluate, predict_probabilities
from bn_keras.experiments import ensemble, ensemble_member
from bn_keras.experiments.curves import sample
from bn_keras.experiments.ensemble import EXPERIMENT
from bn_keras.models import ConvNet
from bn_keras.training import recipes


def answers(rng, members, images, labels, strength):
    """Return random probabilities that are right more often the larger the strength."""
    logits = rng.normal(size=(members, images, 5))
    logits[:, np.arange(images), labels] += strength
    exponents = np.exp(logits)
    return exponents / exponents.sum(-1, keepdims=True)


@pytest.fixture
def measurements():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    single = answers(rng, 6, 400, labels, 0.5)
    multiple = answers(rng, 6, 400, labels, 1.5)
    comparison = ensemble.compare(single, multiple, labels)
    return {
        "scale": "default",
        "seconds": 1.0,
        "images": 400,
        "crops": 144,
    } | comparison


@pytest.mark.fast
def test_the_ensemble_averages_probabilities():
    # Two of three members are wrong, the third is certain.
    multiple = np.array([[[0.4, 0.6]], [[0.4, 0.6]], [[0.9, 0.1]]])
    comparison = ensemble.compare(multiple, multiple, np.array([0]))
    assert comparison["errors"]["multicrop"] == [1.0, 1.0, 0.0]
    assert comparison["errors"]["ensemble"] == [0.0]


@pytest.mark.fast
def test_the_interval_of_a_gain_is_that_of_mean_paired_differences():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 200)
    single = answers(rng, 3, 200, labels, 0.5)
    multiple = answers(rng, 3, 200, labels, 1.0)
    gain, low, high = ensemble.compare(single, multiple, labels)["gains"]["multicrop"]
    differences = [
        np.mean(
            [
                float(np.argmax(single[k, i]) != labels[i])
                - float(np.argmax(multiple[k, i]) != labels[i])
                for k in range(3)
            ]
        )
        for i in range(200)
    ]
    mean = np.mean(differences)
    error = np.sqrt(np.sum((differences - mean) ** 2) / 199 / 200)
    np.testing.assert_allclose(
        [gain, low, high], [mean, mean - 1.959964 * error, mean + 1.959964 * error]
    )


@pytest.mark.fast
def test_each_line_of_figure_4_has_a_row_and_a_gain(measurements):
    rows = EXPERIMENT.rows(measurements)
    assert [row.paper for row in rows] == [
        "25.2 (ImageNet)",
        "21.99 (ImageNet)",
        "20.1 (ImageNet)",
        "more than 0 (3.2)",
        "more than 0 (1.9)",
        "-",
    ]
    assert [row.direction for row in rows] == [*3 * [None], "yes", "yes", None]
    assert rows[3].n == "6 networks, 400 pictures"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.001, 0.02, "undecided"), (0.001, 0.02, "yes"), (-0.02, -0.001, "no")],
)
def test_a_gain_whose_interval_contains_zero_is_undecided(
    measurements, low, high, verdict
):
    measurements["gains"]["ensemble"] = [0.01, low, high]
    assert EXPERIMENT.rows(measurements)[4].direction == verdict


@pytest.mark.fast
def test_an_ensemble_is_compared_with_its_members_and_with_the_best():
    right, wrong = [[1.0, 0.0]], [[0.0, 1.0]]
    best, certain = right + wrong, [[0.4, 0.6], [0.0, 1.0]]
    multiple = np.array([best, certain, certain])
    comparison = ensemble.compare(multiple, multiple, np.array([0, 0]))
    assert comparison["errors"]["multicrop"] == [0.5, 1.0, 1.0]
    assert comparison["errors"]["ensemble"] == [0.5]
    assert comparison["gains"]["ensemble"][0] == pytest.approx(1 / 3)
    assert comparison["gains"]["best"][0] == 0.0


@pytest.mark.fast
def test_members_at_chance_decide_no_size_and_the_gain_of_the_others_is_named():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, 400)
    multiple = answers(rng, 4, 400, labels, 2.0)
    multiple[1:3] = [1.0, 0.0, 0.0, 0.0, 0.0]  # right in a fifth of the images
    comparison = ensemble.compare(multiple, multiple, labels)
    assert comparison["learning"] == 2
    first, last = (
        comparison["errors"]["multicrop"][index] - comparison["errors"]["ensemble"][0]
        for index in (0, 3)
    )
    gain, low, high = comparison["learning gains"]["ensemble"]
    assert gain == pytest.approx((first + last) / 2)
    assert low < gain < high
    rows = EXPERIMENT.rows({"images": 400, "crops": 144, **comparison})
    assert [row.size for row in rows[3:5]] == ["undecided", "undecided"]
    texts = [row.measured.partition("; ")[0] for row in rows[3:]]
    assert texts[1].startswith(f"{100 * gain:.1f} points ({100 * low:.1f} to ")
    others = [text.endswith(" over the 2 networks that learn") for text in texts]
    assert others == [True, True, False]


@pytest.mark.fast
def test_the_figure_has_one_square_per_line_and_a_dot_per_network(measurements):
    (axes,) = EXPERIMENT.plot(measurements).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "single crop",
        "multicrop",
        "ensemble",
    ]
    heights = [container.lines[0].get_ydata()[0] for container in axes.containers]
    means = [100 * np.mean(errors) for errors in measurements["errors"].values()]
    np.testing.assert_allclose(heights, means)
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [6, 6]
    assert axes.get_ylabel() == "top-1 error (%)"


def test_probabilities_are_those_that_evaluate_uses():
    split = sample(data.digits().test, 30)
    model = ConvNet(input_shape=(8, 8, 1), classes=10)
    pairs = list(predict_probabilities(model, split, 10, batch_size=32))
    probabilities = np.concatenate([answer for answer, _ in pairs])
    labels = np.concatenate([label for _, label in pairs])
    np.testing.assert_array_equal(labels, split.labels)
    top1 = np.mean(probabilities.argmax(-1) == labels)
    assert evaluate(model, split, 10, batch_size=32).top1 == pytest.approx(top1)


@pytest.mark.fast
def test_a_member_is_asked_with_one_crop_and_with_all(monkeypatch):
    def predict(model, split, crops, *_):
        yield np.full((len(split), 10), crops / 1000), split.labels

    monkeypatch.setattr(ensemble_member, "predict_probabilities", predict)

    def train(recipe, *_):
        rates.append(recipe.learning_rate)

    rates = []
    monkeypatch.setattr(ensemble_member, "train_or_load", train)
    sizes = {"size": 8, "width": 1 / 16, "epochs": 1, "images": 20, "crops": 10}
    sizes["rate"] = 0.2
    probabilities = ensemble_member.predict_member(
        {}, None, member=recipes.ENSEMBLE[0].name, data="digits", **sizes
    )
    np.testing.assert_array_equal(probabilities["single"], np.full((20, 10), 0.001))
    np.testing.assert_array_equal(probabilities["multiple"], np.full((20, 10), 0.01))
    expected = sample(data.digits().test, 20).labels
    np.testing.assert_array_equal(probabilities["labels"], expected)
    # Larger initial weights, 1.5 times, get the rate at which they turn as fast.
    np.testing.assert_allclose(rates, [0.2 * 1.5**2])


@pytest.mark.slow
def test_a_smoke_run_measures_each_part_once(tmp_path):
    first = EXPERIMENT.run(tmp_path, "smoke")
    progress = []
    again = EXPERIMENT.run(tmp_path, "smoke", on_part=lambda *a: progress.append(a))
    assert again == first
    assert progress == [("", 2, 2)]
    assert len(first["errors"]["single crop"]) == 2
    assert EXPERIMENT.rows(first)


@pytest.mark.fast
def test_the_default_plan_has_the_papers_six_members():
    assert ensemble.PLANS["default"].members == len(recipes.ENSEMBLE) == 6
