"""Train the deep linear network by full-batch gradient descent, and probe its loss."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bn_keras.experiments.deep_linear_network import (
    group_by_layer,
    initial_weights,
    loss_and_gradients,
    make_examples,
)
from bn_keras.experiments.probing import Probe, Shift, covariate_shift, probe
from bn_keras.experiments.rounding import round_digits


def train(
    directories: Mapping[str, Any] | None,
    folder: Path | None,
    *,
    network: str,
    rate: float,
    depth: int,
    units: int,
    examples: int,
    steps: int,
    every: int,
    factors: Sequence[float],
    drawn: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Train one network to multiply by a Gaussian matrix, and probe its loss.

    The inputs and the entries of the matrix are standard Gaussian. A network whose loss
    is no longer finite is not trained further; its probes count as infinite.

    Args:
        directories: Not used: the data are random.
        folder: Not used: an interrupted training starts from scratch.
        network: One of `bn_keras.experiments.deep_linear_network.NETWORKS`.
        rate: The learning rate.
        depth: The number of layers.
        units: The number of units of each layer.
        examples: The number of examples, all of which are used in each step.
        steps: The number of training steps.
        every: The steps between two probes, the first of which is before step 1.
        factors: The probed step lengths, as multiples of the learning rate.
        drawn: The layers whose covariate shift is measured, counted from 1.
        seed: The seed of the data and of the weights, the same for each network.

    Returns:
        A dict from the name of a measure to its value at each probe, for `drawn` layers
        a dict from the layer to such a list; and `"steps"`, the steps of the probes.

    Reference:
        Santurkar et al. 2018, appendix A.
    """
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(units, examples))
    targets = generator.normal(size=(units, units)) @ inputs
    weights = initial_weights(network, depth, units, generator)
    compute = partial(
        loss_and_gradients, network, examples=make_examples(network, inputs, targets)
    )
    layers = group_by_layer(weights)
    probes, shifts = [], []
    with np.errstate(all="ignore"):  # the longest probed steps overflow
        for step in range(steps):
            if step % every == 0:
                probes.append(probe(compute, weights, [rate * f for f in factors]))
                shifts.append(covariate_shift(compute, weights, layers, rate, drawn))
            loss, gradients = compute(weights)
            if not np.isfinite(loss):
                break
            weights = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
    points = list(range(0, steps, every))
    lost = len(points) - len(probes)
    infinite = (np.inf, np.inf)
    probes += lost * [Probe(np.inf, infinite, infinite, np.inf)]
    shifts += lost * [[Shift(np.inf, np.nan)] * len(drawn)]
    return {"steps": points, **curves(probes, shifts, drawn)}


def curves(
    probes: Sequence[Probe], shifts: Sequence[Sequence[Shift]], drawn: Sequence[int]
) -> dict[str, Any]:
    """Return probes and shifts as one list for each measure.

    Args:
        probes: The probes of a training.
        shifts: The shifts of the drawn layers at each of them.
        drawn: The numbers of these layers.
    """
    measures: dict[str, Any] = {
        "loss": [p.loss for p in probes],
        "loss_least": [p.losses[0] for p in probes],
        "loss_most": [p.losses[1] for p in probes],
        # A small difference of large losses, which the rounded losses would lose.
        "loss_variation": [_range(*p.losses) for p in probes],
        "distance_least": [p.distances[0] for p in probes],
        "distance_most": [p.distances[1] for p in probes],
        "smoothness": [p.smoothness for p in probes],
    }
    measures = {name: round_digits(values, 4) for name, values in measures.items()}
    for name in Shift._fields:
        measures[f"shift_{name}"] = {
            str(layer): round_digits([getattr(of[i], name) for of in shifts], 5)
            for i, layer in enumerate(drawn)
        }
    return measures


def _range(least, most):
    # If the loss overflows within the probed range, its range is infinite.
    return most - least if np.isfinite(most) else np.inf
