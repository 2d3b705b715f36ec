"""Figure 4: errors of single crop, multicrop and ensemble, and their intervals."""

import numpy as np
import pytest

from bn_keras import data
from bn_keras.evaluation import evaluate, predict_probabilities
from bn_keras.experiments import ensemble
from bn_keras.experiments.curves import sample
from bn_keras.models import ConvNet
from bn_keras.training import recipes


def answers(rng, members, images, labels, strength):
    """Made-up probabilities that are right more often the larger the strength."""
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
    found = ensemble.compare(single, multiple, labels)
    return {"scale": "default", "seconds": 1.0, "images": 400, "crops": 144, **found}


def test_the_ensembles_answer_is_the_mean_of_probabilities():
    # Two of three members are wrong, the third is sure.
    multiple = np.array([[[0.4, 0.6]], [[0.4, 0.6]], [[0.9, 0.1]]])
    found = ensemble.compare(multiple, multiple, np.array([0]))
    assert found["errors"]["multicrop"] == [1.0, 1.0, 0.0]
    assert found["errors"]["ensemble"] == [0.0]


def test_a_gains_interval_is_that_of_a_mean_of_paired_differences():
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


def test_each_line_of_figure_4_is_a_row_with_its_gain(measurements):
    found = ensemble.rows(measurements)
    assert [row.paper for row in found] == [
        "25.2 (ImageNet)",
        "21.99 (ImageNet)",
        "20.1 (ImageNet)",
        "more than 0 (3.2)",
        "more than 0 (1.9)",
        "more than 0 (1.9)",
    ]
    assert found[3].agrees
    assert found[4].agrees


@pytest.mark.parametrize(
    ("low", "high", "agrees"), [(-0.001, 0.02, False), (0.001, 0.02, True)]
)
def test_a_gain_whose_interval_holds_zero_does_not_agree(
    measurements, low, high, agrees
):
    measurements["gains"]["ensemble"] = [0.01, low, high]
    assert ensemble.rows(measurements)[4].agrees is agrees


def test_an_ensemble_is_held_against_its_members_and_the_best_of_them():
    right, wrong = [[1.0, 0.0]], [[0.0, 1.0]]
    best, sure = right + wrong, [[0.4, 0.6], [0.0, 1.0]]
    multiple = np.array([best, sure, sure])
    found = ensemble.compare(multiple, multiple, np.array([0, 0]))
    assert found["errors"]["multicrop"] == [0.5, 1.0, 1.0]
    assert found["errors"]["ensemble"] == [0.5]
    assert found["gains"]["ensemble"][0] == pytest.approx(1 / 3)
    assert found["gains"]["best"][0] == 0.0


def test_the_figure_has_a_bar_for_each_line(measurements):
    (axes,) = ensemble.plot(measurements).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "single crop",
        "multicrop",
        "ensemble",
    ]
    heights = [patch.get_height() for patch in axes.patches]
    means = [100 * np.mean(found) for found in measurements["errors"].values()]
    np.testing.assert_allclose(heights, means)
    assert axes.get_ylabel() == "top-1 error in %"


def test_probabilities_are_those_that_evaluate_scores():
    split = sample(data.digits().test, 30)
    model = ConvNet(input_shape=(8, 8, 1), classes=10)
    pairs = list(predict_probabilities(model, split, 10, batch_size=32))
    probabilities = np.concatenate([answer for answer, _ in pairs])
    labels = np.concatenate([label for _, label in pairs])
    np.testing.assert_array_equal(labels, split.labels)
    top1 = np.mean(probabilities.argmax(-1) == labels)
    assert evaluate(model, split, 10, batch_size=32).top1 == pytest.approx(top1)


def test_a_members_answers_are_of_one_crop_and_of_all(monkeypatch):
    def predict(model, split, crops, *_):
        yield np.full((len(split), 10), crops / 1000), split.labels

    monkeypatch.setattr(ensemble, "predict_probabilities", predict)
    monkeypatch.setattr(ensemble, "trained", lambda *_: None)
    sizes = {"size": 8, "width": 1 / 16, "epochs": 1, "images": 20, "crops": 10}
    found = ensemble.answers(
        {}, None, member=recipes.ENSEMBLE[0].name, data="digits", **sizes
    )
    np.testing.assert_array_equal(found["single"], np.full((20, 10), 0.001))
    np.testing.assert_array_equal(found["multiple"], np.full((20, 10), 0.01))
    expected = sample(data.digits().test, 20).labels
    np.testing.assert_array_equal(found["labels"], expected)


@pytest.mark.slow
def test_a_smoke_run_is_measured_once(tmp_path):
    first = ensemble.run(tmp_path, "smoke")
    told = []
    again = ensemble.run(tmp_path, "smoke", on_part=lambda *a: told.append(a))
    assert again == first
    assert told == [("", 2, 2)]
    assert len(first["errors"]["single crop"]) == 2
    assert ensemble.rows(first)


def test_the_members_are_the_papers_six():
    assert ensemble.PLANS["default"].members == len(recipes.ENSEMBLE) == 6
