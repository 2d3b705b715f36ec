"""What is computed for the table of results."""

import pytest

from bn_keras.experiments.intervals import Interval
from bn_keras.experiments.rows import (
    Row,
    cells,
    count_seeds,
    count_verdicts,
    steps_to_accuracy,
    with_interval,
)

pytestmark = pytest.mark.fast


def test_a_curve_reaches_an_accuracy_between_its_points():
    curve = [0, 10, 20, 30], [0.1, 0.3, 0.2, 0.5]
    assert steps_to_accuracy(*curve, 0.2) == pytest.approx(5)
    assert steps_to_accuracy(*curve, 0.3) == pytest.approx(10)
    assert steps_to_accuracy(*curve, 0.4) == pytest.approx(20 + 10 * 0.2 / 0.3)
    assert steps_to_accuracy(*curve, 0.05) == 0
    assert steps_to_accuracy(*curve, 0.6) is None


def test_a_row_has_texts_for_every_column_but_its_fact():
    row = Row("a", "b", "c", "3 seeds", "undecided", fact="key")._asdict()
    assert cells(row) == ("a", "b", "c", "3 seeds", "undecided", "-")


@pytest.mark.parametrize("name", ["direction", "size"])
@pytest.mark.parametrize("verdict", [True, False, "maybe"])
def test_the_verdict_of_a_row_must_be_a_known_one(name, verdict):
    with pytest.raises(KeyError):
        cells(Row("a", "b", "c")._asdict() | {name: verdict})


def test_directions_are_counted():
    rows = [
        Row("a", "b", "c", direction=x)._asdict() for x in ("yes", "no", "yes", None)
    ]
    assert count_verdicts(rows) == [2, 1, 0]


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((6.54, 5.2, 7.2), "6.5 times (5.2 to 7.2)"),
        ((1234.5, -0.5, 2e7), "1,234 times (-0.5 to 2e+07)"),
        ((2.0, -float("inf"), float("inf")), "2.0 times"),
    ],
)
def test_an_interval_is_written_with_its_estimate(interval, text):
    assert with_interval(Interval(*interval), unit=" times") == text


def test_what_an_interval_is_over_is_counted():
    assert (count_seeds(1), count_seeds(3)) == ("1 seed", "3 seeds")
    assert count_seeds(5, "10 pictures") == "5 seeds, 10 pictures"
