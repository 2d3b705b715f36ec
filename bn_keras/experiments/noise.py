"""Whether stable distributions are what BN gives: noise behind BN, and other norms.

Knows the networks that are compared, and what of; not how one is trained.
"""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.noisy_training import train_network
from bn_keras.experiments.parts import Part, check_scale, measure
from bn_keras.experiments.rows import Row, spread, steps_to, verdict

TITLE = "Noisy BN and L_p normalization: speed without stable distributions"

REMARK = """The paper has VGG-16 at full width, 15,000 steps of 128 CIFAR-10 pictures;
the scale "default" has an eighth of the width and 1,000 steps of 64. The rate is the
paper's 0.1, without momentum. Chosen where the paper is silent: He's initial weights,
pixels from -1 to 1, no distortion; the noise has one mu and one sigma for each channel
and step, and an m and an s for each value that BN normalizes together: each position of
a feature map in each example. Noise without BN stands behind a bias. Tests have no
noise; the population statistics of both networks with BN are estimated anew for them
(Algorithm 2), because moving averages of noisy inputs fit no inference without noise.

A p-norm is the mean of |x|^p over the same values, to the power 1/p; for infinity their
largest. It is of the inputs themselves: section 3.3 fixes the mean of the activations,
then normalizes them by the average of their p-norm "before shifting the mean". With a
norm of centred values p = 2 would be BN itself; so the variance of what a unit gives
is held by none of the three.

The movement of a distribution is the 2-Wasserstein distance between Gaussians of a
unit's mean and variance in two consecutive training mini-batches, in the unit's
standard deviations; the number is the median over units and steps. "As BN" agrees
where, in every seed, a network is at least three quarters of the way from the one
without BN to the one with it; a network that never reaches the training accuracy counts
with all its steps. Noise without BN "does not train" where, in every seed, it ends
nearer to chance than to the network without noise, which learns itself. The last steps
of one unit are of the middle watched layer, seed 0."""

OUTCOME = """With noisy BN the second layer's inputs move about twice as far in a step
as without BN, the ninth's and the last one's about as far: more in one seed, less in
the other, which is not what the paper says. The likely reason is the network without
BN, whose deep layers move by themselves at this rate; BN's own distributions hardly
move. Noisy BN needs somewhat more steps than BN and far fewer than the network without
it, but its training accuracy comes seven tenths of the way to BN's, a little less than
what is called "as BN" here. The noise in the training accuracy is likely the reason: on
test pictures, which have none, it ends close to BN. Noise without BN stays at chance
with one seed and begins to learn late with the other.

The p-norms learn as BN does. Their test accuracies, by moving averages, lie lower, most
of all for infinity, likely because the largest value of a mini-batch is a less steady
number than a mean."""

LABELS = {
    "none": "Without BN",
    "bn": "With BN",
    "noisy-bn": "With noisy BN",
    "noise": "Noise without BN",
    "l1": "L1",
    "l2": "L2",
    "linf": "L∞",
}
STYLES = {"none": "--", "noise": ":"}
NOISES = ("none", "bn", "noisy-bn", "noise")
NORMS = ("none", "bn", "l1", "l2", "linf")
# Of ten classes.
CHANCE = 0.1
# Of the way from the network without BN to that with it, for "as BN".
NEARLY = 0.75


class Plan(NamedTuple):
    """The sizes of a run.

    Args:
        data: name of the data set.
        depth: of the VGG.
        width: multiplies its channels.
        batch_size: examples a step.
        steps: of each training.
        every: steps of which one point of a training curve is the mean.
        test_every: steps between two tests.
        test_images: of each test.
        population_batches: mini-batches behind BN's statistics at a test.
        target: training accuracy up to which steps are counted.
        seeds: trainings of each network.
        networks: of `LABELS`, those compared.
    """

    data: str
    depth: int
    width: float
    batch_size: int
    steps: int
    every: int
    test_every: int
    test_images: int
    population_batches: int
    target: float
    seeds: int
    networks: tuple[str, ...] = tuple(LABELS)


