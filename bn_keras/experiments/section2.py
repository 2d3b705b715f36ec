"""The warning of section 2: normalization outside the gradient step."""

from typing import NamedTuple

import numpy as np

from bn_keras.experiments.drawing import (
    GREEN,
    VERMILION,
    WITH_BN,
    Style,
    add_caption,
    draw_seeds,
)
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import NO, UNDECIDED, YES, is_above, ratio_interval
from bn_keras.experiments.rows import Row, count_seeds, mean_and_range, with_interval
from bn_keras.experiments.section2_training import measure_layer, measure_network


class Section2Plan(NamedTuple):
    """The sizes of a scale."""

    seeds: int  # of the initial weights
    steps: int  # of gradient descent on one layer, each on all training digits
    rates: tuple[float, ...]  # learning rates of the network
    epochs: int  # of the network, in mini-batches of 60


PLANS = {
    "smoke": Section2Plan(seeds=1, steps=40, rates=(2.0,), epochs=2),
    "default": Section2Plan(
        seeds=5, steps=500, rates=(0.25, 0.5, 1.0, 1.5, 2.0), epochs=20
    ),
    "full": Section2Plan(
        seeds=10, steps=2000, rates=(0.1, 0.25, 0.5, 1.0, 1.5, 2.0), epochs=60
    ),
}
# The network counts as blown up if the norm of layer 1's weights has grown by this
# factor.
BLOWN_UP = 10
# The labels and styles of the normalizations.
STYLES = {
    "bn": ("With BN", WITH_BN),
    "scaled": ("E[x], Var[x] outside the step", Style(VERMILION, "--", "D")),
    "centred": ("E[x] outside the step", Style(GREEN, ":", "^")),
}


def _rounds(plan):
    """Train the layer and the network with each normalization.

    The measurements hold what `measure_layer` and `measure_network` returned for each
    seed.

    Reference:
        Ioffe & Szegedy 2015, section 2.
    """
    trainings = {}
    for kind in STYLES:
        trainings[f"layer-{kind}"] = (
            measure_layer,
            {"kind": kind, "steps": plan.steps},
        )
        # The third curve of the figure needs the highest rate only.
        for rate in plan.rates[-1:] if kind == "centred" else plan.rates:
            trainings[f"network-{kind}-rate{rate}"] = (
                measure_network,
                {"kind": kind, "rate": rate, "epochs": plan.epochs},
            )
    results = yield from measure_seeds(plan.seeds, trainings)
    return {
        "steps": plan.steps,
        "rates": list(plan.rates),
        "layer": {kind: results[f"layer-{kind}"] for kind in STYLES},
        "network": {
            kind: {
                str(rate): results[f"network-{kind}-rate{rate}"]
                for rate in plan.rates
                if f"network-{kind}-rate{rate}" in results
            }
            for kind in STYLES
        },
    }


