"""The second paper's question, whether BN makes the loss smoother, measured.

Knows the two set-ups and their figure; not how a loss is probed.
"""

from itertools import repeat
from typing import Any, NamedTuple

import keras
import numpy as np

from bn_keras.batch_normalization import BatchNormalization
from bn_keras.data import Shuffling
from bn_keras.experiments.parts import Part, check_scale, load_data, measure
from bn_keras.experiments.probing import (
    covariate_shift,
    layers_of,
    loss_and_gradients,
    probe,
)
from bn_keras.experiments.rows import Row, spread
from bn_keras.models import VGG
from bn_keras.preprocessing import Preprocessing

TITLE = "Why it works: the loss around networks with and without BN"
_BATCH_SIZE = 128
# Each network's label and line style.
_STYLES = {"with": ("With BN", "-"), "without": ("Without BN", "--")}
_SETUPS = ("vgg", "linear")


class Plan(NamedTuple):
    """Sizes of the experiment.

    Args:
        seeds: how many.
        vgg: of the VGG network, by name.
        linear: of the deep linear network, by name.
    """

    seeds: int
    vgg: dict[str, Any]
    linear: dict[str, Any]


# The rates probed, over the learning rate; `drawn` counts layers from 1.
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
    "smoke": Plan(
        1,
        _VGG
        | {"data": "digits", "depth": 11, "width": 0.05, "steps": 4, "every": 2}
        | {"factors": [0.5, 4]},
        _LINEAR
        | {"depth": 5, "units": 6, "examples": 50, "steps": 4, "every": 2}
        | {"drawn": [3, 5]},
    ),
    "default": Plan(
        3,
        _VGG | {"depth": 11, "width": 0.25, "steps": 500, "every": 20},
        _LINEAR | {"steps": 1000, "every": 40},
    ),
    "full": Plan(
        3,
        _VGG
        | {"depth": 16, "width": 1.0, "steps": 15000, "every": 100}
        | {"factors": [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4], "drawn": [5, 10]},
        _LINEAR | {"steps": 10000, "every": 100},
    ),
}

REMARK = (
    "Smaller than the paper's: VGG-11 at a quarter of its width and 500 steps instead "
    "of 15,000; 1,000 steps of the deep linear network instead of 10,000. The rates, "
    "the mini-batch and the ranges of the probing steps are the paper's. Chosen where "
    "it is silent: He's initial weights for VGG and Glorot's for the linear network; "
    "a layer's weights are its kernel with its bias or its gamma and beta; 1,000 "
    "examples of 50 inputs, the targets a Gaussian matrix times them, the loss the sum "
    "over the examples of the mean square over the outputs. The network without BN "
    "trains at the paper's rate 0.1, so no other was needed. The shading of the loss "
    "and of the gradient predictiveness runs from the smallest to the largest over "
    "the probing steps, and the line is its upper end; elsewhere it is the range of "
    "the seeds. "
    "For VGG the claim holds on every measure, but not from the start: for about the "
    "first hundred steps the loss with BN varies more, afterwards less, while the "
    "network without BN stays at a smoothness of about 2 over the rate, where a step "
    "overshoots. Likely the narrow layers are a reason: BN makes the loss independent "
    "of a kernel's length, so that its gradient is the larger the shorter the kernel, "
    "and kernels of few channels are short. The covariate shift with BN is larger by "
    "its length and smaller by its angle: without BN the overshooting steps turn the "
    "gradients of the later layers.\n"
    "For the deep linear network BN is smoother by far at the first step and not "
    "afterwards: without BN the loss falls onto a plateau at once, where it is flat "
    "and hardly learns, while with BN it goes on falling. The means over the steps, "
    "of the gradients and of the covariate shift alike, are those of the first probe; "
    "the median tells of the others. At a rate of 1e-6 earlier layers do not turn the "
    "gradients at all. The units were chosen so that both networks train at the "
    "paper's rate in every seed: with 10 or 20 units and these examples the network "
    "with BN reaches a smoothness of 2 over the rate, its loss rises along the longer "
    "probing steps, and on average it is rougher than the one without on all measures."
)


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train each network with and without BN, and probe the loss on the way.

    Args:
        workdir: folder for what each part measured; None keeps nothing.
        scale: a key of `PLANS`.
        directories: dict from a data set's name to the folder of its files.
        jobs: processes side by side.
        on_part: called as `on_part(name, done, total)`.

    Returns:
        dict of `scale`, `seconds`, and for each of `"vgg"` and `"linear"` a dict of
        `title` and, under `"with"` and `"without"`, what each seed measured.

    Raises:
        ValueError: for an unknown scale.

    Reference:
        Santurkar et al. 2018, sections 2.2 and 3.1.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]
    setups = {"vgg": (_measure_vgg, plan.vgg), "linear": (_measure_linear, plan.linear)}
    parts = {
        (seed, setup, word): Part(
            f"{setup}-{word}-bn-seed{seed}",
            function,
            {"seed": seed, "batch_normalization": word == "with", **arguments},
        )
        for seed in range(plan.seeds)
        for setup, (function, arguments) in setups.items()
        for word in _STYLES
    }
    measured = measure(list(parts.values()), workdir, directories, jobs, on_part)
    found: dict[str, Any] = {
        "scale": scale,
        "seconds": measured.seconds,
        "vgg": {"title": f"VGG-{plan.vgg['depth']} on {plan.vgg['data']}"},
        "linear": {"title": f"{plan.linear['depth']}-layer deep linear network"},
    }
    for (_, setup, word), part in parts.items():
        found[setup].setdefault(word, []).append(measured.results[part.name])
    return found


