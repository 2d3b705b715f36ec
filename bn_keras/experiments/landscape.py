"""The second paper's question, whether BN makes the loss smoother, measured.

Knows the two set-ups and their figure; not how a loss is probed.
"""

from itertools import repeat
from typing import Any, NamedTuple

import keras
import numpy as np

from bn_keras.data import Shuffling
from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.parts import Part, check_scale, load_data, measure
from bn_keras.experiments.probing import (
    covariate_shift,
    layers_of,
    loss_and_gradients,
    probe,
)
from bn_keras.experiments.rows import Row, rounded, spread, verdict
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import VGG

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
        seeds=1,
        vgg=_VGG
        | {"data": "digits", "depth": 11, "width": 0.05, "steps": 4, "every": 2}
        | {"factors": [0.5, 4]},
        linear=_LINEAR
        | {"depth": 5, "units": 6, "examples": 50, "steps": 4, "every": 2}
        | {"drawn": [3, 5]},
    ),
    "default": Plan(
        seeds=3,
        vgg=_VGG | {"depth": 11, "width": 0.25, "steps": 2000, "every": 50},
        linear=_LINEAR | {"steps": 1000, "every": 40},
    ),
    "full": Plan(
        seeds=3,
        vgg=_VGG
        | {"depth": 16, "width": 1.0, "steps": 15000, "every": 100}
        | {"factors": [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4], "drawn": [5, 10]},
        linear=_LINEAR | {"steps": 10000, "every": 100},
    ),
}

REMARK = """The rates, the mini-batch of 128 and the range of the probing steps are the
paper's, as is the size at the scale "full". The scale "default" has VGG-11 at a quarter
of its width and 2,000 steps instead of 15,000, and 1,000 steps of the deep linear
network instead of 10,000.

Chosen where the paper is silent: He's initial weights for VGG and Glorot's for the
linear network; a layer's weights are its kernel with its bias or its gamma and beta;
1,000 examples of 50 inputs, the targets a Gaussian matrix times them, the loss the sum
over the examples of the mean square over the outputs. Both networks train at the
paper's rates. What is called smoother is smaller: the width of the range of the loss
over the probing steps, the largest change of the gradient over them, and the effective
beta-smoothness. Each is the median over the probes of a training, and again what the
first probe alone found, of which the paper says nothing. The network without BN is
compared with the one with BN of the same seed. The shading of the loss and of the
gradient predictiveness runs from the smallest to the largest over the probing steps,
and the line is its upper end; elsewhere it is the range of the seeds."""

