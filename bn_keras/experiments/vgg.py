"""The second paper's figure 1: VGG with and without BN, training and test accuracy."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.answers import unpack_answers
from bn_keras.experiments.drawing import STYLES, add_caption, draw_seeds
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import (
    Interval,
    accuracy_interval,
    is_above,
    mean_interval,
)
from bn_keras.experiments.rows import (
    Row,
    count_seeds,
    mean_and_range,
    with_and_without,
    with_interval,
)
from bn_keras.experiments.vgg_training import BATCH_SIZE, train_and_test

_LABELS = {"bn": "With BN", "none": "Without BN"}
# The rates of the figure.
_RATE, _HIGH_RATE = 0.1, 0.5
# Below this training accuracy, twice that of ten equal guesses, a network is at chance.
_CHANCE = 0.2


class VggPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    depth: int  # weight layers of the VGG
    width: float  # factor of its channels
    steps: int  # of each training
    every: int  # steps between two points of a curve
    rates: tuple[float, ...]
    seeds: int  # trainings of each network at each rate


_DEFAULT = VggPlan(
    data="cifar10",
    depth=16,
    width=1 / 8,
    steps=3000,
    every=150,
    # The figure's, and the lower one of `landscape`.
    rates=(0.01, _RATE, _HIGH_RATE),
    seeds=3,
)
PLANS = {
    "smoke": VggPlan("digits", 11, 1 / 32, 4, 2, (_RATE, _HIGH_RATE), 1),
    "default": _DEFAULT,
    "full": _DEFAULT._replace(width=1, steps=15000, every=150),
}


def _rounds(plan):
    """Train VGG with and without BN at each rate.

    In the measurements, `"results"` is a dict from `"bn"` or `"none"` to a dict from
    the rate to what `bn_keras.experiments.vgg_training.train_and_test` returned for
    each seed.

    Reference:
        Santurkar et al. 2018, figure 1a and b, appendix A.
    """
    sizes = plan._asdict()
    for name in ("rates", "seeds"):
        del sizes[name]
    trainings = {
        f"{network}-{rate:g}": (
            train_and_test,
            {
                "batch_normalization": network == "bn",
                "rate": rate,
                "initial_scale": 1.0,
                "test": True,
                **sizes,
            },
        )
        for rate in plan.rates
        for network in _LABELS
    }
    results = yield from measure_seeds(plan.seeds, trainings)
    rates = [f"{rate:g}" for rate in plan.rates]
    return {
        "results": {
            network: {rate: results[f"{network}-{rate}"] for rate in rates}
            for network in _LABELS
        },
    }


def _rows(measurements):
    results = measurements["results"]
    table = []
    for rate, bn in results["bn"].items():
        none = results["none"][rate]
        suffix = {_RATE: "", _HIGH_RATE: "-high"}.get(float(rate))
        fact = "" if suffix is None else f"vgg-trains{suffix}"
        table += [
            _row_of_training(rate, bn, none, fact),
            _row_of_end(rate, none, "vgg-chance" if suffix == "-high" else ""),
            _row_of_test(rate, bn, none, "vgg-test" if suffix == "" else ""),
        ]
    return table


def _row_of_training(rate, bn, none, fact):
    """Compare the area under the training curves, which is larger if it rises first."""
    with_bn, without = (
        [100 * np.mean(seed["accuracy"]) for seed in of] for of in (bn, none)
    )
    gain = mean_interval(np.subtract(with_bn, without))
    return Row(
        f"rate {rate}: training accuracy, mean over all steps (%)",
        "trains faster with BN" if fact else "-",
        f"{with_and_without(with_bn, without)}; difference {with_interval(gain)}",
        count_seeds(len(bn)),
        is_above(gain, 0) if fact else None,
        fact=fact,
    )


def _row_of_end(rate, none, fact):
    last = np.array([seed["accuracy"][-1] for seed in none])
    return Row(
        f"rate {rate}: training accuracy at the end, without BN (%)",
        f"at chance (here: below {100 * _CHANCE:g})" if fact else "-",
        mean_and_range(last, 100),
        count_seeds(len(none)),
        is_above(mean_interval(-last), -_CHANCE) if fact else None,
        fact=fact,
    )


def _row_of_test(rate, bn, none, fact):
    images = bn[0]["images"]
    with_bn, without = (
        unpack_answers([seed["correct"] for seed in of], images) for of in (bn, none)
    )
    gain = accuracy_interval(with_bn, without)
    points = Interval(*(100 * value for value in gain))
    return Row(
        f"rate {rate}: test accuracy at the end (%)",
        "higher with BN: 83, 80 without" if fact else "-",
        f"{with_and_without(100 * with_bn.mean(1), 100 * without.mean(1))}; "
        f"difference {with_interval(points)}",
        count_seeds(len(bn), f"{images:,} pictures"),
        is_above(gain, 0) if fact else None,
        fact=fact,
    )


def _plot(measurements):
    """Plot training and test accuracy against steps, one column per rate."""
    from matplotlib.figure import Figure

    results, plan = measurements["results"], measurements["plan"]
    rates = list(results["bn"])
    figure = Figure(figsize=(1 + 3.6 * len(rates), 6.4), layout="constrained")
    grid = figure.subplots(2, len(rates), sharex=True, sharey=True, squeeze=False)
    kinds = {"accuracy": "training accuracy (%)", "test": "test accuracy (%)"}
    for column, rate in enumerate(rates):
        grid[0, column].set_title(f"rate {rate}")
        grid[1, column].set_xlabel(f"steps of {BATCH_SIZE} pictures")
        for axes, (kind, label) in zip(grid[:, column], kinds.items(), strict=True):
            for network in _LABELS:
                seeds = results[network][rate]
                curves = 100 * np.array([seed[kind] for seed in seeds])
                steps = plan["every"] * np.arange(1, curves.shape[1] + 1)
                draw_seeds(axes, steps, curves, STYLES[network], _LABELS[network])
            axes.set_ylim(0, 100)
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(label)
    grid[0, 0].legend(fontsize="small")
    add_caption(
        figure,
        f"VGG-{plan['depth']}, width {plan['width']:g}, on {plan['data']}, no "
        "augmentation. Training accuracy: on the mini-batches, mean of "
        f"{plan['every']} steps. Lines: mean over {count_seeds(plan['seeds'])}; bands: "
        "their range. Chance is 10%.",
    )
    return figure


def _setup(plan):
    return {
        "data": plan.data,
        "convolutions": plan.depth - 3,
        "width": plan.width,
        "augmentation": "none",
        "initialization": "Glorot",
        "batch": BATCH_SIZE,
        "rate": _RATE,
        "other rate": max(plan.rates),
        "steps": plan.steps,
    }


EXPERIMENT = Experiment(
    "vgg",
    "VGG with and without BN: training and test accuracy",
    PLANS,
    _rounds,
    _rows,
    _plot,
    _setup,
    {"width": "fits two CPU cores", "steps": "fits two CPU cores"},
)
