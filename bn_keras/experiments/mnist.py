"""Figure 1: binary MNIST with and without BN, accuracy and the inputs of a sigmoid."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.mnist_training import (
    LABELS,
    PERCENTILES,
    load_binary,
    observe_training,
)
from bn_keras.experiments.rows import Row, round_digits, verdict, with_and_without
from bn_keras.training.recipes import BN_MLP, MLP, RECIPES

_STYLES = {BN_MLP.name: "-", MLP.name: "--"}


class MnistPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    steps: int  # of each training
    every: int  # steps between two observations of the network
    seeds: int  # trainings of each network
    deviation: float = 0.01  # standard deviation of the initial weights


PLANS = {
    "smoke": MnistPlan(data="digits", steps=200, every=50, seeds=1),
    "default": MnistPlan(data="mnist", steps=50_000, every=250, seeds=5),
    "full": MnistPlan(data="mnist", steps=50_000, every=250, seeds=20),
}


def drift(percentiles: Any) -> Any:
    """Return how far a distribution moves during a training, in units of its width.

    It is the standard deviation over the observations of each percentile `q_p`,
    averaged over the three percentiles, divided by the mean over the observations of
    `q_85 - q_15`. It is 0 if the distribution stays the same; at 1 the distribution is
    typically its own width away from its average position. All observations count,
    including the first. Since what follows a sigmoid can adapt to any constant scale
    and offset of its input, the measure is relative to the width, and the same for
    `a * input + b`.

    Args:
        percentiles: The 15th, 50th and 85th percentile of the input at each
            observation, `(observations, 3)` or `(observations, 3, units)`.

    Returns:
        A number, or an array of shape `(units,)`.

    Example:
    ```python
    from bn_keras.experiments.mnist import drift

    assert drift([[-1, 0, 1], [-1, 0, 1]]) == 0
    assert drift([[-1, 0, 1], [3, 4, 5]]) == 1  # by twice its width of 2
    ```
    """
    percentiles = np.asarray(percentiles, np.float64)
    movement = percentiles.std(axis=0).mean(axis=0)
    return movement / (percentiles[:, 2] - percentiles[:, 0]).mean(axis=0)


def median_unit(drifts: Any) -> int:
    """Return the unit with the median drift; of two in the middle, the lower drift.

    Args:
        drifts: The drift of each unit, `(units,)`.
    """
    return int(np.argsort(drifts, kind="stable")[(len(drifts) - 1) // 2])


def _rounds(plan):
    """Train the network with and without BN.

    The measurements hold, for each network, the accuracy of each seed at each
    observation, the drift of each seed's typical unit, and that unit's percentiles for
    the first seed.

    Reference:
        Ioffe & Szegedy 2015, section 4.1, figure 1.
    """
    sizes = plan._asdict()
    del sizes["seeds"]
    trainings = yield from measure_seeds(
        plan.seeds, {name: (_train, {"recipe": name, **sizes}) for name in LABELS}
    )
    networks = {
        name: {
            "accuracy": round_digits([training["accuracy"] for training in seeds]),
            "drift": round_digits([training["drift"] for training in seeds]),
            "unit": seeds[0]["unit"],
            "percentiles": round_digits(seeds[0]["percentiles"]),
        }
        for name, seeds in trainings.items()
    }
    return {
        "data": plan.data,
        "deviation": plan.deviation,
        "learning_rate": MLP.learning_rate,
        "steps": list(range(plan.every, plan.steps + 1, plan.every)),
        "networks": networks,
    }


def _train(directories, folder, recipe, seed, data, steps, every, deviation):
    """Train one network; return its accuracy and the inputs of its typical sigmoid."""
    observations = observe_training(
        replace(RECIPES[recipe], seed=seed),
        load_binary(data, directories.get(data)),
        deviation,
        steps,
        every,
    )
    drifts = drift(observations.percentiles)
    unit = median_unit(drifts)
    return {
        "accuracy": observations.accuracy.tolist(),
        "drift": float(drifts[unit]),
        "unit": unit,
        "percentiles": observations.percentiles[:, :, unit].tolist(),
    }


def _plot(measurements):
    """Plot figures 1a, b and c."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    accuracy, without, with_bn = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    without.sharey(with_bn)
    steps = np.array(measurements["steps"]) / 1000
    networks = measurements["networks"]
    for name, label in LABELS.items():
        draw_seeds(accuracy, steps, networks[name]["accuracy"], _STYLES[name], label)
    # The paper's axis, unless a whole curve would be below it, as after a few steps.
    visible = all(np.max(networks[name]["accuracy"]) > 0.7 for name in LABELS)
    accuracy.set(
        title="(a) Test accuracy", xlim=(0, None), ylim=(0.7 if visible else 0, 1)
    )
    accuracy.legend(loc="lower right")
    for axes, letter, name in ((without, "b", MLP.name), (with_bn, "c", BN_MLP.name)):
        percentiles = np.array(networks[name]["percentiles"])
        # The highest first, so that the legend has the order of the lines.
        for index in reversed(range(len(PERCENTILES))):
            axes.plot(
                steps,
                percentiles[:, index],
                _STYLES[name],
                linewidth=1,
                label=f"{PERCENTILES[index]}th percentile",
            )
        axes.set(title=f"({letter}) {LABELS[name]}", xlim=(0, None))
    without.set_ylabel("input of a typical sigmoid")
    with_bn.legend(loc="best", fontsize="small")
    for axes in (accuracy, without, with_bn):
        axes.set_xlabel("steps (thousands)")
        axes.grid(alpha=0.3)
    return figure


def _rows(measurements):
    steps = np.array(measurements["steps"])
    networks = [measurements["networks"][name] for name in LABELS]
    # With BN, then without; `(seeds, observations)` in percent.
    with_bn, without = (100 * np.array(network["accuracy"]) for network in networks)
    best = with_bn.max(axis=1), without.max(axis=1)
    last = with_bn[:, -1], without[:, -1]
    return [
        _row_of_steps(steps, with_bn, without),
        Row(
            "best test accuracy (%)",
            "higher with BN",
            with_and_without(*best),
            verdict(np.subtract(*best).round(2)),
        ),
        Row(
            "test accuracy after the last step (%)",
            "higher with BN",
            with_and_without(*last),
            verdict(np.subtract(*last).round(2)),
        ),
        _row_of_drift(*(network["drift"] for network in networks)),
    ]


def _row_of_steps(steps, with_bn, without):
    """Compare the steps to the best accuracy of the network without BN."""
    reached = [int(steps[np.argmax(accuracy)]) for accuracy in without]
    exceeded = [
        int(steps[np.argmax(above)])
        for accuracy, other in zip(with_bn, without, strict=True)
        if (above := accuracy > max(other)).any()
    ]
    failed = len(reached) - len(exceeded)
    if failed:
        measured = f"not exceeded in {failed} of {len(reached)} trainings"
    else:
        measured = with_and_without(exceeded, reached, digits=0)
    return Row(
        "steps to exceed (with BN) or reach (without) the best accuracy without BN",
        "fewer with BN",
        measured,
        False if failed else verdict(np.subtract(reached, exceeded)),
    )


def _row_of_drift(with_bn, without):
    return Row(
        "drift of a typical sigmoid's input, in widths of its distribution",
        "more stable with BN",
        with_and_without(with_bn, without, digits=3),
        # NaN, which decides nothing, if a training diverged.
        verdict(np.subtract(without, with_bn).round(3)),
    )


EXPERIMENT = Experiment(
    "mnist", "Figure 1: MNIST with and without BN", PLANS, _rounds, _rows, _plot
)