PLANS = {
    "smoke": Plan(
        data="digits",
        depth=11,
        width=1 / 32,
        batch_size=32,
        steps=20,
        every=5,
        test_every=20,
        test_images=100,
        population_batches=2,
        target=0.2,
        seeds=1,
        networks=("none", "bn", "noisy-bn", "noise", "linf"),
    ),
    "default": Plan(
        data="cifar10",
        depth=16,
        width=1 / 8,
        batch_size=64,
        steps=1000,
        every=50,
        test_every=250,
        test_images=2000,
        population_batches=16,
        target=0.35,
        seeds=2,
    ),
    "full": Plan(
        data="cifar10",
        depth=16,
        width=1,
        batch_size=128,
        steps=15000,
        every=75,
        test_every=1500,
        test_images=10000,
        population_batches=100,
        target=0.9,
        seeds=3,
    ),
}


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train VGG without BN, with it, with noise behind it, and with p-norms.

    A training that was killed is begun anew; those that ended are kept.

    Args:
        workdir: folder for what each training measured; None keeps nothing.
        scale: a key of `PLANS`.
        directories: dict from a data set's name to the folder of its files.
        jobs: trainings side by side, each in a process.
        on_part: called as `on_part(name, done, total)` after each training.

    Returns:
        A dict: `"networks"`, dict from a key of `LABELS` to a list, for each seed what
        `bn_keras.experiments.noisy_training.train_network` returned; `"every"`,
        `"test_every"` and `"target"`, of the plan.

    Raises:
        ValueError: for an unknown scale.

    Reference:
        Santurkar et al. 2018, sections 2.1 and 3.3.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]
    facts = {name: getattr(plan, name) for name in Plan._fields[:9]}
    parts = {
        (network, seed): Part(
            f"{network}-seed{seed}",
            train_network,
            {"network": network, "seed": seed, **facts},
        )
        for seed in range(plan.seeds)
        for network in plan.networks
    }
    found = measure(list(parts.values()), workdir, directories, jobs, on_part)
    networks = {network: [] for network in plan.networks}
    for (network, _), part in parts.items():
        networks[network].append(found.results[part.name])
    return {
        "scale": scale,
        "seconds": found.seconds,
        "every": plan.every,
        "test_every": plan.test_every,
        "target": plan.target,
        "networks": networks,
    }


