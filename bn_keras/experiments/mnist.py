"""Figure 1: binary MNIST with and without BN, its accuracy and a sigmoid's inputs.

Knows what is compared and drawn; not how one network is trained, nor the sweep of
learning rates.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.mnist_training import LABELS, PERCENTILES, follow, load_binary
from bn_keras.experiments.parts import Part, check_scale, measure
from bn_keras.experiments.rows import Row, rounded, verdict, with_and_without
from bn_keras.training.recipes import BN_MLP, MLP, RECIPES

TITLE = "Figure 1: MNIST with and without BN"
REMARK = """\
The paper states neither the learning rate nor the deviation of the initial weights. \
Chosen: plain gradient descent of rate 0.5, Gaussian weights of standard deviation \
0.01 in all layers, pixels rounded at 0.5. Accuracy and percentiles are over all test \
images in inference mode; moving averages of momentum 0.9 stand for the population \
statistics, as longer ones lag behind weights that move this fast.

The typical sigmoid is, of the last hidden layer's 100, the one whose drift is the \
median; its input is BN's output y, or Wu + b without BN. (b) and (c) show the first \
seed.\
"""
OUTCOME = """\
All claims of the figure hold for every seed. At the end the networks are 1.3 points \
apart, best against best 1.4. The accuracy with BN still moves by some tenths of a \
point from one look to the next, as the rate is never lowered; with one seed, \
statistics pooled over 10,000 training images instead of the moving averages changed \
its mean over the last 20 looks by 0.01 points.

With BN the inputs are not quite as still as in the paper's figure: their centre \
stays, but the learned gamma widens their distribution for as long as the training \
lasts. Without BN they move most while the network begins to learn.

