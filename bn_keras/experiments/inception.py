"""Figures 2 and 3 at small scale: how fast and how well Inception's variants learn."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.curves import halvings, measure_accuracy_curve
from bn_keras.experiments.drawing import STYLES, add_caption, draw_seeds
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.figure_3 import (
    COMPARISONS,
    FAILING,
    FIGURE_3,
    LABELS,
    final_accuracy,
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
    stem: str  # the first layers, "imagenet" or "small"
    epochs: int  # passes over the training pictures, 32 per step
    every: int  # steps between two points of a curve
    images: int  # test pictures of a curve; the final accuracy uses all
    held_out: int  # training pictures on which Inception's rate is tuned
    seeds: int  # trainings of each variant at the tuned rates
    paper_seeds: int  # trainings of each variant at the paper's rates
    sweep: tuple[float, ...]  # multiples of the paper's rate, to tune Inception's
    tuning_epochs: int  # passes of each training of the sweep
    give_up: int | None  # steps after which what is at chance is not trained further
    targets: tuple[float, ...]  # fixed accuracies to which speed-ups are measured
    variants: tuple[str, ...] = (*FIGURE_3, *FAILING)
    paper_variants: tuple[str, ...] = (*FIGURE_3, *FAILING)  # at the paper's rates


PLANS = {
    "smoke": InceptionPlan(
        *("digits", 8, 1 / 16, "small", 1, 22, 100, 50, 1, 1, (1,), 1, None, (0.15,)),
        variants=("inception", "bn-x5"),
        paper_variants=("inception", "bn-x5"),
    ),
    "default": InceptionPlan(
        *("cifar10", 16, 1 / 8, "small", 2, 312, 10000, 5000, 3, 1, (5, 10, 20), 2),
        *(1000, (0.25, 0.35)),
        paper_variants=("inception", "bn-x5"),
    ),
    "full": InceptionPlan(
        *("cifar10", 32, 1 / 4, "small", 30, 426, 10000, 5000, 5, 1),
        *((1, 5, 10, 20, 40), 10, 1000, (0.5, 0.6)),
    ),
}
# What was expected before the run, and is printed beside what came out.
EXPECTED = (
    "BN-x5 is the fastest; BN-x30 is slower at first and best at the end; five times "
    "the tuned rate without BN diverges; the speed-up of BN-x5 is 3 to 6; the sigmoid "
    "network learns with BN and not without."
)


def _rounds(plan):
    """Tune Inception's rate, then train the variants at the tuned and paper's rates.

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
    shorter = plan._replace(epochs=plan.tuning_epochs)
    trainings = [
        training(shorter, "inception", *setting, held_out=plan.held_out)
        for setting in settings
    ]
    results = yield from measure_seeds(1, dict(trainings))
    sweep = [
        [rate, halved, results[name][0]["final"]]
        for (rate, halved), (name, _) in zip(settings, trainings, strict=True)
    ]
    tuned_rate, tuned_halved, _ = max(sweep, key=lambda setting: setting[-1])

    rates = {"tuned": tuned_rate, "paper": PAPER_RATE}
    slow = {"tuned": tuned_halved, "paper": 1}
    seeds = {"tuned": plan.seeds, "paper": plan.paper_seeds}
    variants = {"tuned": plan.variants, "paper": plan.paper_variants}
    curves: dict[str, dict[str, Any]] = {}
    for comparison, base in rates.items():
        compared = {
            variant: training(
                plan,
                # Inception x5 differs from Inception in nothing but the rate.
                "inception" if variant == "inception-x5" else variant,
                base * recipes.RECIPES[variant].learning_rate / PAPER_RATE,
                max(halvings(recipes.RECIPES[variant]), slow[comparison]),
                give_up=plan.give_up if variant in FAILING else None,
            )
            for variant in variants[comparison]
        }
        results = yield from measure_seeds(seeds[comparison], dict(compared.values()))
        curves[comparison] = {
            variant: results[name] for variant, (name, _) in compared.items()
        }
    return {
        "targets": list(plan.targets),
        "rates": rates,
        "halved": slow,
        "sweep": sweep,
        "curves": curves,
    }


