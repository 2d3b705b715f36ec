"""Which initial weights and learning rates the MNIST network learns with.

Knows the grid and its table; not how one network is trained.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.mnist_training import LABELS, follow, load_binary
from bn_keras.experiments.parts import Part, check_scale, measure
from bn_keras.experiments.rows import Row, rounded, verdict, with_and_without
from bn_keras.training.recipes import RECIPES

TITLE = "MNIST: where each network learns at all"
REMARK = """\
The paper has no such table; it says that with BN the learning rate may be much higher \
and the initial weights chosen with less care. Network, images and mini-batches are \
those of figure 1. A network counts as learning where over half of the test images are \
right after the last step; chance is a tenth. The table shows means over the seeds.\
"""
OUTCOME = """\
With BN every cell learns, in every seed. Without it, small initial weights need a \
rate of 0.3 at least; below, the network stays at chance. The higher rate is not \
decided here: both networks learn with the highest one tried, 3, likely since sigmoids \
bound what each layer hands on.

Where the rate is 1 and the initial weights are of deviation 0.1, the network without \
BN comes close to the one with it: part of the distance in figure 1 is the small \
initial weights'. A cell has a fifth of figure 1's 50,000 steps.\
"""
# Of the test images, for a network to count as learning: chance is 0.1.
LEARNS = 0.5


class Plan(NamedTuple):
    """The sizes of a scale.

    Args:
        data: name of the data set.
        steps: of each training.
        seeds: trainings of each cell.
        deviations: standard deviations of the initial weights.
        learning_rates: of gradient descent.
    """

    data: str
    steps: int
    seeds: int
    deviations: tuple[float, ...] = (0.01, 0.1)
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


PLANS = {
    "smoke": Plan(data="digits", steps=100, seeds=1, learning_rates=(1.0,)),
    "default": Plan(data="mnist", steps=10_000, seeds=3),
    "full": Plan(data="mnist", steps=50_000, seeds=5),
}


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train both networks at each initial deviation and learning rate.

    Args:
        workdir: folder for what each training gave, so that a run that was killed goes
            on; None keeps nothing.
        scale: a key of `PLANS`.
        directories: dict from a data set's name to the folder of its files.
        jobs: trainings side by side.
        on_part: called as `on_part(name, done, total)` after each training.

    Returns:
        A dict; its `accuracy` has for each network, by recipe, the test accuracy after
        the last step as lists `(deviations, learning rates, seeds)`.

    Raises:
        ValueError: for an unknown scale.

    Reference:
        Ioffe & Szegedy 2015, section 4.1, for the network; 3.3 for the claim.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]

    def part(seed, name, deviation, rate):
        arguments = {
            "recipe": name,
            "seed": seed,
            "data": plan.data,
            "deviation": deviation,
            "learning_rate": rate,
            "steps": plan.steps,
        }
        return Part(f"{name}-{deviation:g}-{rate:g}-seed{seed}", _train, arguments)

    parts = {
        (seed, name, deviation, rate): part(seed, name, deviation, rate)
        for seed in range(plan.seeds)
        for deviation in plan.deviations
        for rate in plan.learning_rates
        for name in LABELS
    }
    measured = measure(list(parts.values()), workdir, directories, jobs, on_part)
    accuracy = {
        name: [
            [
                [
                    measured.results[parts[seed, name, deviation, rate].name]
                    for seed in range(plan.seeds)
                ]
                for rate in plan.learning_rates
            ]
            for deviation in plan.deviations
        ]
        for name in LABELS
    }
    return {
        "scale": scale,
        "seconds": measured.seconds,
        "data": plan.data,
        "steps": plan.steps,
        "deviations": list(plan.deviations),
        "learning_rates": list(plan.learning_rates),
        "accuracy": accuracy,
    }


def _train(directories, folder, recipe, seed, data, deviation, learning_rate, steps):
    """One training: its test accuracy after the last step."""
    course = follow(
        replace(RECIPES[recipe], seed=seed, learning_rate=learning_rate),
        load_binary(data, directories.get(data)),
        deviation,
        steps,
        every=steps,
    )
    return rounded(course.accuracy[-1])


def plot(measurements):
    """Test accuracy in each cell, its mean over the seeds; a panel for each network.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`.
    """
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


def rows(measurements):
    """What the paper says of rates and initial weights, beside what was measured.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `Row`.
    """
    # Deviations, learning rates, seeds.
    cells = [np.array(measurements["accuracy"][name]) for name in LABELS]
    learning, gaps, rates = (
        [of(found) for found in cells]
        for of in (
            lambda found: (found > LEARNS).sum(axis=(0, 1)),
            lambda found: 100 * np.ptp(found, axis=0).mean(axis=0),
            lambda found: _highest(found, measurements["learning_rates"]),
        )
    )
    size = cells[0][..., 0].size
    return [
        Row(
            f"cells of rate and initial deviation that a network learns in, of {size}",
            "more with BN",
            with_and_without(*learning),
            verdict(learning[0] - learning[1]),
        ),
        Row(
            "points of test accuracy between initial deviations, mean over rates",
            "smaller with BN",
            with_and_without(*gaps),
            verdict(np.round(gaps[1] - gaps[0], 1)),
        ),
        Row(
            "highest learning rate of those tried that a network still learns with",
            "higher with BN",
            with_and_without(*rates, digits=2),
            _beyond(*rates, highest=max(measurements["learning_rates"])),
        ),
    ]


def _highest(found, learning_rates):
    """The highest rate with which any initial weights learn, or 0; one a seed."""
    learns = (found > LEARNS).any(axis=0)
    return (learns * np.array(learning_rates)[:, np.newaxis]).max(axis=0)


def _beyond(with_bn, without, highest):
    """Whether BN's rate is higher; where both learn with all, nothing decides it."""
    if ((with_bn == highest) & (without == highest)).any():
        return None
    return verdict(with_bn - without)
