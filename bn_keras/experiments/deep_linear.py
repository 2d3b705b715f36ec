"""The deep linear network of the second paper, in the paper's own set-up."""

from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments import deep_linear_training
from bn_keras.experiments.deep_linear_network import NORMS
from bn_keras.experiments.drawing import STYLES, add_caption, draw_line
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import is_above, mean_interval, ratio_interval
from bn_keras.experiments.rows import (
    Row,
    count_seeds,
    mean_and_range,
    with_interval,
)
from bn_keras.experiments.smoothness import (
    MEASURES,
    mean_cosines,
    overflows_as_infinity,
    rows_of_smoothness,
    shift_ratios,
)


class DeepLinearPlan(NamedTuple):
    """The sizes of a scale."""

    depth: int  # layers
    units: int  # of each layer
    examples: int  # all of them are used in each step
    steps: int  # of each training
    every: int  # steps between two probes
    factors: tuple[float, ...]  # probed step lengths, as multiples of the rate
    drawn: tuple[int, ...]  # layers whose covariate shift is measured
    rates: tuple[float, ...]  # with and without BN
    norms: tuple[str, ...]  # keys of `NORMS`
    norm_rate: float  # of the p-norms
    seeds: int  # trainings with and without BN at each rate
    norm_seeds: int  # trainings with each p-norm


_PAPER = DeepLinearPlan(
    depth=25,
    units=10,
    examples=1000,
    steps=10_000,
    every=200,
    factors=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
    drawn=(9, 17),
    rates=(1e-7, 1e-6, 3e-6),
    norms=tuple(NORMS),
    norm_rate=1e-6,
    seeds=5,
    norm_seeds=5,
)
PLANS = {
    "smoke": _PAPER._replace(
        **{"depth": 5, "units": 4, "examples": 50, "steps": 20, "every": 5},
        **{"factors": (0.01, 1, 30), "drawn": (3, 5), "seeds": 1, "norm_seeds": 1},
        norms=("l1", "linf-centred"),
    ),
    "default": _PAPER,
    "full": _PAPER._replace(every=50, seeds=20, norm_seeds=20),
}


def _rounds(plan):
    """Train and probe the network with and without BN, and with p-norms.

    In the measurements, `"curves"` is a dict from the network to a dict from the rate
    to what `bn_keras.experiments.deep_linear_training.train` returned for each seed.

    Reference:
        Santurkar et al. 2018, figures 3b, 5b, 10, 13 and appendix A.
    """
    sizes = plan._asdict()
    for name in ("rates", "norms", "norm_rate", "seeds", "norm_seeds"):
        del sizes[name]

    def trainings(networks, rates):
        # The rate is in the name of a part's file, and the key of the measurements.
        return {
            (network, f"{rate:g}"): (
                deep_linear_training.train,
                {"network": network, "rate": rate, **sizes},
            )
            for network in networks
            for rate in rates
        }

    curves: dict[str, dict[str, Any]] = {}
    for seeds, of in (
        (plan.seeds, trainings(("none", "bn"), plan.rates)),
        (plan.norm_seeds, trainings(plan.norms, (plan.norm_rate,))),
    ):
        named = {"-".join(key): training for key, training in of.items()}
        results = yield from measure_seeds(seeds, named)
        for network, rate in of:
            curves.setdefault(network, {})[rate] = results[f"{network}-{rate}"]
    return {"curves": curves}


# Margins that were fixed before the run. "Almost no" shift is a mean cosine above the
# first, "almost uncorrelated" one below the second.
_SAME_DIRECTION, _UNCORRELATED = 0.9, 0.5
_LABELS = {
    "none": "Without BN",
    "bn": "With BN",
    "l1": "L1",
    "l2": "L2",
    "linf": "L∞",
    "l1-centred": "centered L1",
    "linf-centred": "centered L∞",
}
# The rate of the paper's figures 10 and 13, and the second one of its figure 3b.
_PAPER_RATE, _LOW_RATE = "1e-06", "1e-07"
_BETA = "effective beta-smoothness"
_SMOOTHNESS_FACTS = {
    "loss variation": "dln-loss",
    "gradient predictiveness": "dln-gradient",
    _BETA: "dln-beta",
}


