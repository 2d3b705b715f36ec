"""Accuracies and their confidence intervals."""

import numpy as np
import pytest
from optional import import_optional

from bn_keras.evaluation import Evaluation, wilson_interval

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("successes", "trials"), [(1, 3), (9, 10), (336, 360), (39_005, 50_000)]
)
def test_both_ends_of_the_interval_are_as_unlikely_as_each_other(successes, trials):
    share = successes / trials
    for bound, sign in zip(wilson_interval(successes, trials), (1, -1), strict=True):
        # The 97.5 % point of the normal distribution.
        expected = 1.959963984540054 * np.sqrt(bound * (1 - bound) / trials)
        np.testing.assert_allclose(sign * (share - bound), expected, rtol=1e-9)


@pytest.mark.parametrize("trials", [1, 7, 360])
def test_the_interval_ends_at_0_or_1_if_none_or_all_are_right(trials):
    z2 = 1.959963984540054**2
    for (low, high), expected in (
        (wilson_interval(0, trials), (0, z2 / (trials + z2))),
        (wilson_interval(trials, trials), (trials / (trials + z2), 1)),
    ):
        np.testing.assert_allclose((low, high), expected, rtol=1e-12)
        assert low >= 0
        assert high <= 1


def test_the_interval_is_that_of_scipy():
    stats = import_optional("scipy.stats", "has the same interval")
    for successes, trials, confidence in ((0, 5, 0.95), (4, 9, 0.99), (90, 100, 0.5)):
        test = stats.binomtest(successes, trials)
        expected = test.proportion_ci(confidence, method="wilson")
        interval = wilson_interval(successes, trials, confidence)
        np.testing.assert_allclose(interval, expected, rtol=1e-9, atol=1e-15)


def test_an_evaluation_shows_its_accuracies_with_their_intervals():
    evaluation = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 9]))
    assert (evaluation.top1_interval, evaluation.top5_interval) == (
        wilson_interval(17, 20),
        wilson_interval(19, 20),
    )
    assert str(evaluation).splitlines() == [
        "images 20",
        "top1 0.8500 (0.6396 to 0.9476)",
        "top5 0.9500 (0.7639 to 0.9911)",
    ]


def test_an_evaluation_shows_itself_in_one_line_and_as_a_table():
    evaluation = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 9]))
    assert repr(evaluation) == (
        "Evaluation(images=20, classes=2, top1=0.8500, top5=0.9500)"
    )
    table = evaluation._repr_html_().replace(' style="text-align: left"', "")
    assert "20 images" in table
    assert "<th>top1</th><td>85.00%</td><td>63.96% to 94.76%</td>" in table
    assert "<th>top5</th><td>95.00%</td><td>76.39% to 99.11%</td>" in table


def test_the_score_of_a_class_shows_four_digits():
    score, _ = Evaluation(np.array([[1, 2], [0, 0]]), np.array([3, 0])).per_class
    assert repr(score) == "ClassScore(images=3, top1=0.3333, top5=1.0000)"