How far the networks are apart depends on the initial weights, which the paper leaves \
open: see the sweep.\
"""

_STYLES = {BN_MLP.name: "-", MLP.name: "--"}


class Plan(NamedTuple):
    """The sizes of a scale.

    Args:
        data: name of the data set.
        steps: of each training.
        every: steps from one look at the network to the next.
        seeds: trainings of each network.
        deviation: standard deviation of the initial weights.
    """

    data: str
    steps: int
    every: int
    seeds: int
    deviation: float = 0.01


PLANS = {
    "smoke": Plan(data="digits", steps=200, every=50, seeds=1),
    "default": Plan(data="mnist", steps=50_000, every=250, seeds=5),
    "full": Plan(data="mnist", steps=50_000, every=250, seeds=20),
}


def drift(percentiles):
    """How far a distribution wanders during a training, in units of its own width.

    The standard deviation over the looks of each percentile `q_p`, averaged over the
    three, divided by the mean over the looks of `q_85 - q_15`. It is 0 for inputs that
    keep their distribution; at 1 the distribution typically stands its own width from
    where it stands on average. All looks count, from the first on. What follows a
    sigmoid can adapt to any scale and offset of its input that stay; therefore it is
    measured against the width, and is the same for `a * input + b`.

    Args:
        percentiles: the 15th, 50th and 85th of the input at each look, `(looks, 3)` or
            `(looks, 3, units)`.

    Returns:
        One number, or one a unit.

    Example:
    ```python
    from bn_keras.experiments.mnist import drift

    assert drift([[-1, 0, 1], [-1, 0, 1]]) == 0
    assert drift([[-1, 0, 1], [3, 4, 5]]) == 1  # by twice its width of 2
    ```
    """
    percentiles = np.asarray(percentiles, np.float64)
    wandered = percentiles.std(axis=0).mean(axis=0)
    return wandered / (percentiles[:, 2] - percentiles[:, 0]).mean(axis=0)


def typical(drifts):
    """The unit whose drift is the median of all; of two in the middle, the lower."""
    return int(np.argsort(drifts, kind="stable")[(len(drifts) - 1) // 2])


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train the network with and without BN, and look at it on its way.

    Args:
        workdir: folder for what each training gave, so that a run that was killed goes
            on; None keeps nothing.
        scale: a key of `PLANS`.
        directories: dict from a data set's name to the folder of its files.
        jobs: trainings side by side.
        on_part: called as `on_part(name, done, total)` after each training.

    Returns:
        A dict: `steps` of the looks; for each network of `networks`, by recipe, the
        `accuracy` of each seed at each look, the `drift` of each seed's typical unit
        and its `percentiles` for the first seed.

    Raises:
        ValueError: for an unknown scale.

    Reference:
        Ioffe & Szegedy 2015, section 4.1, figure 1.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]
    names = list(LABELS)
    sizes = plan._asdict()
    del sizes["seeds"]
    parts = [
        Part(f"{name}-seed{seed}", _train, {"recipe": name, "seed": seed, **sizes})
        for seed in range(plan.seeds)
        for name in names
    ]
    measured = measure(parts, workdir, directories, jobs, on_part)
    networks: dict[str, Any] = {}
    for name in names:
        seeds = [measured.results[f"{name}-seed{seed}"] for seed in range(plan.seeds)]
        networks[name] = {
            "accuracy": rounded([found["accuracy"] for found in seeds]),
            "drift": rounded([found["drift"] for found in seeds]),
            "unit": seeds[0]["unit"],
            "percentiles": rounded(seeds[0]["percentiles"]),
        }
    return {
        "scale": scale,
        "seconds": measured.seconds,
        "data": plan.data,
        "deviation": plan.deviation,
        "learning_rate": MLP.learning_rate,
        "steps": list(range(plan.every, plan.steps + 1, plan.every)),
        "networks": networks,
    }


def _train(directories, folder, recipe, seed, data, steps, every, deviation):
    """One training: its accuracy, and the inputs of its typical sigmoid."""
    course = follow(
        replace(RECIPES[recipe], seed=seed),
        load_binary(data, directories.get(data)),
        deviation,
        steps,
        every,
    )
    drifts = drift(course.percentiles)
    unit = typical(drifts)
    return {
        "accuracy": course.accuracy.tolist(),
        "drift": float(drifts[unit]),
        "unit": unit,
        "percentiles": course.percentiles[:, :, unit].tolist(),
    }


def plot(measurements):
    """Figure 1a, b and c, the steps in thousands.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    accuracy, without, with_bn = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    without.sharey(with_bn)
    steps = np.array(measurements["steps"]) / 1000
    networks = measurements["networks"]
    for name, label in LABELS.items():
        draw_seeds(accuracy, steps, networks[name]["accuracy"], _STYLES[name], label)
    # The paper's axis, unless a curve would lie outside it, as after a few steps.
    seen = all(np.max(networks[name]["accuracy"]) > 0.7 for name in LABELS)
    bottom = 0.7 if seen else 0
    accuracy.set(title="(a) Test accuracy", xlim=(0, None), ylim=(bottom, 1))
    accuracy.legend(loc="lower right")
    for axes, letter, name in ((without, "b", MLP.name), (with_bn, "c", BN_MLP.name)):
        found = np.array(networks[name]["percentiles"])
        # The highest first, so that the legend stands as the lines do.
        for index in reversed(range(len(PERCENTILES))):
            axes.plot(
                steps,
                found[:, index],
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


def rows(measurements):
    """What the paper says of figure 1, beside what was measured.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `Row`.
    """
    steps = np.array(measurements["steps"])
    with_bn, without = (measurements["networks"][name] for name in LABELS)
    curves = with_bn["accuracy"], without["accuracy"]
    best, last = (
        [[100 * look(curve) for curve in of] for of in curves]
        for look in (max, lambda curve: curve[-1])
    )
    return [
        _passing(steps, *curves),
        Row(
            "best test accuracy, in %",
            "higher with BN",
            with_and_without(best[0], best[1]),
            verdict(np.subtract(best[0], best[1]).round(2)),
        ),
        Row(
            "test accuracy after the last step, in %",
            "higher with BN",
            with_and_without(last[0], last[1]),
            verdict(np.subtract(last[0], last[1]).round(2)),
        ),
        _drifting(with_bn["drift"], without["drift"]),
    ]


def _passing(steps, with_bn, without):
    """Steps to more than the other's best accuracy, beside the other's to that best."""
    best = [int(steps[np.argmax(curve)]) for curve in without]
    first = [
        int(steps[np.argmax(above)])
        for curve, other in zip(with_bn, without, strict=True)
        if (above := np.array(curve) > max(other)).any()
    ]
    failed = len(best) - len(first)
    if failed:
        measured = f"not passed in {failed} of {len(best)} trainings"
    else:
        measured = with_and_without(first, best, digits=0)
    return Row(
        "steps to pass the best test accuracy without BN, or to reach it without",
        "fewer with BN",
        measured,
        False if failed else verdict(np.subtract(best, first)),
    )


def _drifting(with_bn, without):
    return Row(
        "drift of a typical sigmoid's input, in widths of its distribution",
        "more stable with BN",
        with_and_without(with_bn, without, digits=3),
        # NaN, which decides nothing, where a training diverged.
        verdict(np.subtract(without, with_bn).round(3)),
    )
