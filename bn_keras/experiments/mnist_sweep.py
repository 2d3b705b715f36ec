"""Which initial weights and learning rates the MNIST network learns with."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bn_keras.experiments.drawing import add_caption, plot_grids
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import is_above, mean_interval
from bn_keras.experiments.mnist_training import LABELS, load_binary, observe_training
from bn_keras.experiments.rounding import round_digits
from bn_keras.experiments.rows import Row, count_seeds, with_and_without
from bn_keras.training.recipes import MLP, RECIPES

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
    figure = plot_grids(
        {label: measurements["accuracy"][name] for name, label in LABELS.items()},
        measurements["learning_rates"],
        measurements["deviations"],
        "initial standard deviation",
        f"test accuracy (%)\nafter {measurements['steps']:,} steps",
    )
    add_caption(
        figure,
        "Mean test accuracy in percent over "
        f"{count_seeds(len(measurements['accuracy'][MLP.name][0][0]))}; chance is 10.",
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
    n = count_seeds(grids[0].shape[-1])
    return [
        Row(
            "cells (learning rate, initial deviation) in which the network learns, of "
            f"{grids[0][..., 0].size}",
            "-",
            with_and_without(*learning),
            n,
        ),
        Row(
            "gap in test accuracy between initial deviations, mean over rates (points)",
            "smaller with BN",
            with_and_without(*gaps),
            n,
            is_above(mean_interval(gaps[1] - gaps[0]), 0),
            fact="initialization",
        ),
        Row(
            "highest learning rate, of those tried, with which the network learns",
            "higher with BN",
            with_and_without(*highest, digits=2),
            n,
            is_above(mean_interval(np.subtract(*highest)), 0),
            fact="rates",
        ),
    ]


def _highest_rate(grid, rates):
    """Return each seed's highest rate that works with some initial weights, or 0."""
    learns = (grid > LEARNS).any(axis=0)
    return (learns * rates[:, np.newaxis]).max(axis=0)


def _setup(plan):
    return {"data": plan.data, "hidden units": "3 x 100 sigmoid", "steps": plan.steps}


EXPERIMENT = Experiment(
    "mnist-sweep",
    "MNIST: learning rates and initial weights with which each network learns",
    PLANS,
    _rounds,
    _rows,
    _plot,
    _setup,
)
