"""Figures 2 and 3 at small scale: how fast and how well Inception's variants learn."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.curves import halvings, measure_accuracy_curve
from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.figure_3 import (
    COMPARISONS,
    FAILING,
    FIGURE_3,
    LABELS,
    best,
    rows,
    schedule,
)
from bn_keras.training import recipes

PAPER_RATE = recipes.INCEPTION.learning_rate


class InceptionPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    size: int  # height and width to which pictures are resized
    width: float  # factor of the channels
    epochs: int  # passes over the training pictures, 32 per step
    every: int  # steps between two points of a curve
    images: int  # test pictures of a curve; the final accuracy uses all
    seeds: int  # trainings of each variant
    sweep: tuple[float, ...]  # multiples of the paper's rate, to tune Inception's
    variants: tuple[str, ...] = (*FIGURE_3, *FAILING)


PLANS = {
    "smoke": InceptionPlan(
        "digits", 8, 1 / 16, 1, 22, 100, 1, (1,), ("inception", "bn-x5")
    ),
    "default": InceptionPlan("cifar10", 16, 1 / 8, 2, 142, 2000, 3, (1, 5, 10, 20, 40)),
    "full": InceptionPlan("cifar10", 32, 1 / 4, 30, 426, 10000, 5, (1, 5, 10, 20, 40)),
}


def _rounds(plan):
    """Tune Inception's rate, then train the variants at the paper's and tuned rates.

    In the measurements, `"rates"` is a dict from the comparison, `"paper"` or
    `"tuned"`, to Inception's rate; `"halved"`, likewise, how often it halves; `"sweep"`
    a list of `[rate, halved, accuracy]`; and `"curves"` a dict from the comparison to a
    dict from the variant to a list of one curve per seed.

    Reference:
        Ioffe & Szegedy 2015, section 4.2.
    """
    settings = [
        (multiple * PAPER_RATE, halved)
        for multiple in plan.sweep
        for halved in (1, halvings(recipes.BN_X5))
    ]
    trainings = [training(plan, "inception", *setting) for setting in settings]
    results = yield from measure_seeds(1, dict(trainings))
    sweep = [
        [rate, halved, results[name][0]["final"]]
        for (rate, halved), (name, _) in zip(settings, trainings, strict=True)
    ]
    tuned_rate, tuned_halved, _ = max(sweep, key=lambda setting: setting[-1])

    rates = {"paper": PAPER_RATE, "tuned": tuned_rate}
    slow = {"paper": 1, "tuned": tuned_halved}
    compared = {}
    for comparison, base in rates.items():
        for variant in plan.variants:
            if comparison == "tuned" and variant in FAILING:
                continue
            recipe = recipes.RECIPES[variant]
            compared[comparison, variant] = training(
                plan,
                # Inception x5 differs from Inception in nothing but the rate.
                "inception" if variant == "inception-x5" else variant,
                base * recipe.learning_rate / PAPER_RATE,
                max(halvings(recipe), slow[comparison]),
            )
    results = yield from measure_seeds(plan.seeds, dict(compared.values()))
    curves = {comparison: {} for comparison in rates}
    for (comparison, variant), (name, _) in compared.items():
        curves[comparison][variant] = results[name]
    return {"rates": rates, "halved": slow, "sweep": sweep, "curves": curves}


def training(
    plan: InceptionPlan, variant: str, learning_rate: float, halved: int
) -> tuple[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return the name and the work of one training, as `measure_seeds` takes them.

    Args:
        plan: The sizes.
        variant: A key of `bn_keras.training.recipes.RECIPES`.
        learning_rate: The learning rate of the first step.
        halved: How often the learning rate halves until the last step.
    """
    # Products of rates differ in their last bits, and would name one training twice.
    learning_rate = float(f"{learning_rate:.6g}")
    sizes = ("data", "size", "width", "epochs", "every", "images")
    arguments = {
        "variant": variant,
        "learning_rate": learning_rate,
        "halved": halved,
        **{name: getattr(plan, name) for name in sizes},
    }
    name = f"{variant}-{learning_rate:g}-halved{halved}"
    return name, (measure_accuracy_curve, arguments)


def _plot(measurements):
    """Plot accuracy against steps like figure 2, one panel per comparison."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, len(COMPARISONS), sharey=True)
    for axes, (comparison, where) in zip(panels, COMPARISONS.items(), strict=True):
        for variant, curves in measurements["curves"][comparison].items():
            _draw(axes, variant, curves)
        reference = measurements["curves"][comparison]["inception"]
        mean = np.mean([best(curve)[0] for curve in reference])
        axes.axhline(mean, ls=":", color="black", lw=1, label="Inception's best")
        rate, halved = (measurements[key][comparison] for key in ("rates", "halved"))
        axes.set(
            xlabel="steps", title=f"{where}\n(Inception: {schedule(rate, halved)})"
        )
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy", ylim=(0, None))
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _draw(axes, variant, curves):
    # The curve of a training that diverged is shorter; it is continued at chance.
    longest = max(curves, key=lambda curve: len(curve["steps"]))
    values = np.full((len(curves), len(longest["steps"])), np.nan)
    for index, curve in enumerate(curves):
        values[index, : len(curve["steps"])] = curve["accuracy"]
        values[index, len(curve["steps"]) :] = curve["final"]
    style = "-" if variant.startswith("bn-") else "--"
    draw_seeds(axes, longest["steps"], values, style, LABELS[variant])


EXPERIMENT = Experiment(
    "inception",
    "Inception with and without BN: steps and best accuracy (figures 2 and 3)",
    PLANS,
    _rounds,
    rows,
    _plot,
)