OUTCOME = """For VGG the loss is smoother with BN on all three measures, in every seed,
but not from the start: at the first step all three are smaller without BN, and in a run
of 500 steps alone the loss varied less with BN in one seed of three only; therefore
there are 2,000. Likely the
narrow layers are a reason: BN makes the loss independent of a kernel's length, so that
its gradient is the larger the shorter the kernel, and kernels of few channels are
short. The covariate shift is smaller with BN and its cosine nearer to 1, which is not
what the paper shows: at this rate the steps without BN overshoot and turn the gradients
of the later layers.

The deep linear network is smoother with BN at the first step, by far in the gradient,
and afterwards it is not: without BN the loss falls at once onto a plateau, where it is
flat and hardly learns, while with BN it goes on falling. At a rate of 1e-6 earlier
layers hardly turn the gradients of later ones, so that the cosines decide nothing. The
number of units matters: 50 were chosen because the network with BN was rougher with 10
or 20, where its loss rose along the longer probing steps."""


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train each network with and without BN, and probe the loss on the way.

    A training that was killed is begun anew; those that ended are kept.

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

    Of the covariate shift it keeps that of the layers `drawn`.
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
    # The variation is a small difference: it cannot be had from rounded losses.
    values = np.array(
        [
            (p.loss, *p.losses, np.ptp(p.losses), *p.distances, p.smoothness)
            for p in probes
        ]
    )
    names = ("loss", "loss_least", "loss_most", "loss_variation")
    names += ("distance_least", "distance_most", "smoothness")
    found: dict[str, Any] = {"steps": list(range(0, steps, every))}
    found |= {name: rounded(values[:, i], 4) for i, name in enumerate(names)}
    moved = np.array(shifts)
    for i, name in enumerate(("shift_distance", "shift_cosine")):
        found[name] = {
            str(layer): rounded(moved[:, layer - 2, i], 4) for layer in drawn
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
    labels = (
        "loss (range: variation)",
        "gradient predictiveness\n(smaller: smoother)",
        "effective beta-smoothness\n(smaller: smoother)",
    )
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
        for color, (word, style) in zip(
            ("blue", "orange"), _STYLES.items(), strict=True
        ):
            _draw(grid[:, column], facts[word], *style, f"tab:{color}")
        for row in (0, 3):
            grid[row, column].legend(fontsize="small")
    return figure


def _draw(column, seeds, label, style, color):
    """One network's lines, over all panels of its set-up."""
    steps = seeds[0]["steps"]

    def over(name):
        return np.array([seed[name] for seed in seeds], float)

    # A range over the rates, as in the paper: its ends averaged over the seeds.
    for axes, name in zip(column, ("loss", "distance"), strict=False):
        least, most = (over(f"{name}_{end}").mean(0) for end in ("least", "most"))
        axes.plot(steps, most, style, color=color, label=label)
        axes.fill_between(steps, least, most, color=color, alpha=0.2, linewidth=0)
    for axes in column[2:]:
        axes.set_prop_cycle(color=[color])
    draw_seeds(column[2], steps, over("smoothness"), style, label)
    for axes, name in zip(column[3:], ("shift_distance", "shift_cosine"), strict=True):
        for layer, marker in zip(seeds[0][name], ("", "o"), strict=True):
            curves = [seed[name][layer] for seed in seeds]
            line = draw_seeds(axes, steps, curves, style, f"{label}, layer {layer}")
            line.set(marker=marker, markersize=3)


def rows(measurements):
    """The paper's claims beside what was measured, one block for each set-up.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `bn_keras.experiments.rows.Row`.
    """
    table = []
    for setup in _SETUPS:
        facts = measurements[setup]
        title = facts["title"]

        networks = [facts[word] for word in _STYLES]
        for name, curve in _MEASURES.items():
            curves = [[curve(seed) for seed in seeds] for seeds in networks]
            with_bn, without = ([_median(one) for one in seeds] for seeds in curves)
            ratios = _ratios(without, with_bn)
            first = _ratios(*([one[0] for one in seeds] for seeds in reversed(curves)))
            table += [
                Row(
                    f"{title}: {name}, median over the steps",
                    "smoother with BN",
                    f"without BN {spread(ratios, digits=2)} times as large",
                    verdict(np.subtract(ratios, 1).round(2)),
                ),
                Row(
                    f"{title}: {name}, at the first step",
                    "-",
                    f"without BN {spread(first, digits=2)} times as large",
                ),
            ]
        layers = " and ".join(networks[0][0]["shift_cosine"])
        ratios = _ratios(*(_shifts(seeds, "shift_distance") for seeds in networks))
        with_bn, without = (_shifts(seeds, "shift_cosine") for seeds in networks)
        table += [
            Row(
                f"{title}: covariate shift, L2, layers {layers}, median",
                "no smaller with BN",
                f"with BN {spread(ratios, digits=2)} times as large",
                verdict(np.subtract(ratios, 1).round(2)),
            ),
            Row(
                f"{title}: covariate shift, cosine, layers {layers}, median",
                "no nearer to 1 with BN",
                f"with BN {spread(with_bn, digits=3)}, "
                f"without BN {spread(without, digits=3)}",
                verdict(np.round(np.subtract(without, with_bn), 3)),
            ),
        ]
    return table


def _numbers(values):
    """NaN for what is infinite, or None in JSON: it decides nothing."""
    found = np.array(values, float)
    return np.where(np.isfinite(found), found, np.nan)


# A name to its curve, of which a smoother loss has less.
_MEASURES = {
    "loss variation": lambda seed: _numbers(seed["loss_variation"]),
    "gradient predictiveness": lambda seed: _numbers(seed["distance_most"]),
    "effective beta-smoothness": lambda seed: _numbers(seed["smoothness"]),
}


def _median(curve):
    return np.nan if np.isnan(curve).any() else float(np.median(curve))


def _shifts(seeds, name):
    """Of each seed the mean over the drawn layers of the median over the probes."""
    return [
        float(np.mean([_median(_numbers(curve)) for curve in seed[name].values()]))
        for seed in seeds
    ]


def _ratios(ones, others):
    """One for each seed; NaN where the divisor vanishes."""
    under = np.array(others, float)
    return (np.array(ones, float) / np.where(under == 0, np.nan, under)).tolist()
