"""Small mini-batches: BN, ghost batches, renormalization, group normalization."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.batch_size_training import (
    NORMALIZATIONS,
    train_with_batch_size,
)
from bn_keras.experiments.drawing import (
    GREEN,
    ORANGE,
    VERMILION,
    WITH_BN,
    Style,
    add_caption,
    draw_seeds,
    use_plain_numbers,
)
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.rows import Row, count_seeds, mean_and_range


class BatchSizePlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    sizes: tuple[int, ...]  # of the mini-batches, ascending
    examples: int  # of a training
    seeds: int


PLANS = {
    "smoke": BatchSizePlan("digits", (2, 16), 200, 1),
    "default": BatchSizePlan("mnist", (2, 4, 8, 16, 32, 64, 128), 30_000, 3),
    "full": BatchSizePlan("mnist", (2, 4, 8, 16, 32, 64, 128), 300_000, 5),
}
LABELS = {
    "bn": ("BN", WITH_BN),
    "ghost": ("BN, ghost batches of 4", Style(ORANGE, "-", "^")),
    "renorm": ("batch renormalization", Style(VERMILION, "-", "D")),
    "group": ("group normalization", Style(GREEN, "--", "v")),
}
_TESTS = {
    "population": "test, population statistics",
    "batch": "test, statistics of its mini-batch",
    "train": "training",
}


def _rounds(plan):
    """Train with each normalization and batch size.

    In the measurements, `"results"` is a dict from the normalization to a dict from the
    batch size to what `train_with_batch_size` returned for each seed.
    """
    trainings = {
        (normalization, str(size)): (
            train_with_batch_size,
            {
                "data": plan.data,
                "normalization": normalization,
                "batch_size": size,
                "examples": plan.examples,
            },
        )
        for size in plan.sizes
        for normalization in NORMALIZATIONS
        # Ghost batches divide the mini-batch.
        if normalization != "ghost" or size >= 8
    }
    named = {"-".join(key): training for key, training in trainings.items()}
    measured = yield from measure_seeds(plan.seeds, named)
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for normalization, size in trainings:
        seeds = measured[f"{normalization}-{size}"]
        results.setdefault(normalization, {})[size] = seeds
    return {"results": results}


def _rows(measurements):
    return [
        Row(
            f"{LABELS[name][0]}, mini-batches of {size}: accuracy (%)",
            "-",
            "; ".join(
                f"{words} {mean_and_range([seed[key] for seed in seeds], 100)}"
                for key, words in _TESTS.items()
            ),
            count_seeds(len(seeds)),
        )
        for name, by_size in measurements["results"].items()
        for size, seeds in by_size.items()
    ]


def _plot(measurements):
    """Plot the error by the batch size, one panel for each way to measure it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, len(_TESTS), sharey=True)
    for axes, (key, title) in zip(panels, _TESTS.items(), strict=True):
        for name, by_size in measurements["results"].items():
            label, style = LABELS[name]
            curves = np.transpose(
                [
                    [100 * (1 - seed[key]) for seed in seeds]
                    for seeds in by_size.values()
                ]
            )
            draw_seeds(axes, [int(size) for size in by_size], curves, style, label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        use_plain_numbers(axes.yaxis)
        axes.set(title=title, xlabel="examples in a mini-batch")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("error (%)")
    panels[0].legend(fontsize="x-small")
    plan = measurements["plan"]
    add_caption(
        figure,
        f"3 x 100 ReLU units, {plan['examples']:,} examples for every size, the rate "
        f"proportional to it. Mean over {count_seeds(plan['seeds'])}; bands are their "
        "range.",
    )
    return figure


EXPERIMENT = Experiment(
    "batch-size",
    "Small mini-batches: BN, ghost batches, renormalization, groups",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