def _measure_vgg(
    directories, folder, seed, batch_normalization, data, depth, width, **following
):
    """Train a VGG network on pictures of 32x32 pixels, and follow its loss."""
    del folder
    pictures = load_data(data, directories.get(data))
    keras.utils.set_random_seed(seed)
    model = VGG(
        input_shape=(32, 32, pictures.shape[-1]),
        classes=len(pictures.class_names),
        head="small",
        depth=depth,
        width=width,
        normalization=BatchNormalization if batch_normalization else None,
    )
    # From -1 to 1, as in the recipes; smaller pictures are enlarged.
    preprocessing = Preprocessing(size=(32, 32), scale=1 / 127.5, offset=-1.0)
    batches = pictures.train.batches(
        _BATCH_SIZE, Shuffling(seed), preprocessing, epochs=None
    )
    loss = keras.losses.SparseCategoricalCrossentropy()
    return _follow(model, loss, batches, **following)


def _measure_linear(
    directories, folder, seed, batch_normalization, depth, units, examples, **following
):
    """Train a deep linear network to be a Gaussian matrix, and follow its loss."""
    del directories, folder
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(examples, units))
    targets = inputs @ rng.normal(size=(units, units)) / np.sqrt(units)
    keras.utils.set_random_seed(seed)
    # In float64: the shortest steps change a weight by less than float32 resolves.
    x = first = keras.Input((units,), dtype="float64")
    for layer in range(1, depth + 1):
        x = keras.layers.Dense(units, use_bias=False, dtype="float64")(x)
        if batch_normalization and layer < depth:
            x = BatchNormalization(dtype="float64")(x)
    loss = keras.losses.MeanSquaredError(reduction="sum", dtype="float64")
    batches = repeat((inputs, targets))
    return _follow(keras.Model(first, x), loss, batches, **following)


def _follow(model, loss, batches, rate, factors, steps, every, drawn):
    """Train by gradient descent, and probe steps' own mini-batches before them.

    Of every probe what is `drawn`; of the shift of each layer, from the second on,
    the mean over the probes under `"layers"`.
    """
    model.compile(keras.optimizers.SGD(rate), loss, jit_compile=False)
    evaluate = loss_and_gradients(model, loss)
    layers = layers_of(model)
    probes, shifts = [], []
    for step, batch in zip(range(steps), batches, strict=False):
        if step % every == 0:

            def compute(weights, batch=batch):
                return evaluate(weights, *batch)

            weights = [
                keras.ops.convert_to_tensor(v) for v in model.trainable_variables
            ]
            probes.append(probe(compute, weights, [rate * f for f in factors]))
            shifts.append(covariate_shift(compute, weights, layers, rate))
        model.train_on_batch(*batch)
    values = np.array([(p.loss, *p.losses, *p.distances, p.smoothness) for p in probes])
    names = ("loss", "loss_least", "loss_most")
    names += ("distance_least", "distance_most", "smoothness")
    found: dict[str, Any] = {"steps": list(range(0, steps, every))}
    found |= {name: _rounded(values[:, i]) for i, name in enumerate(names)}
    moved = np.array(shifts)
    for i, name in enumerate(("shift_distance", "shift_cosine")):
        found[name] = {"layers": _rounded(moved[:, :, i].mean(axis=0))} | {
            str(layer): _rounded(moved[:, layer - 2, i]) for layer in drawn
        }
    return found


