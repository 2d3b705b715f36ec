"""The sweep over initial weights and learning rates: cells, rows and table."""

import json

import numpy as np
import pytest

from bn_keras.experiments.mnist_sweep import EXPERIMENT
from bn_keras.training.recipes import BN_MLP, MLP


def made_up(with_bn=((0.9, 0.96), (0.92, 0.97)), without=((0.1, 0.1), (0.95, 0.4))):
    """Return two seeds that differ by 2 points, for two deviations and two rates."""

    def seeds(cells):
        return [[[value - 0.01, value + 0.01] for value in row] for row in cells]

    return {
        "scale": "default",
        "seconds": 1.0,
        "data": "mnist",
        "steps": 1000,
        "deviations": [0.01, 0.1],
        "learning_rates": [0.1, 1.0],
        "accuracy": {BN_MLP.name: seeds(with_bn), MLP.name: seeds(without)},
    }


@pytest.mark.fast
def test_rows_hold_what_was_measured():
    learning, weights, rate = EXPERIMENT.rows(made_up())
    assert learning.claim.endswith("of 4")
    assert learning.measured == "4.0 (4.0 to 4.0) with BN, 1.0 (1.0 to 1.0) without"
    # (0.02 + 0.01) / 2 and (0.85 + 0.3) / 2
    assert weights.measured == "1.5 (1.5 to 1.5) with BN, 57.5 (57.5 to 57.5) without"
    assert rate.measured == ("1.00 (1.00 to 1.00) with BN, 0.10 (0.10 to 0.10) without")
    assert [row.direction for row in (learning, weights, rate)] == [None, "yes", "yes"]
    assert (weights.fact, rate.fact) == ("initialization", "rates")
    json.dumps([learning, weights, rate])


@pytest.mark.fast
def test_rows_decide_nothing_if_both_networks_are_alike():
    cells = ((0.9, 0.4), (0.92, 0.3))
    rows = EXPERIMENT.rows(made_up(with_bn=cells, without=cells))
    assert [row.direction for row in rows] == [None, "undecided", "undecided"]


@pytest.mark.fast
def test_seeds_that_contradict_each_other_decide_nothing():
    measurements = made_up()
    for rates in measurements["accuracy"][MLP.name]:
        for seeds in rates:
            seeds[1] = 0.97
    rows = EXPERIMENT.rows(measurements)
    assert [row.direction for row in rows] == [None, "undecided", "undecided"]
    assert rows[0].measured == "4.0 (4.0 to 4.0) with BN, 2.5 (1.0 to 4.0) without"
    assert rows[2].measured == (
        "1.00 (1.00 to 1.00) with BN, 0.55 (0.10 to 1.00) without"
    )


@pytest.mark.fast
def test_the_figure_shows_each_number_in_its_cell():
    figure = EXPERIMENT.plot(made_up())
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == ["With BN", "Without BN"]
    texts = [[text.get_text() for text in axes.texts] for axes in panels]
    assert texts == [["90.0", "96.0", "92.0", "97.0"], ["10.0", "10.0", "95.0", "40.0"]]
    for axes in panels:
        assert axes.get_xlabel() == "learning rate"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "1"]
        # Each text is on the cell of its number.
        cells = axes.images[0].get_array()
        for text in axes.texts:
            column, row = text.get_position()
            assert float(text.get_text()) == pytest.approx(cells[row, column])
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == ["0.01", "0.1"]
    assert "1,000 steps" in figure.axes[2].get_ylabel()
    figure.canvas.draw()


@pytest.mark.slow
def test_a_smoke_run_measures_each_part_once(tmp_path):
    parts = []

    def note(name, done, total):
        parts.append((name, done, total))

    measurements = EXPERIMENT.run(tmp_path, "smoke", on_part=note)
    assert [name for name, *_ in parts[1:]] == [
        "bn-mlp-0.01-1-seed0",
        "mlp-0.01-1-seed0",
        "bn-mlp-0.1-1-seed0",
        "mlp-0.1-1-seed0",
    ]
    parts.clear()
    assert EXPERIMENT.run(tmp_path, "smoke", on_part=note) == measurements
    assert parts == [("", 4, 4)]
    assert json.loads(json.dumps(measurements)) == measurements
    # Deviations, learning rates, seeds.
    assert np.shape(measurements["accuracy"][BN_MLP.name]) == (2, 1, 1)
    stored = json.loads((tmp_path / "bn-mlp-0.1-1-seed0.json").read_text())
    assert measurements["accuracy"][BN_MLP.name][1][0] == [stored["measured"]]
    assert stored["measured"] > 0.5
    EXPERIMENT.plot(measurements).canvas.draw()
