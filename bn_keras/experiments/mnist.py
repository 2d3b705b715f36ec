"""Figure 1: binary MNIST with and without BN, accuracy and the inputs of a sigmoid."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.answers import unpack_answers
from bn_keras.experiments.drawing import (
    ORANGE,
    SKY,
    STYLES,
    VERMILION,
    add_caption,
    draw_line,
    draw_seeds,
)
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import (
    NO,
    Interval,
    accuracy_interval,
    is_above,
    mean_interval,
    ratio_interval,
)
from bn_keras.experiments.mnist_summary import train_and_summarize
from bn_keras.experiments.mnist_training import (
    LABELS,
    PERCENTILES,
)
from bn_keras.experiments.rounding import round_digits
from bn_keras.experiments.rows import (
    Row,
    count_seeds,
    mean_and_range,
    with_and_without,
    with_interval,
)
from bn_keras.training.recipes import BN_MLP, MLP

# The percentiles of a panel, from the highest, with their colors.
_PERCENTILE_COLORS = (SKY, VERMILION, ORANGE)
# The second comparison, in which the network without BN is at its best in the sweep
# over rates and initial weights (`mnist-sweep`).
_TUNED = {"deviation": 0.1, "learning_rate": 1.0}


class MnistPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    steps: int  # of each training
    every: int  # steps between two observations of the network
    seeds: int  # trainings of each network
    tuned_seeds: int  # trainings of each in the second comparison
    deviation: float = 0.01  # standard deviation of the initial weights


PLANS = {
    "smoke": MnistPlan(data="digits", steps=200, every=50, seeds=1, tuned_seeds=1),
    "default": MnistPlan(data="mnist", steps=50_000, every=250, seeds=5, tuned_seeds=5),
    "full": MnistPlan(data="mnist", steps=50_000, every=250, seeds=20, tuned_seeds=20),
}


def _rounds(plan):
    """Train the network with and without BN.

    The measurements hold, for each network, the accuracy of each seed at each
    observation, the drift of each seed's typical unit, and that unit's percentiles for
    the first seed.

    Reference:
        Ioffe & Szegedy 2015, section 4.1, figure 1.
    """
    sizes = {
        "data": plan.data,
        "steps": plan.steps,
        "every": plan.every,
        "deviation": plan.deviation,
        "learning_rate": MLP.learning_rate,
    }
    trainings = yield from measure_seeds(
        plan.seeds,
        {name: (train_and_summarize, {"recipe": name, **sizes}) for name in LABELS},
    )
    tuned = yield from measure_seeds(
        plan.tuned_seeds,
        {
            f"{name}-tuned": (train_and_summarize, {"recipe": name, **sizes, **_TUNED})
            for name in LABELS
        },
    )
    networks = {
        name: {
            "accuracy": round_digits([training["accuracy"] for training in seeds]),
            "drift": round_digits([training["drift"] for training in seeds]),
            "unit": seeds[0]["unit"],
            "percentiles": round_digits(seeds[0]["percentiles"]),
            "correct": [training["correct"] for training in seeds],
        }
        for name, seeds in trainings.items()
    }
    return {
        "data": plan.data,
        "images": trainings[MLP.name][0]["images"],
        "deviation": plan.deviation,
        "learning_rate": MLP.learning_rate,
        "steps": list(range(plan.every, plan.steps + 1, plan.every)),
        "networks": networks,
        "tuned": {
            **_TUNED,
            "accuracy": {
                name: round_digits([of["accuracy"] for of in tuned[f"{name}-tuned"]])
                for name in LABELS
            },
            "correct": {
                name: [of["correct"] for of in tuned[f"{name}-tuned"]]
                for name in LABELS
            },
        },
    }


def _plot(measurements):
    """Plot figures 1a, b and c, and 1a with the baseline at its best."""
    from matplotlib.figure import Figure

    networks = measurements["networks"]
    # Each comparison: its rate, its deviation, and the accuracies of its networks.
    comparisons = [
        {
            **measurements,
            "accuracy": {name: networks[name]["accuracy"] for name in LABELS},
        },
        *([measurements["tuned"]] if "tuned" in measurements else []),
    ]
    count = len(comparisons)
    figure = Figure(figsize=(7 + 2 * count, 4.2), layout="constrained")
    panels = figure.subplots(1, count + 2, width_ratios=[1.4] * count + [1, 1])
    *accuracies, without, with_bn = panels
    without.sharey(with_bn)
    steps = np.array(measurements["steps"]) / 1000
    # The paper's axis, unless a whole curve would be below it, as after a few steps.
    visible = all(np.max(networks[name]["accuracy"]) > 0.7 for name in LABELS)
    limits = {"xlim": (0, None), "ylim": (0.7 if visible else 0, 1)}
    for axes, comparison in zip(accuracies, comparisons, strict=True):
        for name, label in LABELS.items():
            curves = comparison["accuracy"][name]
            draw_seeds(axes, steps, curves, STYLES[name], label)
        rate, deviation = (comparison[key] for key in ("learning_rate", "deviation"))
        axes.set(title=f"(a) rate {rate:g}, deviation {deviation:g}", **limits)
        axes.legend(loc="lower right", fontsize="small")
    accuracies[0].set_ylabel("test accuracy")
    for axes, letter, name in ((without, "b", MLP.name), (with_bn, "c", BN_MLP.name)):
        percentiles = np.array(networks[name]["percentiles"])
        # The highest first, so that the legend has the order of the lines.
        for index, color in zip((2, 1, 0), _PERCENTILE_COLORS, strict=True):
            draw_line(
                axes,
                steps,
                percentiles[:, index],
                STYLES[name]._replace(color=color),
                f"{PERCENTILES[index]}th percentile",
            )
        axes.set(title=f"({letter}) {LABELS[name]}", xlim=(0, None))
    without.set_ylabel("input of a typical sigmoid")
    with_bn.legend(loc="best", fontsize="small")
    for axes in panels:
        axes.set_xlabel("steps (thousands)")
        axes.grid(alpha=0.3)
    seeds = len(networks[MLP.name]["accuracy"])
    second = "Second: those at which it was best in a sweep. " if count > 1 else ""
    add_caption(
        figure,
        "Test accuracy: mean of "
        f"{count_seeds(seeds)}, the band is their range. Left: the rate and the "
        "initial weights chosen for figure 1, at which the network without BN is not "
        f"tuned. {second}(b), (c): percentiles over the test images of the input of "
        "the sigmoid with the median drift, first seed, for the set-up on the left.",
    )
    return figure


def _rows(measurements):
    steps = np.array(measurements["steps"])
    networks = [measurements["networks"][name] for name in LABELS]
    # With BN, then without; `(seeds, observations)` in percent.
    with_bn, without = (100 * np.array(network["accuracy"]) for network in networks)
    table = [
        _row_of_steps(steps, with_bn, without, "mnist-faster"),
        _row_of_accuracy("baseline not tuned", networks, "mnist-higher", measurements),
        _row_of_drift(*(network["drift"] for network in networks)),
    ]
    # A result of an older version has one comparison only.
    if tuned := measurements.get("tuned"):
        best = [
            {key: tuned[key][name] for key in ("accuracy", "correct")}
            for name in LABELS
        ]
        where = f"rate {tuned['learning_rate']:g}, deviation {tuned['deviation']:g}"
        where = f"baseline at its best ({where})"
        tuned_bn, tuned_none = (100 * np.array(of["accuracy"]) for of in best)
        table += [
            _row_of_accuracy(where, best, "", measurements),
            _row_of_steps(steps, tuned_bn, tuned_none, ""),
        ]
    return table


def _row_of_accuracy(where, networks, fact, measurements):
    # With BN, then without; one value per seed.
    last = [[accuracy[-1] for accuracy in of["accuracy"]] for of in networks]
    n = count_seeds(len(last[0]))
    if "images" in measurements:
        images = measurements["images"]
        answers = [unpack_answers(network["correct"], images) for network in networks]
        gain, n = accuracy_interval(*answers), f"{n}, {images:,} pictures"
    else:
        gain = mean_interval(np.subtract(last[0], last[1]))
    points = Interval(*(100 * value for value in gain))
    return Row(
        f"test accuracy after the last step (%), {where}",
        "higher with BN" if fact else "-",
        f"{with_and_without(100 * np.array(last[0]), 100 * np.array(last[1]))}; "
        f"difference {with_interval(points, 2)}",
        n,
        is_above(gain, 0) if fact else None,
        fact=fact,
    )


def _row_of_steps(steps, with_bn, without, fact):
    """Compare the steps to the best accuracy of the network without BN."""
    reached = [int(steps[np.argmax(accuracy)]) for accuracy in without]
    exceeded = [
        int(steps[np.argmax(above)])
        for accuracy, other in zip(with_bn, without, strict=True)
        if (above := accuracy > max(other)).any()
    ]
    where = "" if fact else ", baseline at its best"
    failed = len(reached) - len(exceeded)
    speedup = None if failed else ratio_interval(reached, exceeded)
    if speedup is None:
        measured = f"not exceeded in {failed} of {len(reached)} trainings"
    else:
        measured = (
            f"{mean_and_range(exceeded, digits=0)} with BN, "
            f"{mean_and_range(reached, digits=0)} without: "
            f"{with_interval(speedup, unit=' times')}"
        )
    return Row(
        f"steps to exceed the best accuracy without BN{where}",
        "fewer with BN" if fact else "-",
        measured,
        count_seeds(len(reached)),
        _is_faster(speedup) if fact else None,
        fact=fact,
    )


def _is_faster(speedup):
    return NO if speedup is None else is_above(speedup, 1)


def _row_of_drift(with_bn, without):
    ratio = ratio_interval(without, with_bn)
    return Row(
        "drift of a typical sigmoid's input, in widths of its distribution",
        "more stable with BN",
        f"{with_and_without(with_bn, without, digits=3)}: "
        f"{with_interval(ratio, unit=' times as large without')}",
        count_seeds(len(with_bn)),
        # NaN, which decides nothing, if a training diverged.
        is_above(ratio, 1),
        fact="mnist-stable",
    )


def _setup(plan):
    return {
        "data": plan.data,
        "steps": plan.steps,
        "batch": MLP.batch_size,
        "hidden units": "3 x 100 sigmoid",
    }


EXPERIMENT = Experiment(
    "mnist",
    "Figure 1: MNIST with and without BN",
    PLANS,
    _rounds,
    _rows,
    _plot,
    _setup,
)
