"""Which initial weights and learning rates VGG learns with, with and without BN."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.drawing import add_caption, plot_grids
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import is_above, mean_interval
from bn_keras.experiments.rows import Row, count_seeds, with_and_without
from bn_keras.experiments.vgg_training import train_and_test

_LABELS = {"bn": "With BN", "none": "Without BN"}
# The training accuracy above which a network counts as learning: twice chance.
_LEARNS = 0.2


class VggSweepPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    depth: int  # weight layers of the VGG
    width: float  # factor of its channels
    steps: int  # of each training
    every: int  # last steps whose training accuracy is measured
    scales: tuple[float, ...]  # factors of Glorot's kernels; with 2^0.5 they are He's
    rates: tuple[float, ...]
    seeds: int  # trainings of each cell


_DEFAULT = VggSweepPlan(
    data="cifar10",
    depth=16,
    width=1 / 8,
    steps=400,
    every=100,
    scales=(0.5, 1.0, 2**0.5, 2.0),
    rates=(0.01, 0.03, 0.1, 0.3, 1.0),
    seeds=3,
)
PLANS = {
    "smoke": VggSweepPlan("digits", 11, 1 / 32, 4, 2, (1.0, 2.0), (0.1,), 1),
    "default": _DEFAULT,
    "full": _DEFAULT._replace(
        width=1,
        steps=15000,
        scales=(0.5, 2**-0.5, 1.0, 2**0.5, 2.0),
        rates=(0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0),
    ),
}


def _rounds(plan):
    """Train VGG with and without BN from each initial scale at each rate.

    The measurements hold, as `"accuracy"`, a dict from `"bn"` or `"none"` to the
    accuracies on the last training mini-batches, `(scales, rates, seeds)`.

    Reference:
        Santurkar et al. 2018, sections 3 and 3.1.
    """
    sizes = plan._asdict()
    for name in ("scales", "rates", "seeds"):
        del sizes[name]
    cells = {
        (network, scale, rate): f"{network}-{scale:.3g}-{rate:g}"
        for scale in plan.scales
        for rate in plan.rates
        for network in _LABELS
    }
    trainings = {
        name: (
            train_and_test,
            {
                "batch_normalization": network == "bn",
                "rate": rate,
                "initial_scale": scale,
                "test": False,
                **sizes,
            },
        )
        for (network, scale, rate), name in cells.items()
    }
    results = yield from measure_seeds(plan.seeds, trainings)
    last = {
        cell: [seed["accuracy"][-1] for seed in results[name]]
        for cell, name in cells.items()
    }
    return {
        "accuracy": {
            network: [
                [last[network, scale, rate] for rate in plan.rates]
                for scale in plan.scales
            ]
            for network in _LABELS
        },
    }


def _rows(measurements):
    plan = measurements["plan"]
    # `(scales, rates, seeds)` with BN, then without.
    grids = [np.array(measurements["accuracy"][name]) for name in _LABELS]
    learns = [grid > _LEARNS for grid in grids]
    # One value per seed each.
    rates = [of.any(axis=0).sum(axis=0) for of in learns]
    scales = [of.any(axis=1).sum(axis=0) for of in learns]
    cells = [of.sum(axis=(0, 1)) for of in learns]
    best = [100 * grid.max(axis=(0, 1)) for grid in grids]
    n = count_seeds(plan["seeds"])
    return [
        Row(
            f"learning rates, of {len(plan['rates'])}, with which the network learns "
            "from some initial weights",
            "more with BN",
            with_and_without(*rates),
            n,
            is_above(mean_interval(rates[0] - rates[1]), 0),
            fact="vgg-rates",
        ),
        Row(
            f"scales of the initial weights, of {len(plan['scales'])}, with which it "
            "learns at some rate",
            "more with BN",
            with_and_without(*scales),
            n,
            is_above(mean_interval(scales[0] - scales[1]), 0),
            fact="vgg-initialization",
        ),
        Row(
            f"cells, of {len(plan['rates']) * len(plan['scales'])}, in which it learns",
            "-",
            with_and_without(*cells),
            n,
        ),
        Row("training accuracy in the best cell (%)", "-", with_and_without(*best), n),
    ]


def _plot(measurements):
    """Plot the grid of each network as a table of mean training accuracies."""
    plan = measurements["plan"]
    figure = plot_grids(
        {label: measurements["accuracy"][name] for name, label in _LABELS.items()},
        plan["rates"],
        plan["scales"],
        "initial weights / Glorot's",
        f"training accuracy (%)\nlast {plan['every']} of {plan['steps']:,} steps",
    )
    add_caption(
        figure,
        f"VGG-{plan['depth']}, width {plan['width']:g}, on {plan['data']}, no "
        f"augmentation. Mean over {count_seeds(plan['seeds'])}; chance is 10. He's "
        "initial weights are 1.41 times Glorot's.",
    )
    return figure


EXPERIMENT = Experiment(
    "vgg-sweep",
    "VGG: learning rates and initial weights with which each network learns",
    PLANS,
    _rounds,
    _rows,
    _plot,
    # The paper states no set-up for these claims.
    lambda plan: {},
)
