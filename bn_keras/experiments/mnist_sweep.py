"""Which initial weights and learning rates the MNIST network learns with."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.mnist_training import LABELS, load_binary, observe_training
from bn_keras.experiments.rows import Row, round_digits, verdict, with_and_without
from bn_keras.training.recipes import RECIPES

# The share of the test images above which a network counts as learning.
LEARNS = 0.5


class SweepPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    steps: int  # of each training
    seeds: int  # trainings of each cell of the grid
    deviations: tuple[float, ...] = (0.01, 0.1)  # of the initial weights
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


PLANS = {
    "smoke": SweepPlan(data="digits", steps=100, seeds=1, learning_rates=(1.0,)),
    "default": SweepPlan(data="mnist", steps=10_000, seeds=3),
    "full": SweepPlan(data="mnist", steps=50_000, seeds=5),
}


def _rounds(plan):
    """Train both networks with each initial deviation and learning rate.

    The measurements hold, for each network, the test accuracy after the last step as
    lists `(deviations, learning rates, seeds)`.

    Reference:
        Ioffe & Szegedy 2015, section 4.1 for the network, section 3.3 for the claim.
    """
    names = {
        (recipe, deviation, rate): f"{recipe}-{deviation:g}-{rate:g}"
        for deviation in plan.deviations
        for rate in plan.learning_rates
        for recipe in LABELS
    }
    trainings = {
        name: (
            _train,
            {
                "recipe": recipe,
                "data": plan.data,
                "deviation": deviation,
                "learning_rate": rate,
                "steps": plan.steps,
            },
        )
        for (recipe, deviation, rate), name in names.items()
    }
    cells = yield from measure_seeds(plan.seeds, trainings)
    return {
        "data": plan.data,
        "steps": plan.steps,
        "deviations": list(plan.deviations),
        "learning_rates": list(plan.learning_rates),
        "accuracy": {
            recipe: [
                [cells[names[recipe, deviation, rate]] for rate in plan.learning_rates]
                for deviation in plan.deviations
            ]
            for recipe in LABELS
        },
    }


def _train(directories, folder, recipe, seed, data, deviation, learning_rate, steps):
    """Train one network; return its test accuracy after the last step."""
    observations = observe_training(
        replace(RECIPES[recipe], seed=seed, learning_rate=learning_rate),
        load_binary(data, directories.get(data)),
        deviation,
        steps,
        every=steps,
    )
    return round_digits(observations.accuracy[-1])


def _plot(measurements):
    """Plot the grid of each network as a table of mean test accuracies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.9), layout="constrained")
    panels = figure.subplots(1, len(LABELS), sharey=True)
    image: Any = None
    for axes, (name, label) in zip(panels, LABELS.items(), strict=True):
        cells = 100 * np.mean(measurements["accuracy"][name], axis=-1)
        image = axes.imshow(cells, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(cells):
            color = "black" if value > 60 else "white"
            axes.text(
                column, row, f"{value:.1f}", ha="center", va="center", color=color
            )
        rates, deviations = measurements["learning_rates"], measurements["deviations"]
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_yticks(range(len(deviations)), [f"{value:g}" for value in deviations])
        axes.set(title=label, xlabel="learning rate")
    panels[0].set_ylabel("initial standard deviation")
    figure.colorbar(
        image,
        ax=panels,
        label=f"test accuracy (%)\nafter {measurements['steps']:,} steps",
    )
    return figure


def _rows(measurements):
    # `(deviations, learning rates, seeds)` with BN, then without.
    grids = [np.array(measurements["accuracy"][name]) for name in LABELS]
    rates = np.array(measurements["learning_rates"])
    # One value per seed each.
    learning = [(grid > LEARNS).sum(axis=(0, 1)) for grid in grids]
    gaps = [100 * np.ptp(grid, axis=0).mean(axis=0) for grid in grids]
    highest = [_highest_rate(grid, rates) for grid in grids]
    return [
        Row(
            "cells (learning rate, initial deviation) in which the network learns, of "
            f"{grids[0][..., 0].size}",
            "more with BN",
            with_and_without(*learning),
            verdict(learning[0] - learning[1]),
        ),
        Row(
            "gap in test accuracy between initial deviations, mean over rates (points)",
            "smaller with BN",
            with_and_without(*gaps),
            verdict(np.round(gaps[1] - gaps[0], 1)),
        ),
        Row(
            "highest learning rate, of those tried, with which the network learns",
            "higher with BN",
            with_and_without(*highest, digits=2),
            _compare_highest(*highest, limit=rates.max()),
        ),
    ]


def _highest_rate(grid, rates):
    """Return each seed's highest rate that works with some initial weights, or 0."""
    learns = (grid > LEARNS).any(axis=0)
    return (learns * rates[:, np.newaxis]).max(axis=0)


def _compare_highest(with_bn, without, limit):
    """Return the verdict; None if both networks learn with the highest rate tried."""
    if ((with_bn == limit) & (without == limit)).any():
        return None
    return verdict(with_bn - without)


EXPERIMENT = Experiment(
    "mnist-sweep",
    "MNIST: learning rates and initial weights with which each network learns",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