def _plot(measurements):
    """Plot the layer's bias and loss above the network's weights and loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    (bias, loss), (weights, descent) = figure.subplots(2, 2)
    rate = measurements["rates"][-1]
    for kind, (label, style) in STYLES.items():
        layer = measurements["layer"][kind]
        network = measurements["network"][kind][str(rate)]
        epochs = range(1, len(network[0]["loss"]) + 1)
        for axes, steps, seeds, name in (
            (bias, layer[0]["steps"], layer, "bias"),
            (loss, layer[0]["steps"], layer, "loss"),
            (weights, epochs, network, "weights"),
            (descent, epochs, network, "loss"),
        ):
            draw_seeds(axes, steps, [seed[name] for seed in seeds], style, label)
    bias.set(xlabel="steps", ylabel="bias b", title="one layer: its bias")
    loss.set(xlabel="steps", ylabel="loss", title="one layer: its loss", ylim=(0, None))
    title = f"3 x 100 sigmoid units, learning rate {rate:g}"
    weights.set(xlabel="epochs", ylabel="norm of layer 1's weights", title=title)
    descent.set(xlabel="epochs", ylabel="training loss", title=title)
    for axes in (weights, descent):
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (bias, loss, weights, descent):
        axes.grid(alpha=0.3)
    bias.legend(loc="upper left", fontsize="small")
    add_caption(
        figure,
        "Top: one activation x = wu + b on all digits at once. Bottom: the network of "
        "section 4.1 on digits of 8x8 pixels. Lines: mean over "
        f"{count_seeds(len(measurements['layer']['bn']))}; bands: their range.",
    )
    return figure


def _rows(measurements):
    layer = measurements["layer"]
    scaled, centred = (
        {name: [seed[name] for seed in layer[kind]] for name in layer[kind][0]}
        for kind in ("scaled", "centred")
    )
    n = count_seeds(len(centred["end"]))
    worse = ratio_interval(scaled["deviations"], centred["deviations"])
    grows = np.allclose(centred["end"], centred["formula"], rtol=1e-4)
    unchanged = max(centred["change"]) < 1e-4
    return [
        Row(
            f"one layer, E[x] outside: bias after {measurements['steps']} steps",
            f"grows indefinitely (formula: {centred['formula'][0]:.2f}), loss fixed",
            f"{mean_and_range(centred['end'], digits=2)}; it changes the loss by "
            f"{max(centred['change']):.0e} at most",
            n,
            YES if grows and unchanged else NO,
            fact="section2-bias",
        ),
        Row(
            "one layer, Var[x] outside too: bias / deviation of x, second half",
            "worse",
            f"{with_interval(worse)} times as large; "
            f"{mean_and_range(scaled['deviations'])}, with E[x] alone outside "
            f"{mean_and_range(centred['deviations'])}",
            n,
            is_above(worse, 1),
            fact="section2-worse",
        ),
        _row_of_blow_up(measurements),
    ]


def _row_of_blow_up(measurements):
    """Return the row of the lowest rate at which the network blows up."""
    growth = {
        kind: {
            float(rate): [_largest(seed["weights"]) / seed["initial"] for seed in seeds]
            for rate, seeds in measurements["network"][kind].items()
        }
        for kind in ("scaled", "bn")
    }
    count = len(next(iter(growth["bn"].values())))
    lowest = {
        kind: [
            min(
                (rate for rate, of in by_rate.items() if of[i] > BLOWN_UP), default=None
            )
            for i in range(count)
        ]
        for kind, by_rate in growth.items()
    }
    tried = ", ".join(f"{rate:g}" for rate in growth["bn"])
    highest = max(growth["bn"])
    return Row(
        f"network, E[x], Var[x] outside: lowest rate that blows up, of {tried}",
        f"blows up, rate not stated (here: weights grow more than {BLOWN_UP} times)",
        f"at rate {_describe_lowest(lowest['scaled'])}, with BN at "
        f"{_describe_lowest(lowest['bn'])}; weights at rate {highest:g}: "
        f"{mean_and_range(growth['scaled'][highest])} times, with BN "
        f"{mean_and_range(growth['bn'][highest])} times",
        count_seeds(count),
        _verdict(lowest),
        fact="section2-blow-up",
    )


def _describe_lowest(rates):
    blown = [rate for rate in rates if rate is not None]
    if not blown:
        return "none"
    text = " to ".join(f"{rate:g}" for rate in sorted({min(blown), max(blown)}))
    never = len(rates) - len(blown)
    return f"{text}, none with {count_seeds(never)}" if never else text


def _verdict(lowest):
    """Return whether every seed blows up at a rate at which none with BN does."""
    scaled, bn = lowest["scaled"], lowest["bn"]
    if any(rate is not None for rate in bn) or all(rate is None for rate in scaled):
        return NO
    return UNDECIDED if None in scaled else YES


def _largest(norms):
    """Return the largest norm, or infinity if one is not finite."""
    values = np.array(norms, float)
    return float(values.max()) if np.isfinite(values).all() else np.inf


def _setup(plan):
    return {"rates": "several", "data": "digits"}


EXPERIMENT = Experiment(
    "section2",
    "Section 2: normalization outside the gradient step",
    PLANS,
    _rounds,
    _rows,
    _plot,
    _setup,
)
