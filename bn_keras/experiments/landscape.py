"""The second paper's figures 3a and 4: VGG with and without BN, and its loss."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.drawing import (
    STYLES,
    add_caption,
    draw_line,
    draw_seeds,
    use_plain_numbers,
)
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import is_above, mean_interval, ratio_interval
from bn_keras.experiments.landscape_training import BATCH_SIZE, train_vgg
from bn_keras.experiments.rows import Row, count_seeds, with_interval
from bn_keras.experiments.smoothness import (
    describe_cosines,
    mean_cosines,
    rows_of_smoothness,
    shift_ratios,
)

_LABELS = {"bn": "With BN", "none": "Without BN"}
_RATE = 0.1  # the paper's, at which its figure 4 is measured
# "Similar, or even worse" covariate shift: margins that were fixed before the run. The
# shift may be a fifth smaller with BN, and its cosine 0.1 closer to 1.
_SHIFT_MARGIN, _COSINE_MARGIN = 0.8, 0.1
# The training loss below which a network learns: 95% of that at chance, of ten classes.
_LEARNS = 0.95 * np.log(10)


class LandscapePlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    depth: int  # weight layers of the VGG
    width: float  # factor of its channels
    steps: int  # of each training
    every: int  # steps between two probes
    factors: tuple[float, ...]  # probed step lengths, as multiples of the rate
    drawn: tuple[int, ...]  # layers whose covariate shift is measured
    rates: tuple[float, ...]
    seeds: int  # trainings of each network at each rate


PLANS = {
    "smoke": LandscapePlan(
        *("digits", 11, 0.05, 4, 2, (0.5, 4), (4, 8), (_RATE,)), seeds=1
    ),
    "default": LandscapePlan(
        *("cifar10", 16, 1 / 8, 3000, 100, (0.5, 1, 2, 4), (5, 10), (_RATE, 0.01)),
        seeds=3,
    ),
    "full": LandscapePlan(
        *("cifar10", 16, 1.0, 15000, 100, (0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4), (5, 10)),
        rates=(_RATE, 0.01),
        seeds=3,
    ),
}


def _rounds(plan):
    """Train VGG with and without BN at each rate, and probe the loss on the way.

    In the measurements, `"curves"` is a dict from the network, `"bn"` or `"none"`, to a
    dict from the rate to what `bn_keras.experiments.landscape_training.train_vgg`
    returned for each seed.

    Reference:
        Santurkar et al. 2018, sections 2.2 and 3.1.
    """
    sizes = plan._asdict()
    for name in ("rates", "seeds"):
        del sizes[name]
    trainings = {
        f"vgg-{network}-{rate:g}": (
            train_vgg,
            {"batch_normalization": network == "bn", "rate": rate, **sizes},
        )
        for rate in plan.rates
        for network in _LABELS
    }
    results = yield from measure_seeds(plan.seeds, trainings)
    return {
        "title": f"VGG-{plan.depth} on {plan.data}",
        "curves": {
            network: {
                f"{rate:g}": results[f"vgg-{network}-{rate:g}"] for rate in plan.rates
            }
            for network in _LABELS
        },
    }


def _plot(measurements):
    """Plot the paper's figure 4 and the covariate shift, one column per rate."""
    from matplotlib.figure import Figure

    curves = measurements["curves"]
    rates = list(curves["bn"])
    figure = Figure(figsize=(4 + 4 * len(rates), 13), layout="constrained")
    grid = figure.subplots(5, len(rates), sharex="col", squeeze=False)
    labels = (
        "loss (band: probed range)",
        "gradient predictiveness\n(band: probed range)",
        "effective beta-smoothness",
        "covariate shift, L2",
        "covariate shift, cosine",
    )
    for column, rate in enumerate(rates):
        grid[0, column].set_title(f"{measurements['title']}, rate {rate}")
        grid[-1, column].set_xlabel(f"steps of {BATCH_SIZE} pictures")
        for row, label in enumerate(labels):
            axes = grid[row, column]
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
            if row < 4:
                axes.set_yscale("log")
                use_plain_numbers(axes.yaxis)
        for network, label in _LABELS.items():
            _draw(grid[:, column], curves[network][rate], label, STYLES[network])
        for row in (0, 3):
            grid[row, column].legend(fontsize="small")
    add_caption(
        figure,
        "Smaller is smoother in the first three rows. First two rows: the range over "
        "the probed steps, its ends means over the seeds; the line is its upper end. "
        "Below: mean over "
        f"{count_seeds(len(curves['bn'][rates[0]]))}, the band is their range; the "
        "deeper of two layers is dotted. A cosine of 1 is no covariate shift; a seed "
        "whose gradient is zero has no cosine, and is left out.",
    )
    return figure


