"""What is computed for the table of results."""

import pytest

from bn_keras.experiments.rows import cells, steps_to_accuracy, verdict

pytestmark = pytest.mark.fast


def test_a_curve_reaches_an_accuracy_between_its_points():
    curve = [0, 10, 20, 30], [0.1, 0.3, 0.2, 0.5]
    assert steps_to_accuracy(*curve, 0.2) == pytest.approx(5)
    assert steps_to_accuracy(*curve, 0.3) == pytest.approx(10)
    assert steps_to_accuracy(*curve, 0.4) == pytest.approx(20 + 10 * 0.2 / 0.3)
    assert steps_to_accuracy(*curve, 0.05) == 0
    assert steps_to_accuracy(*curve, 0.6) is None


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([1, 2], True),
        ([1, -1], False),
        ([-1, 0], False),
        ([1, 0], None),
        ([1, float("nan")], None),
        ([], None),
    ],
)
def test_a_verdict_needs_every_seed(gains, expected):
    assert verdict(gains) is expected


def test_the_verdict_of_a_row_must_be_one_of_three():
    row = {"claim": "a", "paper": "b", "measured": "c", "agrees": None}
    assert cells(row) == ("a", "b", "c", "-")
    with pytest.raises(KeyError):
        cells({**row, "agrees": "yes"})