def training(
    plan: InceptionPlan,
    variant: str,
    learning_rate: float,
    halved: int,
    held_out: int = 0,
    give_up: int | None = None,
) -> tuple[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return the name and the work of one training, as `measure_seeds` takes them.

    Args:
        plan: The sizes.
        variant: A key of `bn_keras.training.recipes.RECIPES`.
        learning_rate: The learning rate of the first step.
        halved: How often the learning rate halves until the last step.
        held_out: The training pictures that take the place of the test pictures.
        give_up: The steps after which a training at chance ends, or None.
    """
    # Products of rates differ in their last bits, and would name one training twice.
    learning_rate = float(f"{learning_rate:.6g}")
    sizes = ("data", "size", "width", "stem", "epochs", "every", "images")
    arguments = {
        "variant": variant,
        "learning_rate": learning_rate,
        "halved": halved,
        "held_out": held_out,
        "give_up": give_up,
        **{name: getattr(plan, name) for name in sizes},
    }
    name = f"{variant}-{learning_rate:g}-halved{halved}"
    if held_out:
        name += "-tuning"
    if give_up:
        name += "-may-end"
    return name, (measure_accuracy_curve, arguments)


def _plot(measurements):
    """Plot accuracy against steps like figure 2, one panel per comparison."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(1, len(COMPARISONS), sharey=True)
    for axes, (comparison, where) in zip(panels, COMPARISONS.items(), strict=True):
        for variant, curves in measurements["curves"][comparison].items():
            _draw(axes, variant, curves)
        reference = measurements["curves"][comparison]["inception"]
        mean = np.mean([final_accuracy(curve) for curve in reference])
        axes.axhline(
            mean, ls=":", color="#555555", lw=1, label="Inception's final accuracy"
        )
        rate, halved = (measurements[key][comparison] for key in ("rates", "halved"))
        axes.set(
            xlabel="steps of 32 pictures",
            title=f"{where}\n(Inception: {schedule(rate, halved)})",
        )
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy", ylim=(0, None))
    handles = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=4,
        fontsize="small",
    )
    counts = {
        comparison: len(measurements["curves"][comparison]["inception"])
        for comparison in COMPARISONS
    }
    add_caption(
        figure,
        "Test accuracy with moving averages. Lines: mean over the seeds (left "
        f"{counts['tuned']}, right {counts['paper']}); bands: their range.",
    )
    return figure


def _draw(axes, variant, curves):
    # The curve of a training that ended early is shorter; it is continued at chance.
    longest = max(curves, key=lambda curve: len(curve["steps"]))
    values = np.full((len(curves), len(longest["steps"])), np.nan)
    for index, curve in enumerate(curves):
        values[index, : len(curve["steps"])] = curve["accuracy"]
        values[index, len(curve["steps"]) :] = curve["final"]
    draw_seeds(axes, longest["steps"], values, STYLES[variant], LABELS[variant])


def _setup(plan):
    return {
        "data": plan.data,
        "size": plan.size,
        "width": plan.width,
        "batch": recipes.INCEPTION.batch_size,
        "training": "synchronous, one machine",
        "base rate": "tuned for Inception",
        "multiples of the rate": "1, 5, 30",
        "epochs": plan.epochs,
    }


EXPERIMENT = Experiment(
    "inception",
    "Inception with and without BN: steps and best accuracy (figures 2 and 3)",
    PLANS,
    _rounds,
    rows,
    _plot,
    _setup,
    {
        "data": "ImageNet takes weeks of GPUs",
        "size": "fits two CPU cores",
        "width": "fits two CPU cores",
        "epochs": "fits two CPU cores",
        "training": "the paper's many asynchronous replicas need a cluster",
    },
)
