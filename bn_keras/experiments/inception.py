"""Figures 2 and 3 at small scale: how fast and how high each Inception variant learns.

Knows recipes, rates and accuracies against steps; not how a model is trained.
"""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.curves import accuracy_curve, halvings
from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.parts import Part, check_scale, measure
from bn_keras.experiments.rows import Row, spread, steps_to, verdict
from bn_keras.training import recipes

TITLE = "Inception with and without BN: steps and maxima (figures 2 and 3)"

REMARK = """\
Smaller than the paper's: CIFAR-10 instead of ImageNet, a narrow network with a small
stem, few epochs, so that Inception itself is still learning when its run ends; what is
called its best accuracy is the best of that run. Every variant has the same number of
steps. The learning rate decays over them, to a half for Inception and BN-Baseline, and
six times as fast, to 1.6 %, for the others. Training crops have 50 to 100 % of a
picture's area. A curve is of some test pictures with BN's moving averages of momentum
0.9, known to about 2 points where they are 2,000; the end of a run is of all test
pictures with population statistics pooled over 100 mini-batches.

So small a rate as the paper's gains from a slow decay in so few steps. The second
comparison therefore tunes both for Inception: it has the best of the sweep over rates,
each with the slow decay and with that of the variants, found on the test pictures with
one seed, which can only help Inception. BN-Baseline has the same decay, and the
variants their multiples of the rate. Theirs were not tuned in turn, and the paper makes
no such comparison: there is no verdict on it.\
"""
OUTCOME = """\
At the paper's rates every variant ends higher than Inception, and all but one of the
BN-Baselines pass its best in fewer steps. The ratios are smaller than the paper's. That
the run is short does not explain it all: with five times as many steps, the decay
stretched likewise, and one seed, BN-x5 needs 5.0 and BN-x30 8.8 times fewer steps
(`python -m benchmarks.inception_epochs`); Inception still rises when that run ends.

BN-x30 is the best and faster than BN-x5, in the longer run too; in the paper BN-x5 is
faster. Likely the paper's rate is low for so small a network and so few steps: the
sweep finds 10 times as much best for Inception, 5 times nearly so, and from there BN-x5
is the faster. Likewise Inception at 5 times its rate trains, and better; at 40 times it
is at chance. With the rate tuned for it, with the slow decay, Inception gains 7 points;
BN-Baseline, BN-x5 and BN-x30 still need fewer steps with every seed, but BN-x30 ends
lower in the mean than at the paper's rate.

With sigmoids, BN-x5 is not the last, as in the paper, but second, and the first to pass
Inception's best, in the longer run too; at 5 times the tuned rate it is the best of
all. The reason was not found; likely layers as narrow as these lose more by ReLU's
zeros than by a sigmoid's slopes. Without BN the sigmoid network stays at chance, as in
the paper.\
"""

# What the paper says does not work; compared at its own rates alone.
FAILING = ("inception-x5", "inception-sigmoid")
# Figure 3: steps to Inception's best accuracy in millions, and best accuracy in %.
FIGURE_3 = {
    "inception": (31.0, 72.2),
    "bn-baseline": (13.3, 72.7),
    "bn-x5": (2.1, 73.0),
    "bn-x30": (2.7, 74.8),
    "bn-x5-sigmoid": (None, 69.8),
}
COMPARISONS = {"paper": "the paper's rates", "tuned": "rates tuned for Inception"}
LABELS = {
    "inception": "Inception",
    "bn-baseline": "BN-Baseline",
    "bn-x5": "BN-x5",
    "bn-x30": "BN-x30",
    "bn-x5-sigmoid": "BN-x5-Sigmoid",
    "inception-x5": "Inception x5",
    "inception-sigmoid": "Inception-Sigmoid",
}
# Of every data set in `PLANS`.
CLASSES = 10
PAPER_RATE = recipes.INCEPTION.learning_rate


class Plan(NamedTuple):
    """The sizes of a run.

    Args:
        data: name of the data set.
        size: height and width to which pictures are resized.
        width: multiplies the channels.
        epochs: passes of 32 examples a step over the training pictures.
        every: steps between two measurements of the accuracy.
        images: test pictures on which a curve is measured; its end is on all.
        seeds: trainings of each variant.
        sweep: multiples of the paper's rate among which Inception's is tuned.
        variants: of `FIGURE_3` and `FAILING`, those compared.
    """

    data: str
    size: int
    width: float
    epochs: int
    every: int
    images: int
    seeds: int
    sweep: tuple[float, ...]
    variants: tuple[str, ...] = (*FIGURE_3, *FAILING)


