"""What is read off curves for the table of results."""

import pytest

from bn_keras.experiments.rows import steps_to


def test_a_curve_reaches_an_accuracy_between_its_points():
    curve = [0, 10, 20, 30], [0.1, 0.3, 0.2, 0.5]
    assert steps_to(*curve, 0.2) == pytest.approx(5)
    assert steps_to(*curve, 0.3) == pytest.approx(10)
    assert steps_to(*curve, 0.4) == pytest.approx(20 + 10 * 0.2 / 0.3)
    assert steps_to(*curve, 0.05) == 0
    assert steps_to(*curve, 0.6) is None
