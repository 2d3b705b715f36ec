"""Population statistics compared: moving averages, Algorithm 2, pooled."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.drawing import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    VERMILION,
    Style,
    add_caption,
    use_plain_numbers,
)
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.population_training import compare_statistics
from bn_keras.experiments.rows import Row, count_seeds, mean_and_range


class PopulationPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    momenta: tuple[float, ...]  # of the moving averages
    looks: tuple[int, ...]  # steps after which the statistics are compared
    counts: tuple[int, ...]  # mini-batches of 60 of an estimate
    seeds: int


PLANS = {
    "smoke": PopulationPlan("digits", (0.9,), (10, 20), (1, 5), 1),
    "default": PopulationPlan(
        "mnist", (0.9, 0.99, 0.999), (100, 5000), (1, 10, 100), 3
    ),
    "full": PopulationPlan(
        "mnist", (0.9, 0.99, 0.999), (100, 1000, 5000, 50_000), (1, 10, 100), 5
    ),
}
_STYLES = {
    "moving": Style(BLACK, "", "o"),
    "algorithm2": Style(BLUE, "-", "s"),
    "pooled": Style(VERMILION, "--", "D"),
}
_COLORS = (BLACK, ORANGE, GREEN)


def _rounds(plan):
    """Compare the statistics of a network early and late in its training.

    In the measurements, `"results"` is a dict from the momentum to what
    `bn_keras.experiments.population_training.compare_statistics` returned for each
    seed.

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2; Wu & Johnson 2021, "Rethinking 'Batch' in
        BatchNorm", section 3.
    """
    trainings = {
        f"momentum-{momentum:g}": (
            compare_statistics,
            {
                "data": plan.data,
                "momentum": momentum,
                "looks": plan.looks,
                "counts": plan.counts,
            },
        )
        for momentum in plan.momenta
    }
    results = yield from measure_seeds(plan.seeds, trainings)
    return {
        "results": {f"{m:g}": results[f"momentum-{m:g}"] for m in plan.momenta},
    }


def _rows(measurements):
    plan, results = measurements["plan"], measurements["results"]
    table = []
    first = next(iter(results.values()))
    for index, look in enumerate(plan["looks"]):
        estimates = {
            f"moving average, momentum {momentum}": [s[index]["moving"] for s in seeds]
            for momentum, seeds in results.items()
        }
        # The estimates do not depend on the momentum.
        estimates |= {
            _words(name): [seed[index][name] for seed in first]
            for name in first[0][index]
            if name != "moving"
        }
        for name, values in estimates.items():
            accuracy, distances = np.transpose(values)
            table.append(
                Row(
                    f"after {look:,} steps, {name}: test accuracy (%)",
                    "-",
                    f"{mean_and_range(accuracy, 100, 2)}; means off by "
                    f"{mean_and_range(distances, 1, 3)} deviations",
                    count_seeds(len(values)),
                )
            )
    return table


def _words(name):
    if name == "reference":
        return "pooled over 500 mini-batches"
    method, count = name.split("-")
    label = "Algorithm 2" if method == "algorithm2" else "pooled"
    return f"{label} over {count} mini-batch{'es' if count != '1' else ''}"


def _plot(measurements):
    """Plot accuracy and distance by the number of mini-batches, a column per look."""
    from matplotlib.figure import Figure

    plan, results = measurements["plan"], measurements["results"]
    looks, counts = plan["looks"], plan["counts"]
    figure = Figure(figsize=(3 + 3.5 * len(looks), 6.4), layout="constrained")
    grid = figure.subplots(2, len(looks), sharex=True, squeeze=False)
    first = next(iter(results.values()))
    for column, look in enumerate(looks):
        for row, scale in enumerate((100, 1)):
            axes = grid[row, column]
            for method in ("algorithm2", "pooled"):
                values = scale * np.array(
                    [[s[column][f"{method}-{n}"][row] for s in first] for n in counts]
                )
                style, mean = _STYLES[method], values.mean(1)
                axes.errorbar(
                    counts,
                    mean,
                    [mean - values.min(1), values.max(1) - mean],
                    linestyle=style.line,
                    color=style.color,
                    marker=style.marker,
                    capsize=3,
                    label="Algorithm 2" if method == "algorithm2" else "pooled",
                )
            for (momentum, seeds), color in zip(results.items(), _COLORS, strict=False):
                mean = scale * np.mean([s[column]["moving"][row] for s in seeds])
                axes.axhline(
                    mean, color=color, ls=":", label=f"moving average, {momentum}"
                )
            axes.set_xscale("log")
            use_plain_numbers(axes.xaxis)
            axes.grid(alpha=0.3)
        grid[0, column].set_title(f"after {look:,} steps")
        grid[1, column].set_yscale("log")
        use_plain_numbers(grid[1, column].yaxis)
        grid[1, column].set_xlabel("mini-batches of 60")
    grid[0, 0].set_ylabel("test accuracy (%)")
    grid[1, 0].set_ylabel("error of the means (deviations)")
    grid[0, -1].legend(fontsize="x-small")
    add_caption(
        figure,
        "Section 4.1's network with BN on binary images. Means over "
        f"{count_seeds(plan['seeds'])}; bars are their range. Below: root mean square "
        "over the units, against statistics pooled over 500 mini-batches.",
    )
    return figure


EXPERIMENT = Experiment(
    "population-statistics",
    "Population statistics: moving averages, Algorithm 2, pooled",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
