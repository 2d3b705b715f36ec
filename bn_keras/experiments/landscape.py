"""The question of the second paper: whether BN makes the loss smoother."""

from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.landscape_training import train_linear, train_vgg
from bn_keras.experiments.rows import Row, mean_and_range, verdict

# Each network's label and line style.
_STYLES = {"with": ("With BN", "-"), "without": ("Without BN", "--")}
_NETWORKS = ("vgg", "linear")


class LandscapePlan(NamedTuple):
    """The sizes of a scale."""

    seeds: int  # trainings of each network
    vgg: dict[str, Any]  # arguments of `train_vgg`
    linear: dict[str, Any]  # arguments of `train_linear`


_VGG = {"data": "cifar10", "rate": 0.1, "factors": [0.5, 1, 2, 4], "drawn": [4, 8]}
_LINEAR = {
    "depth": 25,
    "units": 50,
    "examples": 1000,
    "rate": 1e-6,
    "factors": [0.01, 0.1, 1, 3, 10, 30],
    "drawn": [9, 17],
}
PLANS = {
    "smoke": LandscapePlan(
        seeds=1,
        vgg=_VGG
        | {"data": "digits", "depth": 11, "width": 0.05, "steps": 4, "every": 2}
        | {"factors": [0.5, 4]},
        linear=_LINEAR
        | {"depth": 5, "units": 6, "examples": 50, "steps": 4, "every": 2}
        | {"drawn": [3, 5]},
    ),
    "default": LandscapePlan(
        seeds=3,
        vgg=_VGG | {"depth": 11, "width": 0.25, "steps": 2000, "every": 50},
        linear=_LINEAR | {"steps": 1000, "every": 40},
    ),
    "full": LandscapePlan(
        seeds=3,
        vgg=_VGG
        | {"depth": 16, "width": 1.0, "steps": 15000, "every": 100}
        | {"factors": [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4], "drawn": [5, 10]},
        linear=_LINEAR | {"steps": 10000, "every": 100},
    ),
}


def _rounds(plan):
    """Train both networks with and without BN, and probe the loss on the way.

    The measurements hold, for `"vgg"` and `"linear"`, a dict of `"title"` and, under
    `"with"` and `"without"`, the curves of each seed.

    Reference:
        Santurkar et al. 2018, sections 2.2 and 3.1.
    """
    networks = {"vgg": (train_vgg, plan.vgg), "linear": (train_linear, plan.linear)}
    trainings = {
        f"{network}-{key}-bn": (train, {"batch_normalization": key == "with", **sizes})
        for network, (train, sizes) in networks.items()
        for key in _STYLES
    }
    curves = yield from measure_seeds(plan.seeds, trainings)
    titles = {
        "vgg": f"VGG-{plan.vgg['depth']} on {plan.vgg['data']}",
        "linear": f"{plan.linear['depth']}-layer deep linear network",
    }
    return {
        network: {
            "title": titles[network],
            **{key: curves[f"{network}-{key}-bn"] for key in _STYLES},
        }
        for network in _NETWORKS
    }