def _rows(measurements):
    curves = measurements["curves"]
    table = []
    for rate in curves["bn"]:
        none, bn = curves["none"][rate], curves["bn"][rate]
        is_paper = rate == _PAPER_RATE
        facts = _SMOOTHNESS_FACTS if is_paper else {}
        table += rows_of_smoothness(f"rate {_text(rate)}", none, bn, facts)
        table += _rows_of_shift(rate, none, bn)
        table.append(
            _row_of_loss(rate, none, bn, "BN", "dln-trains" if is_paper else "")
        )
    for name in [name for name in NORMS if name in curves]:
        table += _rows_of_norm(name, curves)
    return table


def _rows_of_norm(name, curves):
    """Compare a p-norm with no normalization, and with BN, at its rate."""
    ((rate, seeds),) = curves[name].items()
    none, bn = (curves[key][rate][: len(seeds)] for key in ("none", "bn"))
    label = _LABELS[name]
    title = f"{label}, rate {_text(rate)}"
    # The paper's norms are those before the mean is subtracted.
    facts = {} if name.endswith("-centred") else {_BETA: f"dln-{name}-smooth"}
    better = ratio_interval(_last_losses(bn), _last_losses(seeds))
    fact = "dln-l1" if name == "l1" else ""
    return [
        *rows_of_smoothness(title, none, seeds, facts, label),
        _row_of_loss(rate, none, seeds, label, f"dln-{name}-trains" if facts else ""),
        Row(
            f"{title}: last training loss of BN over its own",
            "more than 1: L1 is better than BN" if fact else "-",
            with_interval(better, 2, " times"),
            count_seeds(len(seeds)),
            is_above(better, 1) if fact else None,
            fact=fact,
        ),
    ]


def _rows_of_shift(rate, none, bn):
    """Compare the covariate shift, which the paper shows at two rates."""
    where = f"rate {_text(rate)}: covariate shift"
    judged = rate in (_PAPER_RATE, _LOW_RATE)
    suffix = "" if rate == _PAPER_RATE else "-low"
    layers = " and ".join(bn[0]["shift_cosine"])
    n = count_seeds(len(bn))
    ratio = ratio_interval(shift_ratios(bn, none), [1.0] * len(bn))
    cosines = {"with": mean_cosines(bn), "without": mean_cosines(none)}
    return [
        Row(
            f"{where}, L2, layers {layers}",
            "larger with BN" if judged else "-",
            f"with BN {with_interval(ratio, 2, ' times')} as large",
            n,
            is_above(ratio, 1) if judged else None,
            fact=f"dln-shift{suffix}" if judged else "",
        ),
        Row(
            f"{where}, mean cosine without BN, layers {layers}",
            f"almost 1 (here: above {_SAME_DIRECTION})" if judged else "-",
            f"{with_interval(mean_interval(cosines['without']), 3)}; {_by_layer(none)}",
            n,
            is_above(mean_interval(cosines["without"]), _SAME_DIRECTION)
            if judged
            else None,
            fact=f"dln-cosine-none{suffix}" if judged else "",
        ),
        Row(
            f"{where}, mean cosine with BN, layers {layers}",
            f"almost 0 (here: below {_UNCORRELATED})" if judged else "-",
            f"{with_interval(mean_interval(cosines['with']), 3)}; {_by_layer(bn)}",
            n,
            is_above(mean_interval(np.negative(cosines["with"])), -_UNCORRELATED)
            if judged
            else None,
            fact=f"dln-cosine-bn{suffix}" if judged else "",
        ),
    ]


def _by_layer(seeds):
    """Return the mean cosines of each layer as text."""
    texts = []
    for layer in seeds[0]["shift_cosine"]:
        curves = [np.array(seed["shift_cosine"][layer], float) for seed in seeds]
        means = mean_and_range(list(map(np.nanmean, curves)), digits=2)
        texts.append(f"layer {layer}: {means}")
    return ", ".join(texts)


def _row_of_loss(rate, none, seeds, label, fact):
    ratio = ratio_interval(_last_losses(none), _last_losses(seeds))
    last = none[0]["steps"][-1]
    return Row(
        f"{label}, rate {_text(rate)}: training loss at step {last:,}",
        f"lower with {label}" if fact else "-",
        f"without {label} {with_interval(ratio, 2, ' times')} as large",
        count_seeds(len(seeds)),
        is_above(ratio, 1) if fact else None,
        fact=fact,
    )


