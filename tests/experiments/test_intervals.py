"""Intervals and verdicts, against SciPy's t distribution and brute force."""

import numpy as np
import pytest

from bn_keras.experiments.intervals import (
    Interval,
    accuracy_interval,
    has_size,
    is_above,
    is_within,
    isotonic,
    log_ratios,
    mean_interval,
    ratio_interval,
)

pytestmark = pytest.mark.fast
INFINITY = float("inf")


@pytest.mark.parametrize("count", [2, 3, 5, 31])
def test_the_interval_of_a_mean_is_students(count):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).normal(3, 2, count)
    low, high = stats.t.interval(
        0.95, count - 1, values.mean(), values.std(ddof=1) / np.sqrt(count)
    )
    # The table of quantiles has three decimals.
    np.testing.assert_allclose(
        mean_interval(values), (values.mean(), low, high), atol=2e-3
    )


def test_one_seed_has_no_interval_and_decides_nothing():
    interval = mean_interval([4.0])
    assert interval == (4.0, -INFINITY, INFINITY)
    assert is_above(interval, 0) == "undecided"
    assert ratio_interval([4.0], [2.0]) == (pytest.approx(2.0), 0.0, INFINITY)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_what_is_not_a_number_decides_nothing(values):
    assert is_above(mean_interval(values), 0) == "undecided"
    assert is_within(mean_interval(values), -9, 9) == "undecided"


def test_ratios_are_compared_by_their_logarithms():
    interval = ratio_interval([2.0, 8.0, 4.0], [1.0, 1.0, 1.0])
    logs = mean_interval(np.log([2.0, 8.0, 4.0]))
    np.testing.assert_allclose(interval, np.exp(logs))
    assert interval.estimate == pytest.approx(4.0)


def test_an_infinite_ratio_counts_as_the_largest_finite_one():
    finite = ratio_interval([2.0, 3.0, 4.0, 4.0], [1.0] * 4)
    assert ratio_interval([2.0, 3.0, 4.0, INFINITY], [1.0] * 4) == finite
    assert is_above(finite, 1) == "yes"
    assert is_above(ratio_interval([1.0, 1.1, 1.2], [2.0, 2.0, INFINITY]), 1) == "no"
    # Without a finite one only the direction is known.
    assert is_above(ratio_interval([INFINITY] * 3, [1.0, 2.0, 3.0]), 1) == "yes"
    assert log_ratios([INFINITY, 0.0, 2.0], [INFINITY, 0.0, 1.0]).tolist() == [
        *(0, 0, np.log(2))
    ]


@pytest.mark.parametrize(
    ("low", "high", "above", "within"),
    [
        (0.1, 0.2, "yes", "yes"),
        (-0.2, -0.1, "no", "yes"),
        (-0.1, 0.1, "undecided", "yes"),
        (0.5, 3.0, "yes", "undecided"),
        (2.0, 3.0, "yes", "no"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, high, above, within):
    interval = Interval((low + high) / 2, low, high)
    assert is_above(interval, 0) == above
    assert is_within(interval, -1, 1) == within


def test_a_ratio_has_the_papers_size_within_a_quarter():
    assert has_size(Interval(14, 12, 16), 14.8) == "yes"
    assert has_size(Interval(6.5, 5.2, 7.2), 14.8) == "no"
    assert has_size(Interval(12, 9, 16), 14.8) == "undecided"


def test_the_interval_of_accuracies_covers_seeds_and_pictures():
    draw = np.random.default_rng(0)
    hard = draw.uniform(size=(1, 2000))  # the same pictures are hard for both
    correct = hard + draw.normal(0, 0.1, (4, 2000)) < 0.8
    others = hard + draw.normal(0, 0.1, (4, 2000)) < 0.7
    difference = correct.astype(float) - others
    interval = accuracy_interval(correct, others)
    assert interval.estimate == pytest.approx(difference.mean())
    # At least the standard error over pictures and Student's interval over seeds.
    half = (interval.high - interval.low) / 2
    assert half > 1.9 * difference.mean(0).std() / np.sqrt(2000)
    student = mean_interval(difference.mean(1))
    assert interval.low <= student.low
    assert interval.high >= student.high
    assert is_above(interval, 0) == "yes"
    assert accuracy_interval(correct, correct) == (0, 0, 0)


def test_one_seed_still_has_the_interval_of_its_pictures():
    correct = np.arange(1000)[None] < 600
    interval = accuracy_interval(correct, np.zeros((1, 1000), bool))
    error = np.sqrt(0.6 * 0.4 / 1000)
    np.testing.assert_allclose(
        interval, (0.6, 0.6 - 1.96 * error, 0.6 + 1.96 * error), atol=0.003
    )


def test_the_isotonic_curve_is_the_closest_one_that_never_falls():
    values = np.random.default_rng(3).normal(size=6)
    rising = isotonic(values)
    assert (np.diff(rising) >= 0).all()
    # Max over starts of the min over ends of the mean: the min-max formula.
    expected = [
        max(min(values[i : j + 1].mean() for j in range(k, 6)) for i in range(k + 1))
        for k in range(6)
    ]
    np.testing.assert_allclose(rising, expected)
