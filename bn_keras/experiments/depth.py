"""How unequal the relative gradients of a deep network's layers are."""

from typing import Any, NamedTuple

import numpy as np

from bn_keras.experiments.depth_training import measure_layers
from bn_keras.experiments.drawing import (
    BLUE,
    PURPLE,
    VERMILION,
    Style,
    add_caption,
    draw_seeds,
)
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import ratio_interval
from bn_keras.experiments.rows import Row, count_seeds, with_interval

ACTIVATIONS = {
    "relu": Style(BLUE, "-", "s"),
    "sigmoid": Style(PURPLE, "-", "v"),
    "tanh": Style(VERMILION, "-", "D"),
}


class DepthPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    size: int  # height and width of the network's input
    width: float  # factor of the channels
    learning_rate: float
    looks: tuple[int, ...]  # steps before which the layers are measured
    scales: tuple[float, ...]  # factors of the initial kernels' deviation
    seeds: int


PLANS = {
    "smoke": DepthPlan("digits", 8, 1 / 16, 0.0075, (0, 2), (1.0,), 1),
    "default": DepthPlan("cifar10", 16, 1 / 8, 0.0075, (0, 20, 100), (1.0, 1.5), 3),
    "full": DepthPlan("cifar10", 32, 1 / 4, 0.0075, (0, 100, 1000), (1.0, 1.5), 5),
}


def _rounds(plan):
    """Train Inception's variants for a few steps and measure each layer's gradient.

    In the measurements, `"ratios"` is a dict from such as `"relu-bn-1.5"` to what
    `measure_layers` returned for each seed.
    """
    sizes = plan._asdict()
    for name in ("scales", "seeds"):
        del sizes[name]
    trainings = {
        f"{activation}-{'bn' if normalized else 'none'}-{scale:g}": (
            measure_layers,
            {
                "activation": activation,
                "batch_normalization": normalized,
                "initial_scale": scale,
                **sizes,
            },
        )
        for activation in ACTIVATIONS
        for normalized in (True, False)
        # Larger initial weights are a question about the ensemble, which has BN.
        for scale in (plan.scales if normalized and activation == "relu" else (1.0,))
    }
    results = yield from measure_seeds(plan.seeds, trainings)
    return {"ratios": results}


def imbalance(ratios: Any) -> float:
    """Return how many times larger the ratio is in the first layers than in the last.

    Args:
        ratios: One value per layer. The first and last fifth of them are compared, by
            their geometric means.
    """
    logs = np.log(np.maximum(np.asarray(ratios, float), 1e-30))
    fifth = max(1, len(logs) // 5)
    return float(np.exp(logs[:fifth].mean() - logs[-fifth:].mean()))


def _rows(measurements):
    looks = measurements["plan"]["looks"]
    return [
        Row(
            f"{_label(name)}, before step {look + 1}: |g|/|w|, first over last layers",
            "-",
            with_interval(
                ratio_interval(
                    [imbalance(seed[index]) for seed in seeds], np.ones(len(seeds))
                ),
                unit=" times",
            ),
            count_seeds(len(seeds)),
        )
        for name, seeds in measurements["ratios"].items()
        for index, look in enumerate(looks)
    ]


def _label(name):
    activation, normalized, scale = name.split("-")
    words = f"{activation}, {'with' if normalized == 'bn' else 'without'} BN"
    return words if float(scale) == 1 else f"{words}, initial weights x{scale}"


def _plot(measurements):
    """Plot |g| / |w| by layer, one column per look, with BN above without."""
    from matplotlib.figure import Figure

    looks = measurements["plan"]["looks"]
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.subplots(2, len(looks), sharex=True, sharey="row", squeeze=False)
    for row, normalized in enumerate(("bn", "none")):
        for column, look in enumerate(looks):
            axes = grid[row, column]
            for name, seeds in measurements["ratios"].items():
                activation, kind, scale = name.split("-")
                if kind != normalized:
                    continue
                style = ACTIVATIONS[activation]
                if float(scale) != 1:
                    style = style._replace(line=":", marker="P")
                curves = [seed[column] for seed in seeds]
                layers = range(1, len(curves[0]) + 1)
                draw_seeds(axes, layers, curves, style, _label(name))
            axes.set_yscale("log")
            axes.set_title(
                f"{'with' if normalized == 'bn' else 'without'} BN, "
                + ("first step" if look == 0 else f"step {look + 1:,}")
            )
            axes.grid(alpha=0.3)
        grid[row, 0].set_ylabel("|g| / |w| of the kernel")
        grid[row, 0].legend(fontsize="x-small")
    for axes in grid[-1]:
        axes.set_xlabel("layer with a kernel, in order")
    plan = measurements["plan"]
    add_caption(
        figure,
        f"Inception, {plan['size']}x{plan['size']} pixels, width {plan['width']:g}, "
        f"batches of 32, rate {plan['learning_rate']:g}. Lines: mean over "
        f"{count_seeds(plan['seeds'])}; bands: their range; each row has its own axis. "
        "Times the rate, the share of a kernel that one step changes: one rate for all "
        "layers suits a flat line.",
    )
    return figure


EXPERIMENT = Experiment(
    "depth",
    "Relative gradients along the depth: ReLU, sigmoid, tanh",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