def _last_losses(seeds):
    return overflows_as_infinity([seed["loss"][-1] for seed in seeds])


def _text(rate):
    """Return such as `1e-6` for the key of a rate."""
    return rate.replace("e-0", "e-")


def _plot(measurements):
    """Plot loss, smoothness and shift, one column per rate, and the p-norms."""
    from matplotlib.figure import Figure

    curves = measurements["curves"]
    rates = list(curves["bn"])
    figure = Figure(figsize=(13, 13), layout="constrained")
    names = ("loss", *MEASURES.values(), "shift_cosine")
    labels = (
        "training loss",
        "loss variation",
        "gradient predictiveness",
        "effective beta-smoothness",
        f"cosine, layer {max(measurements['plan']['drawn'])}",
    )
    columns: list[Any] = [
        (f"rate {_text(rate)}", rate, ("none", "bn")) for rate in rates
    ]
    norms = [name for name in NORMS if name in curves]
    if norms:
        rate = f"{measurements['plan']['norm_rate']:g}"
        columns.append((f"p-norms, rate {_text(rate)}", rate, ("none", "bn", *norms)))
    grid = figure.subplots(5, len(columns), sharex=True, squeeze=False)
    for column, (title, rate, networks) in enumerate(columns):
        grid[0, column].set_title(title)
        grid[-1, column].set_xlabel("steps")
        for row, name in enumerate(names):
            axes = grid[row, column]
            axes.grid(alpha=0.3)
            if row < 4:
                axes.set_yscale("log")
            else:
                axes.set_ylim(-1.05, 1.05)
            if column == 0:
                axes.set_ylabel(labels[row])
            for network in networks:
                seeds = curves[network][rate]
                lines = [_last_layer(seed[name]) for seed in seeds]
                if len(networks) > 2:
                    # Too many lines otherwise.
                    lines = [np.median(overflows_as_infinity(lines), axis=0)]
                # Each seed for itself: they lie orders of magnitude apart.
                for index, values in enumerate(lines):
                    line = draw_line(
                        axes,
                        seeds[0]["steps"],
                        _finite(values),
                        STYLES[network],
                        None if index else _LABELS[network],
                    )
                    line.set(linewidth=0.8, alpha=0.8, markersize=3)
    figure.legend(
        *grid[0, -1].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(_LABELS),
        fontsize="small",
    )
    add_caption(
        figure,
        f"Deep linear network, {measurements['plan']['depth']} layers of "
        f"{measurements['plan']['units']} units, full-batch gradient descent. One "
        f"line for each seed{'; p-norms: medians over the seeds' if norms else ''}. "
        "Loss variation, predictiveness and beta-smoothness over probed steps of 1/100 "
        "to 30 times the rate: smaller is smoother. Cosine of a layer's gradient "
        "before and after the earlier layers took their step: 1 is no covariate shift. "
        "Gaps: overflows.",
    )
    return figure


def _last_layer(values):
    """Return a curve; of the curves of several layers that of the last."""
    return list(values.values())[-1] if isinstance(values, dict) else values


def _finite(values):
    """Return a curve with gaps where a probe overflowed."""
    array = np.array(values, float)
    return np.where(np.isfinite(array), array, np.nan)


def _setup(plan):
    return {
        "data": "Gaussian inputs and matrix",
        "matrix": f"{plan.units} x {plan.units}",
        "layers": plan.depth,
        "examples": plan.examples,
        "loss": "sum of squares over outputs and examples",
        "initialization": "Glorot",
        "batch": "all examples",
        "rate": float(_PAPER_RATE),
        "other rate": float(_LOW_RATE),
        "steps": plan.steps,
        "probed steps": f"{min(plan.factors):g} to {max(plan.factors):g} x rate",
    }


EXPERIMENT = Experiment(
    "deep-linear",
    "The deep linear network: smoothness, covariate shift, p-norms",
    PLANS,
    _rounds,
    _rows,
    _plot,
    _setup,
)