PLANS = {
    "smoke": Plan("digits", 8, 1 / 16, 1, 22, 100, 1, (1,), ("inception", "bn-x5")),
    "default": Plan("cifar10", 16, 1 / 8, 2, 142, 2000, 3, (1, 5, 10, 20, 40)),
    "full": Plan("cifar10", 32, 1 / 4, 30, 426, 10000, 5, (1, 5, 10, 20, 40)),
}


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train every variant at the paper's rates, then at multiples of a tuned one.

    Args:
        workdir: folder for what each training measured; None keeps nothing.
        scale: a key of `PLANS`.
        directories: dict from a data set's name to the folder of its files.
        jobs: trainings side by side, each in a process.
        on_part: called as `on_part(name, done, total)` after each training.

    Returns:
        A dict: `"rates"`, dict from the comparison `"paper"` or `"tuned"` to
        Inception's rate; `"halved"`, likewise to how often it halves; `"curves"`, dict
        from the comparison to a dict from the variant to a list, a dict for each seed;
        `"sweep"`, a list of `[rate, halved, accuracy]`.

    Raises:
        ValueError: for an unknown scale.

    Reference:
        Ioffe & Szegedy 2015, section 4.2.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]

    found, seconds = {}, 0.0

    def measured(trainings):
        # The same training under two names is one.
        nonlocal seconds
        parts = [part(plan, *training) for training in trainings]
        new = {one.name: one for one in parts if one.name not in found}
        together = measure(list(new.values()), workdir, directories, jobs, on_part)
        found.update(together.results)
        seconds += together.seconds
        return [found[one.name] for one in parts]

    fast = halvings(recipes.BN_X5)
    sweep = [
        ("inception", multiple * PAPER_RATE, halved, 0)
        for multiple in plan.sweep
        for halved in (1, fast)
    ]
    swept = [
        [rate, halved, one["final"]]
        for (_, rate, halved, _), one in zip(sweep, measured(sweep), strict=True)
    ]
    rate, halved, _ = max(swept, key=lambda tried: tried[-1])
    rates = {"paper": PAPER_RATE, "tuned": rate}
    slow = {"paper": 1, "tuned": halved}
    trainings = {}
    for seed in range(plan.seeds):
        for comparison, base in rates.items():
            for variant in plan.variants:
                recipe = recipes.RECIPES[variant]
                if comparison == "paper" or variant in FIGURE_3:
                    trainings[comparison, variant, seed] = (
                        # What differs of it is the rate alone.
                        "inception" if variant == "inception-x5" else variant,
                        base * recipe.learning_rate / PAPER_RATE,
                        max(halvings(recipe), slow[comparison]),
                        seed,
                    )
    curves = {comparison: {} for comparison in rates}
    results = measured(trainings.values())
    for (comparison, variant, _), curve in zip(trainings, results, strict=True):
        curves[comparison].setdefault(variant, []).append(curve)
    return {
        "scale": scale,
        "seconds": seconds,
        "rates": rates,
        "halved": slow,
        "sweep": swept,
        "curves": curves,
    }


def part(plan, variant, learning_rate, halved, seed):
    """The `Part` that trains a variant at a plan's sizes; see `accuracy_curve`."""
    learning_rate = float(f"{learning_rate:.6g}")
    return Part(
        f"{variant}-{learning_rate:g}-halved{halved}-seed{seed}",
        accuracy_curve,
        {
            "variant": variant,
            "learning_rate": learning_rate,
            "halved": halved,
            "seed": seed,
            "data": plan.data,
            "size": plan.size,
            "width": plan.width,
            "epochs": plan.epochs,
            "every": plan.every,
            "images": plan.images,
        },
    )


def best(curve):
    """The best accuracy of a curve, and the step at which it was reached first.

    Args:
        curve: dict with `"steps"` and `"accuracy"`.

    Returns:
        `(accuracy, step)`.
    """
    index = int(np.argmax(curve["accuracy"]))
    return curve["accuracy"][index], curve["steps"][index]


def speedups(curves, variant):
    """Steps of Inception to its best accuracy over those of a variant to the same.

    Args:
        curves: dict from the variant to its curves, one a seed.
        variant: a key of it.

    Returns:
        A list, a ratio for each seed; None where the variant does not get there.
    """
    ratios = []
    for reference, curve in zip(curves["inception"], curves[variant], strict=True):
        accuracy, step = best(reference)
        reached = steps_to(curve["steps"], curve["accuracy"], accuracy)
        ratios.append(None if reached is None else step / max(reached, 1.0))
    return ratios