def plot(measurements):
    """Training accuracy with and without noise, a unit's moments, the p-norms.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`.

    Reference:
        Santurkar et al. 2018, figure 2.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    networks = measurements["networks"]
    # The norms get colours that the noises do not have.
    colors = ("blue", "orange", "purple", "brown", "pink")
    right.set_prop_cycle(color=[f"tab:{color}" for color in colors])
    for axes, names in ((left, NOISES), (right, NORMS)):
        for name in [name for name in names if name in networks]:
            steps, curves = _curves(networks[name], "accuracy", measurements["every"])
            style = STYLES.get(name, "-")
            line = draw_seeds(axes, steps, curves, style, LABELS[name])
            steps, curves = _curves(networks[name], "test", measurements["test_every"])
            axes.plot(steps, curves.mean(axis=0), ".", color=line.get_color())
        axes.set(xlabel="steps", ylabel="training accuracy (dots: test)", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    left.set_title("Noise")
    right.set_title("$L_p$ normalization")
    _plot_units(middle, networks)
    return figure


def rows(measurements):
    """What the paper says of noise and of p-norms, beside what was measured.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `bn_keras.experiments.rows.Row`.
    """
    networks, target = measurements["networks"], measurements["target"]
    every, compared = measurements["every"], ("noisy-bn", "bn", "none")

    def named(texts):
        return "; ".join(f"{LABELS[name]} {text}" for name, text in texts.items())

    found = []
    for layer in networks["none"][0]["instability"]:
        # None, from a training that diverged, becomes NaN.
        moved = {
            name: np.array([one["instability"][layer] for one in networks[name]], float)
            for name in compared
        }
        found.append(
            Row(
                f"movement of layer {layer}'s inputs in a step, in standard deviations",
                "more with noisy BN than without BN",
                named(
                    {name: spread(list(ones), digits=3) for name, ones in moved.items()}
                ),
                verdict(np.round(moved["noisy-bn"] - moved["none"], 3)),
            )
        )
    ends_of = every * np.arange(1, 1 + len(networks["none"][0]["accuracy"]))
    last = int(ends_of[-1])
    steps, reached, final = {}, {}, {}
    for name, ones in networks.items():
        curves = [one["accuracy"] for one in ones]
        steps[name] = [steps_to(ends_of, curve, target) for curve in curves]
        reached[name] = [last if one is None else one for one in steps[name]]
        final[name] = [
            float(np.mean(curve[-max(1, len(curve) // 4) :])) for curve in curves
        ]
    per_cent = {name: spread(ones, 100) for name, ones in final.items()}
    tests = {
        name: spread([one["test"][-1] for one in networks[name]], 100)
        for name in (*compared, *NORMS[2:])
        if name in networks
    }
    ends = "training accuracy of the last quarter, in %"
    halfway = (CHANCE + np.array(final["none"])) / 2
    learns = np.array(final["none"]) > 2 * CHANCE
    return [
        *found,
        Row(
            f"steps to {target:.0%} training accuracy",
            "noisy BN as BN",
            named({name: _steps(steps[name], last) for name in compared}),
            _as_bn("noisy-bn", reached),
        ),
        Row(
            f"{ends}: noisy BN",
            "as BN",
            named({name: per_cent[name] for name in compared}),
            _as_bn("noisy-bn", final),
        ),
        Row("test accuracy at the end, in %", "-", named(tests)),
        Row(
            f"{ends}: noise without BN",
            "does not train",
            per_cent["noise"],
            # A network at chance is no measure.
            verdict(np.where(learns, halfway - final["noise"], np.nan)),
        ),
        *[
            Row(f"{ends}: {LABELS[name]}", "as BN", per_cent[name], _as_bn(name, final))
            for name in NORMS[2:]
            if name in networks
        ],
    ]


def _steps(values, last):
    """Such as `"150 (100 to 200)"`, with those that never got there."""
    reached = [value for value in values if value is not None]
    never = len(values) - len(reached)
    text = spread(reached, digits=0) if reached else ""
    if never:
        text += (
            f"{', ' if text else ''}not in {last:,} ({never} of {len(values)} seeds)"
        )
    return text


def _as_bn(name, values):
    """Whether a network is nearly all the way from that without BN to that with it."""
    one, bn, none = (np.array(values[key], float) for key in (name, "bn", "none"))
    # Where those two do not differ, nothing decides it.
    way = (one - none) / np.where(bn == none, np.nan, bn - none)
    return verdict(np.round(way - NEARLY, 3))


def _curves(ones, kind, every):
    """The steps of a curve's points, and the curves `(seeds, points)`."""
    curves = np.array([one[kind] for one in ones], float)
    return every * np.arange(1, curves.shape[1] + 1), curves


def _plot_units(axes, networks):
    """A unit's mean and deviation at the last steps, a row for each network."""
    names = NOISES[:3]
    for place, name in enumerate(names):
        unit = networks[name][0]["unit"]
        mean, deviation = (np.array(unit[key], float) for key in ("mean", "deviation"))
        usual = np.nanmean(deviation)
        mean = 4 * place + (mean - np.nanmean(mean)) / usual
        steps = np.arange(len(mean)) - len(mean) + 1
        (line,) = axes.plot(steps, mean, STYLES.get(name, "-"))
        axes.fill_between(
            steps,
            mean - deviation / usual,
            mean + deviation / usual,
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set(
        xlabel="last steps",
        title="A unit's mean and standard deviation",
        yticks=[4 * place for place in range(len(names))],
        yticklabels=[LABELS[name] for name in names],
    )
    axes.set_yticks(axes.get_yticks(), axes.get_yticklabels(), rotation=90, va="center")
    axes.grid(alpha=0.3)