def plot(measurements):
    """Figure 4 of the paper and its covariate shift, one column for each set-up.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 13), layout="constrained")
    grid = figure.subplots(5, 2, sharex="col", squeeze=False)
    labels = ("loss", "gradient predictiveness", "effective beta-smoothness")
    labels += ("covariate shift, L2", "covariate shift, cosine")
    for column, setup in enumerate(_SETUPS):
        facts = measurements[setup]
        grid[0, column].set_title(facts["title"])
        grid[-1, column].set_xlabel("steps")
        for row, label in enumerate(labels):
            axes = grid[row, column]
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
            if row < 4:
                axes.set_yscale("log")
        for color, (word, style) in enumerate(_STYLES.items()):
            _draw(grid[:, column], facts[word], *style, f"C{color}")
        for row in (0, 3):
            grid[row, column].legend(fontsize="small")
    return figure


def _draw(column, seeds, label, style, color):
    """One network's lines, over all panels of its set-up."""
    steps = seeds[0]["steps"]

    def draw(axes, least, most, middle, label, marker="", alpha=0.2):
        axes.plot(
            steps, middle, style, color=color, label=label, marker=marker, markersize=3
        )
        axes.fill_between(steps, least, most, color=color, alpha=alpha, linewidth=0)

    def over(name):
        return np.array([seed[name] for seed in seeds])

    # A range over the rates, as in the paper: its ends averaged over the seeds.
    for axes, name in zip(column, ("loss", "distance"), strict=False):
        least, most = (over(f"{name}_{end}").mean(0) for end in ("least", "most"))
        draw(axes, least, most, most, label)
    smooth = over("smoothness")
    draw(column[2], smooth.min(0), smooth.max(0), smooth.mean(0), label)
    for axes, name in zip(column[3:], ("shift_distance", "shift_cosine"), strict=True):
        drawn = [layer for layer in seeds[0][name] if layer != "layers"]
        for layer, marker in zip(drawn, ("", "o"), strict=True):
            found = np.array([seed[name][layer] for seed in seeds])
            place = (found.min(0), found.max(0), found.mean(0))
            draw(axes, *place, f"{label}, layer {layer}", marker, alpha=0.1)


def rows(measurements):
    """The paper's claims beside what was measured, one block for each set-up.

    Args:
        measurements: what `run` returned.

    Returns:
        List of `Row`. A ratio above 1 says that BN made the loss smoother.
    """
    table = []
    for setup in _SETUPS:
        facts = measurements[setup]
        for claim, value in _MEASURES.items():
            pairs = zip(facts["without"], facts["with"], strict=True)
            ratios = [value(without) / value(with_bn) for without, with_bn in pairs]
            table.append(
                Row(
                    f"{facts['title']}: {claim}, without BN over with BN",
                    "above 1",
                    spread(ratios, digits=2),
                    bool(min(ratios) > 1),
                )
            )
        for claim, name, sign in (
            ("L2 covariate shift", "shift_distance", 1),
            ("cosine of the covariate shift", "shift_cosine", -1),
        ):
            with_bn, without = (
                [float(np.mean(seed[name]["layers"])) for seed in facts[word]]
                for word in _STYLES
            )
            table.append(
                Row(
                    f"{facts['title']}: {claim}, mean over layers and steps",
                    "no smaller with BN" if sign > 0 else "no nearer to 1 with BN",
                    f"{spread(with_bn, digits=3)} with BN, "
                    f"{spread(without, digits=3)} without",
                    # To the digits that are shown: both cosines may be nearly 1.
                    bool(sign * np.round(np.mean(with_bn) - np.mean(without), 3) >= 0),
                )
            )
    return table


def _width(name):
    def width(seed):
        return np.mean(np.subtract(seed[f"{name}_most"], seed[f"{name}_least"]))

    return width


# A claim to its number, of which a smoother loss has less.
_MEASURES = {
    "mean width of the loss variation": _width("loss"),
    "mean width of the gradient predictiveness": _width("distance"),
    "largest effective beta-smoothness": lambda seed: max(seed["smoothness"]),
    "median effective beta-smoothness": lambda seed: np.median(seed["smoothness"]),
}


def _rounded(values):
    return [float(f"{value:.4g}") for value in values]