def rows(measurements):
    """Figure 3 beside what was measured, for both comparisons.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `Row`. The tuned comparison, which is not the paper's, has no
        verdict.
    """
    found = [
        Row(
            f"Inception at {_schedule(rate, halved)}, one seed: test accuracy at the "
            "end in %",
            "-",
            f"{100 * accuracy:.1f}",
        )
        for rate, halved, accuracy in measurements["sweep"]
    ]
    for comparison in COMPARISONS:
        found += _compared(measurements, comparison)
    curves = measurements["curves"]["paper"]
    if "inception-x5" in curves:
        diverged = [one["diverged"] is not None for one in curves["inception-x5"]]
        ends = spread([one["final"] for one in curves["inception-x5"]], 100)
        found.append(
            Row(
                "Inception at 5 times its rate: test accuracy at the end in %",
                "parameters reach infinity",
                f"{ends}; {sum(diverged)} of {len(diverged)} seeds diverged",
                all(diverged),
            )
        )
    if "inception-sigmoid" in curves:
        ends = [one["final"] for one in curves["inception-sigmoid"]]
        found.append(
            Row(
                "Inception with sigmoid, without BN: test accuracy at the end in %",
                "chance",
                f"{spread(ends, 100)}; chance is {100 / CLASSES:g}",
                max(ends) < 1.2 / CLASSES,
            )
        )
    return found


def _schedule(rate, halved):
    return f"rate {rate:g} falling to 1/{2**halved}"


def _compared(measurements, comparison):
    """The rows of one comparison: maxima, steps, and their orders."""
    curves, where = measurements["curves"][comparison], COMPARISONS[comparison]
    # A network at chance is no measure of speed, and the paper has no other comparison.
    learned = min(best(one)[0] for one in curves["inception"]) > 2 / CLASSES
    judged = comparison == "paper" and learned
    maxima, ratios, found = {}, {}, []
    for name in [name for name in FIGURE_3 if name in curves]:
        steps, maximum = FIGURE_3[name]
        maxima[name] = [best(one)[0] for one in curves[name]]
        found.append(
            Row(
                f"{LABELS[name]}, {where}: best test accuracy in %",
                f"{maximum} (ImageNet)" if comparison == "paper" else "-",
                spread(maxima[name], 100),
            )
        )
        if name == "inception":
            reached = [best(one)[1] for one in curves[name]]
            last = curves[name][0]["steps"][-1]
            found.append(
                Row(
                    f"Inception, {where}: steps to it, of {last:,}",
                    "31.0 million" if comparison == "paper" else "-",
                    spread(reached, digits=0),
                )
            )
        elif steps:
            ratios[name] = speedups(curves, name)
            found.append(_faster(name, comparison, ratios[name], judged))
    ratios["inception"] = [1.0] * len(maxima["inception"])
    return [
        _order("best accuracies", maxima, 1, comparison, judged),
        _order("speeds to Inception's best", ratios, 0, comparison, judged),
        *found,
    ]


def _order(claim, values, column, comparison, judged):
    """Whether the variants stand as in a column of figure 3, with every seed."""
    sign = 1 if column else -1
    paper = sorted(values, key=lambda name: sign * FIGURE_3[name][column], reverse=True)
    # What never gets there is slower than all that do.
    seeds = np.array([[value or 0.0 for value in values[name]] for name in paper])
    found = [paper[index] for index in np.argsort(-seeds.mean(1), kind="stable")]
    return Row(
        f"order of the {claim}, {COMPARISONS[comparison]}",
        " > ".join(LABELS[name] for name in paper) if comparison == "paper" else "-",
        " > ".join(LABELS[name] for name in found),
        verdict(np.round(-np.diff(seeds, axis=0).max(0), 4)) if judged else None,
    )


def _faster(name, comparison, ratios, judged):
    """Whether a variant needs fewer steps than Inception, with every seed."""
    where = COMPARISONS[comparison]
    claim = f"{LABELS[name]}, {where}: times fewer steps to Inception's best"
    ratio = FIGURE_3["inception"][0] / FIGURE_3[name][0]
    paper = f"more than 1 ({ratio:.1f})" if comparison == "paper" else "-"
    if None in ratios:
        missing = f"{ratios.count(None)} of {len(ratios)} seeds do not reach it"
        return Row(claim, paper, missing, False if judged else None)
    faster = verdict(np.round(np.array(ratios) - 1, 1)) if judged else None
    return Row(claim, paper, spread(ratios), faster)


def plot(measurements):
    """Accuracy against steps as in figure 2, one panel for each comparison.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`: mean over seeds, with their range as a band; a
        dotted line at Inception's best accuracy.
    """
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
            xlabel="steps",
            title=f"{where}\nInception at {_schedule(rate, halved)} of it",
        )
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy", ylim=(0, None))
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _draw(axes, variant, curves):
    # A training that diverged has a shorter curve; it is at chance from there on.
    whole = max(curves, key=lambda curve: len(curve["steps"]))
    values = np.full((len(curves), len(whole["steps"])), np.nan)
    for index, curve in enumerate(curves):
        values[index, : len(curve["steps"])] = curve["accuracy"]
        values[index, len(curve["steps"]) :] = curve["final"]
    style = "-" if variant.startswith("bn-") else "--"
    draw_seeds(axes, whole["steps"], values, style, LABELS[variant])
