"""Theorem 4.1 of the second paper: both sides against finite differences."""

import numpy as np
import pytest

from bn_keras.experiments import theorem
from bn_keras.experiments.theorem import EXPERIMENT, LOSSES, check

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("loss", LOSSES)
def test_both_sides_agree_with_the_factors_of_the_proof_and_not_as_printed(loss):
    result = check(None, None, loss=loss, batch=64, units=5, seed=3)
    assert result["error"] < 1e-12
    assert result["printed"] == 1.0
    total = result["ratio"] + result["mean_share"] + result["inner_share"]
    assert total == pytest.approx(1, rel=0.2)  # means of ratios


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_the_gradients_are_those_of_a_loss(loss):
    z = np.random.default_rng(0).normal(size=(6, 4))
    gradient = theorem._gradient(loss, z, np.random.default_rng(1))

    def value(z):
        generator = np.random.default_rng(1)
        weights = generator.normal(size=(4, 5)) / 2
        logits = (np.tanh(z) if loss == "tanh" else z) @ weights
        if loss == "tanh":
            return np.sum((logits - generator.normal(size=logits.shape)) ** 2) / 6
        labels = generator.integers(5, size=6)
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[range(6), labels])

    for index in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[index] = 1e-6
        slope = (value(z + step) - value(z - step)) / 2e-6
        assert gradient[index] == pytest.approx(slope, abs=1e-7)


def test_a_smoke_run_confirms_the_theorem():
    measurements = EXPERIMENT.run(scale="smoke")
    rows = EXPERIMENT.rows(measurements)
    assert (rows[0].fact, rows[0].direction) == ("theorem", "yes")
    measurements["checks"]["tanh"]["8"][0]["error"] = 0.1
    assert EXPERIMENT.rows(measurements)[0].direction == "no"
    assert len(EXPERIMENT.plot(measurements).axes) == 3