def _plot(measurements):
    """Plot the paper's figure 4 and the covariate shift, one column per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 13), layout="constrained")
    grid = figure.subplots(5, 2, sharex="col", squeeze=False)
    labels = (
        "loss (range: variation)",
        "gradient predictiveness\n(smaller: smoother)",
        "effective beta-smoothness\n(smaller: smoother)",
        "covariate shift, L2",
        "covariate shift, cosine",
    )
    for column, network in enumerate(_NETWORKS):
        facts = measurements[network]
        grid[0, column].set_title(facts["title"])
        grid[-1, column].set_xlabel("steps")
        for row, label in enumerate(labels):
            axes = grid[row, column]
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
            if row < 4:
                axes.set_yscale("log")
        for color, (key, style) in zip(
            ("tab:blue", "tab:orange"), _STYLES.items(), strict=True
        ):
            _draw(grid[:, column], facts[key], *style, color)
        for row in (0, 3):
            grid[row, column].legend(fontsize="small")
    return figure


def _draw(column, seeds, label, style, color):
    """Draw one network, with or without BN, in all panels of its column."""
    steps = seeds[0]["steps"]

    def curves(name):
        return np.array([seed[name] for seed in seeds], float)

    # The range over the probed steps, as in the paper; its ends are means over seeds.
    for axes, name in zip(column, ("loss", "distance"), strict=False):
        low, high = (curves(f"{name}_{end}").mean(0) for end in ("least", "most"))
        axes.plot(steps, high, style, color=color, label=label)
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    for axes in column[2:]:
        axes.set_prop_cycle(color=[color])
    draw_seeds(column[2], steps, curves("smoothness"), style, label)
    for axes, name in zip(column[3:], ("shift_distance", "shift_cosine"), strict=True):
        for layer, marker in zip(seeds[0][name], ("", "o"), strict=True):
            shifts = [seed[name][layer] for seed in seeds]
            line = draw_seeds(axes, steps, shifts, style, f"{label}, layer {layer}")
            line.set(marker=marker, markersize=3)


# The measures of smoothness, each with its curve: smaller is smoother.
_MEASURES = {
    "loss variation": "loss_variation",
    "gradient predictiveness": "distance_most",
    "effective beta-smoothness": "smoothness",
}


def _rows(measurements):
    table = []
    for network in _NETWORKS:
        facts = measurements[network]
        title = facts["title"]
        seeds = [facts[key] for key in _STYLES]
        for measure, key in _MEASURES.items():
            with_bn, without = ([_numbers(seed[key]) for seed in of] for of in seeds)
            medians = _ratios(map(_median, without), map(_median, with_bn))
            first = _ratios((c[0] for c in without), (c[0] for c in with_bn))
            table += [
                Row(
                    f"{title}: {measure}, median over the steps",
                    "smoother with BN",
                    f"without BN {mean_and_range(medians, digits=2)} times as large",
                    verdict(np.subtract(medians, 1).round(2)),
                ),
                Row(
                    f"{title}: {measure}, at the first step",
                    "-",
                    f"without BN {mean_and_range(first, digits=2)} times as large",
                ),
            ]
        layers = " and ".join(facts["with"][0]["shift_cosine"])
        ratios = _ratios(*(_shifts(of, "shift_distance") for of in seeds))
        with_bn, without = (_shifts(of, "shift_cosine") for of in seeds)
        table += [
            Row(
                f"{title}: covariate shift, L2, layers {layers}, median",
                "not smaller with BN",
                f"with BN {mean_and_range(ratios, digits=2)} times as large",
                verdict(np.subtract(ratios, 1).round(2)),
            ),
            Row(
                f"{title}: covariate shift, cosine, layers {layers}, median",
                "not closer to 1 with BN",
                f"with BN {mean_and_range(with_bn, digits=3)}, "
                f"without BN {mean_and_range(without, digits=3)}",
                verdict(np.round(np.subtract(without, with_bn), 3)),
            ),
        ]
    return table


def _numbers(values):
    """Return an array with NaN, which decides nothing, for infinities and None."""
    array = np.array(values, float)
    return np.where(np.isfinite(array), array, np.nan)


def _median(curve):
    return np.nan if np.isnan(curve).any() else float(np.median(curve))


def _shifts(seeds, name):
    """Return for each seed the mean over layers of the median over the probes."""
    return [
        float(np.mean([_median(_numbers(curve)) for curve in seed[name].values()]))
        for seed in seeds
    ]


def _ratios(numerators, denominators):
    """Return the ratio of each seed, NaN if its denominator is 0."""
    below = np.array(list(denominators), float)
    above = np.array(list(numerators), float)
    return (above / np.where(below == 0, np.nan, below)).tolist()


EXPERIMENT = Experiment(
    "landscape",
    "Why it works: the loss around networks with and without BN",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
