"""Section 3.4: with BN, dropout and L2 can be removed or reduced."""

from itertools import product
from typing import NamedTuple

import numpy as np

from bn_keras.experiments.answers import unpack_answers
from bn_keras.experiments.drawing import WITH_BN, WITHOUT_BN, add_caption
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.intervals import Interval, accuracy_interval, is_above
from bn_keras.experiments.regularization_training import train_regularized
from bn_keras.experiments.rows import Row, count_seeds, mean_and_range, with_interval

DROPOUTS = (0.0, 0.05, 0.4)  # none, that of the ensemble, that of Inception
# What removing dropout may cost, in test accuracy; fixed before the run.
MARGIN = 0.005


class RegularizationPlan(NamedTuple):
    """The sizes of a scale."""

    data: str  # the name of the data set
    images: int  # of the training
    epochs: int  # passes over them
    l2: tuple[float, float]  # weights of the squares of the kernels: all, and a fifth
    seeds: int


PLANS = {
    "smoke": RegularizationPlan("digits", 100, 1, (1e-3, 2e-4), 1),
    "default": RegularizationPlan("mnist", 2000, 40, (1e-3, 2e-4), 5),
    "full": RegularizationPlan("mnist", 2000, 200, (1e-3, 2e-4), 20),
}
_LABELS = {"bn": ("With BN", WITH_BN), "none": ("Without BN", WITHOUT_BN)}


def _rounds(plan):
    """Train with and without BN, with each dropout and each L2 weight.

    In the measurements, `"results"` is a dict from `"bn"` or `"none"` to a list, for
    each L2 weight, of lists, for each dropout, of what `train_regularized` returned for
    each seed.

    Reference:
        Ioffe & Szegedy 2015, sections 3.4 and 4.2.1.
    """
    trainings = {
        f"{network}-dropout{dropout:g}-l2{l2:g}": (
            train_regularized,
            {
                "data": plan.data,
                "images": plan.images,
                "epochs": plan.epochs,
                "batch_normalization": network == "bn",
                "dropout": dropout,
                "l2": l2,
            },
        )
        for network, l2, dropout in product(_LABELS, plan.l2, DROPOUTS)
    }
    results = yield from measure_seeds(plan.seeds, trainings)
    return {
        "results": {
            network: [
                [results[f"{network}-dropout{d:g}-l2{l2:g}"] for d in DROPOUTS]
                for l2 in plan.l2
            ]
            for network in _LABELS
        },
    }


def _rows(measurements):
    results, weights = measurements["results"], measurements["plan"]["l2"]
    table = []
    for network, (label, _) in _LABELS.items():
        # Without dropout instead of 40%, at the larger L2 weight.
        less, more = results[network][0][0], results[network][0][-1]
        images = less[0]["images"]
        gain = accuracy_interval(
            *(unpack_answers([s["correct"] for s in of], images) for of in (less, more))
        )
        judged = network == "bn"
        table.append(
            Row(
                f"{label}: test accuracy without dropout above that with 40% (points)",
                f"can be removed (here: at most {100 * MARGIN:g} lower)"
                if judged
                else "-",
                with_interval(Interval(*(100 * x for x in gain)), 2, " points"),
                count_seeds(len(less), f"{images:,} pictures"),
                is_above(gain, -MARGIN) if judged else None,
                fact="dropout" if judged else "",
            )
        )
    for (network, (label, _)), (i, l2), (j, dropout) in product(
        _LABELS.items(), enumerate(weights), enumerate(DROPOUTS)
    ):
        seeds = results[network][i][j]
        test, train = ([seed[key] for seed in seeds] for key in ("test", "train"))
        table.append(
            Row(
                f"{label}, L2 {l2:g}, dropout {dropout:.0%}: test accuracy (%)",
                "-",
                f"{mean_and_range(test, 100, 2)}; train {mean_and_range(train, 100)}",
                count_seeds(len(seeds)),
            )
        )
    return table


def _plot(measurements):
    """Plot the test error by dropout, one panel for each L2 weight."""
    from matplotlib.figure import Figure

    results, plan = measurements["results"], measurements["plan"]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, len(plan["l2"]), sharey=True)
    for index, (axes, l2) in enumerate(zip(panels, plan["l2"], strict=True)):
        for network, (label, style) in _LABELS.items():
            errors = np.array(
                [
                    [100 * (1 - seed["test"]) for seed in of]
                    for of in results[network][index]
                ]
            )
            mean = errors.mean(1)
            axes.errorbar(
                [100 * dropout for dropout in DROPOUTS],
                mean,
                [mean - errors.min(1), errors.max(1) - mean],
                linestyle=style.line,
                color=style.color,
                marker=style.marker,
                capsize=3,
                label=label,
            )
        axes.set(title=f"L2 weight {l2:g}", xlabel="dropout (%)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test error (%)")
    panels[0].legend(fontsize="small")
    add_caption(
        figure,
        f"3 x 100 ReLU units, {plan['images']:,} training images, {plan['epochs']} "
        f"epochs. Mean over {count_seeds(plan['seeds'])}; bars are their range. The "
        "axis does not start at 0.",
    )
    return figure


EXPERIMENT = Experiment(
    "regularization",
    "Dropout and L2 with and without BN",
    PLANS,
    _rounds,
    _rows,
    _plot,
    lambda plan: {},
)
