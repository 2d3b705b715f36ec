"""Whether BN works by stable distributions: noise after BN, and other norms."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.drawing import STYLES, add_caption, draw_seeds
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.layers.noisy_normalization import MEAN, SCALE, SPREAD
from bn_keras.experiments.noise_rows import LABELS, NOISES, NORMS, rows
from bn_keras.experiments.noisy_training import LEARNING_RATE, train_network
from bn_keras.experiments.rows import count_seeds


class NoisePlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    depth: int  # weight layers of the VGG
    width: float  # factor of its channels
    batch_size: int
    steps: int  # of each training
    every: int  # steps that a point of a training curve averages
    test_every: int  # steps between two tests
    test_images: int  # pictures of each test
    population_batches: int  # mini-batches of BN's population statistics in a test
    target: float  # training accuracy to which steps are counted
    seeds: int  # trainings of each network
    networks: tuple[str, ...]  # keys of `LABELS`, those compared


_DEFAULT = NoisePlan(
    data="cifar10",
    depth=16,
    width=1 / 8,
    batch_size=64,
    steps=2000,
    every=100,
    test_every=1000,
    test_images=2000,
    population_batches=16,
    target=0.35,
    seeds=5,
    networks=(*NOISES, "l1", "l2", "linf"),
)
PLANS = {
    "smoke": _DEFAULT._replace(
        **{"data": "digits", "depth": 11, "width": 1 / 32, "batch_size": 32},
        **{"steps": 20, "every": 5, "test_every": 20, "test_images": 100},
        **{"population_batches": 2, "target": 0.2, "seeds": 1},
        networks=("none", "bn", "noisy-bn", "noise", "linf"),
    ),
    "default": _DEFAULT,
    "full": _DEFAULT._replace(
        **{"width": 1, "batch_size": 128, "steps": 15000, "every": 75},
        **{"test_every": 1500, "test_images": 10000, "population_batches": 100},
        **{"target": 0.9, "networks": tuple(LABELS)},
    ),
}


def _rounds(plan):
    """Train VGG without BN, with BN, with noise after BN, and with p-norms.

    In the measurements, `"networks"` is a dict from a key of `LABELS` to what
    `bn_keras.experiments.noisy_training.train_network` returned for each seed.

    Reference:
        Santurkar et al. 2018, sections 2.1 and 3.3.
    """
    sizes = plan._asdict()
    for name in ("target", "seeds", "networks"):
        del sizes[name]
    networks = yield from measure_seeds(
        plan.seeds,
        {name: (train_network, {"network": name, **sizes}) for name in plan.networks},
    )
    return {
        "every": plan.every,
        "test_every": plan.test_every,
        "target": plan.target,
        "networks": networks,
    }


def _plot(measurements):
    """Plot training accuracy with noise and with p-norms, and the moments of a unit.

    Reference:
        Santurkar et al. 2018, figure 2.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    networks = measurements["networks"]
    for axes, names in ((left, NOISES), (right, NORMS)):
        for name in [name for name in names if name in networks]:
            steps, curves = _curves(networks[name], "accuracy", measurements["every"])
            draw_seeds(axes, steps, curves, STYLES[name], LABELS[name])
        axes.set(xlabel="steps", ylabel="training accuracy", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    left.set_title("Noise")
    right.set_title("$L_p$ normalization")
    _plot_units(middle, networks)
    add_caption(
        figure,
        "Left and right: accuracy on the training mini-batches, noise included; mean "
        f"over {count_seeds(len(networks['bn']))}, bands are their range. Middle: "
        "the mean of one typical unit at the last steps, in its own standard "
        "deviations; the band is one standard deviation on either side. First seed.",
    )
    return figure


def _curves(seeds, kind, every):
    """Return the steps of a curve's points, and the curves `(seeds, points)`."""
    curves = np.array([seed[kind] for seed in seeds], float)
    return every * np.arange(1, curves.shape[1] + 1), curves


def _plot_units(axes, networks):
    """Plot a unit's mean and standard deviation at the last steps, by network."""
    names = NOISES[:3]
    for place, name in enumerate(names):
        unit = networks[name][0]["unit"]
        mean, deviation = (np.array(unit[key], float) for key in ("mean", "deviation"))
        # Each unit in its own standard deviations, so that they can be compared.
        usual = np.nanmean(deviation)
        mean = 4 * place + (mean - np.nanmean(mean)) / usual
        steps = np.arange(len(mean)) - len(mean) + 1
        style = STYLES[name]
        axes.plot(steps, mean, style.line, color=style.color)
        axes.fill_between(
            steps,
            mean - deviation / usual,
            mean + deviation / usual,
            color=style.color,
            alpha=0.2,
            linewidth=0,
        )
    axes.set(
        xlabel="steps before the last",
        title="Inputs of a unit (standard deviations)",
        yticks=[4 * place for place in range(len(names))],
        yticklabels=[LABELS[name] for name in names],
    )
    axes.set_yticks(axes.get_yticks(), axes.get_yticklabels(), rotation=90, va="center")
    axes.grid(alpha=0.3)


def _setup(plan):
    return {
        "data": plan.data,
        "convolutions": plan.depth - 3,
        "width": plan.width,
        "augmentation": "none",
        "initialization": "Glorot",
        "batch": plan.batch_size,
        "rate": LEARNING_RATE,
        "steps": plan.steps,
        "noise": f"mu {MEAN}, sigma {SCALE}, r {SPREAD}",
        "layers": [2, 9, 13],
    }


EXPERIMENT = Experiment(
    "noise",
    "Noisy BN and L_p normalization: speed without stable distributions",
    PLANS,
    _rounds,
    rows,
    _plot,
    _setup,
    {
        "width": "fits two CPU cores",
        "batch": "fits two CPU cores",
        "steps": "fits two CPU cores",
    },
)