def _draw(column, seeds, label, style):
    """Draw one network, with or without BN, in all panels of its column."""
    steps = seeds[0]["steps"]

    def curves(name):
        return np.array([seed[name] for seed in seeds], float)

    for axes, name in zip(column, ("loss", "distance"), strict=False):
        low, high = (curves(f"{name}_{end}").mean(0) for end in ("least", "most"))
        draw_line(axes, steps, high, style, label)
        axes.fill_between(steps, low, high, color=style.color, alpha=0.2, linewidth=0)
    draw_seeds(column[2], steps, curves("smoothness"), style, label)
    for axes, name in zip(column[3:], ("shift_distance", "shift_cosine"), strict=True):
        for layer, line in zip(seeds[0][name], ("-", ":"), strict=True):
            shifts = np.array([seed[name][layer] for seed in seeds], float)
            if name == "shift_cosine":  # A gradient of zeros has no direction.
                shifts = np.ma.masked_invalid(shifts)
            draw_seeds(
                axes,
                steps,
                shifts,
                style._replace(line=line),
                f"{label}, layer {layer}",
            )


def _rows(measurements):
    table = []
    curves, title = measurements["curves"], measurements["title"]
    for rate, bn in curves["bn"].items():
        none = curves["none"][rate]
        paper = float(rate) == _RATE
        facts = {
            "loss variation": "vgg-loss",
            "gradient predictiveness": "vgg-gradient",
            "effective beta-smoothness": "vgg-beta",
        }
        where = f"{title}, rate {rate}"
        table += rows_of_smoothness(where, none, bn, facts if paper else {})
        table += _rows_of_shift(where, none, bn, paper)
        starts = [_first_of_both(*pair) for pair in zip(none, bn, strict=True)]
        if any(starts) and set(starts) != {None}:
            none, bn = (_from_starts(starts, seeds) for seeds in (none, bn))
            where += ", both learn"
            table += rows_of_smoothness(where, none, bn, {})
            table += _rows_of_shift(where, none, bn, False)
    return table


def _first_of_both(none, bn):
    """Return the first probe at which both networks learn, or None.

    A network whose gradients vanish has a flat loss around it, and its steps change
    little: beside one that learns it seems smooth and without covariate shift.
    """
    learns = [np.array(seed["loss"], float) < _LEARNS for seed in (none, bn)]
    if not all(map(np.any, learns)):
        return None
    return max(map(int, map(np.argmax, learns)))


def _from_starts(starts, seeds):
    """Return each seed's curves from its start on, without seeds that have no start."""
    return [
        _from(start, seed)
        for start, seed in zip(starts, seeds, strict=True)
        if start is not None
    ]


def _from(start, curves):
    """Return the curves of a training from a probe on."""
    return {
        name: _from(start, curve) if isinstance(curve, dict) else curve[start:]
        for name, curve in curves.items()
    }


def _rows_of_shift(where, none, bn, judged):
    """Compare the covariate shift; the verdicts are on the paper's main rate."""
    layers = " and ".join(bn[0]["shift_cosine"])
    n = count_seeds(len(bn))
    ratio = ratio_interval(shift_ratios(bn, none), [1.0] * len(bn))
    with_bn, without = mean_cosines(bn), mean_cosines(none)
    further = mean_interval(np.subtract(without, with_bn))
    return [
        Row(
            f"{where}: covariate shift, L2, layers {layers}",
            f"similar or larger with BN (here: {_SHIFT_MARGIN} times or more)"
            if judged
            else "-",
            f"with BN {with_interval(ratio, 2, ' times')} as large",
            n,
            is_above(ratio, _SHIFT_MARGIN) if judged else None,
            fact="vgg-shift" if judged else "",
        ),
        Row(
            f"{where}: covariate shift, mean cosine, layers {layers}",
            f"similar or smaller with BN (here: at most {_COSINE_MARGIN} larger)"
            if judged
            else "-",
            describe_cosines(with_bn, without),
            n,
            is_above(further, -_COSINE_MARGIN) if judged else None,
            fact="vgg-cosine" if judged else "",
        ),
    ]


def _setup(plan):
    return {
        "data": plan.data,
        "convolutions": plan.depth - 3,
        "width": plan.width,
        "augmentation": "none",
        "initialization": "Glorot",
        "batch": BATCH_SIZE,
        "rate": _RATE,
        "other rate": min(plan.rates),
        "steps": plan.steps,
        "layers": list(plan.drawn),
        "probed steps": f"{min(plan.factors):g} to {max(plan.factors):g} x rate",
    }


EXPERIMENT = Experiment(
    "landscape",
    "Why it works: the loss around VGG with and without BN",
    PLANS,
    _rounds,
    _rows,
    _plot,
    _setup,
    {"width": "fits two CPU cores", "steps": "fits two CPU cores"},
)
