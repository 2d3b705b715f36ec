"""Figure 3: steps and accuracies of the paper, compared with the measured curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bn_keras.experiments.rows import Row, mean_and_range, steps_to_accuracy, verdict

# What does not work according to the paper. Trained with the paper's rates only.
FAILING = ("inception-x5", "inception-sigmoid")
# Figure 3: steps to Inception's best accuracy in millions, and best accuracy in %.
FIGURE_3 = {
    "inception": (31.0, 72.2),
    "bn-baseline": (13.3, 72.7),
    "bn-x5": (2.1, 73.0),
    "bn-x30": (2.7, 74.8),
    "bn-x5-sigmoid": (None, 69.8),
}
COMPARISONS = {"paper": "the paper's rates", "tuned": "rates tuned for Inception"}
LABELS = {
    "inception": "Inception",
    "bn-baseline": "BN-Baseline",
    "bn-x5": "BN-x5",
    "bn-x30": "BN-x30",
    "bn-x5-sigmoid": "BN-x5-Sigmoid",
    "inception-x5": "Inception x5",
    "inception-sigmoid": "Inception-Sigmoid",
}
# The data sets of all plans have ten classes.
CLASSES = 10


def best(curve: Mapping[str, Any]) -> tuple[float, int]:
    """Return the best accuracy of a curve, and the first step at which it was reached.

    Args:
        curve: A dict with `"steps"` and `"accuracy"`.
    """
    index = int(np.argmax(curve["accuracy"]))
    return curve["accuracy"][index], curve["steps"][index]


def speedups(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], variant: str
) -> list[float | None]:
    """Return how many times faster than Inception a variant reaches Inception's best.

    Args:
        curves: A dict from the variant to its curves, one per seed.
        variant: A key of it.

    Returns:
        Inception's steps over the variant's for each seed, or None if the variant does
        not reach that accuracy.
    """
    ratios = []
    for reference, curve in zip(curves["inception"], curves[variant], strict=True):
        accuracy, step = best(reference)
        reached = steps_to_accuracy(curve["steps"], curve["accuracy"], accuracy)
        ratios.append(None if reached is None else step / max(reached, 1.0))
    return ratios


def rows(measurements: Mapping[str, Any]) -> list[Row]:
    """Compare figure 3 with what was measured, for both sets of rates."""
    table = [
        Row(
            f"Inception at {schedule(rate, halved)}, one seed: final test accuracy (%)",
            "-",
            f"{100 * accuracy:.1f}",
        )
        for rate, halved, accuracy in measurements["sweep"]
    ]
    for comparison in COMPARISONS:
        table += _compare(measurements, comparison)
    curves = measurements["curves"]["paper"]
    if "inception-x5" in curves:
        diverged = [curve["diverged"] is not None for curve in curves["inception-x5"]]
        final = mean_and_range(
            [curve["final"] for curve in curves["inception-x5"]], 100
        )
        table.append(
            Row(
                "Inception at 5 times its rate: final test accuracy (%)",
                "parameters reach infinity",
                f"{final}; {sum(diverged)} of {len(diverged)} seeds diverged",
                all(diverged),
            )
        )
    if "inception-sigmoid" in curves:
        final = [curve["final"] for curve in curves["inception-sigmoid"]]
        table.append(
            Row(
                "Inception with sigmoid, without BN: final test accuracy (%)",
                "chance",
                f"{mean_and_range(final, 100)}; chance is {100 / CLASSES:g}",
                max(final) < 1.2 / CLASSES,
            )
        )
    return table


def schedule(rate: float, halved: int) -> str:
    """Return a learning rate and its decay, as text.

    Args:
        rate: The learning rate of the first step.
        halved: How often it halves until the last step.
    """
    return f"rate {rate:g} decaying to 1/{2**halved}"


def _compare(measurements, comparison):
    """Return the rows of one comparison: best accuracies, steps, and their orders."""
    curves, where = measurements["curves"][comparison], COMPARISONS[comparison]
    # If Inception itself is at chance, no speed-up means anything.
    learned = min(best(curve)[0] for curve in curves["inception"]) > 2 / CLASSES
    judged = comparison == "paper" and learned
    maxima, ratios, table = {}, {}, []
    for name in [name for name in FIGURE_3 if name in curves]:
        steps, maximum = FIGURE_3[name]
        maxima[name] = [best(curve)[0] for curve in curves[name]]
        table.append(
            Row(
                f"{LABELS[name]}, {where}: best test accuracy (%)",
                f"{maximum} (ImageNet)" if comparison == "paper" else "-",
                mean_and_range(maxima[name], 100),
            )
        )
        if name == "inception":
            reached = [best(curve)[1] for curve in curves[name]]
            last = curves[name][0]["steps"][-1]
            table.append(
                Row(
                    f"Inception, {where}: steps to its best accuracy, of {last:,}",
                    "31.0 million" if comparison == "paper" else "-",
                    mean_and_range(reached, digits=0),
                )
            )
        elif steps:
            ratios[name] = speedups(curves, name)
            table.append(_row_of_speedup(name, comparison, ratios[name], judged))
    ratios["inception"] = [1.0] * len(maxima["inception"])
    return [
        _row_of_order("best accuracy", maxima, 1, comparison, judged),
        _row_of_order("speed to Inception's best", ratios, 0, comparison, judged),
        *table,
    ]


def _row_of_order(quantity, values, column, comparison, judged):
    """Compare the order of the variants with that in a column of figure 3."""
    sign = 1 if column else -1  # few steps, or a high accuracy, come first
    paper = sorted(values, key=lambda name: sign * FIGURE_3[name][column], reverse=True)
    # A variant that never reaches the accuracy is slower than all that do.
    seeds = np.array([[value or 0.0 for value in values[name]] for name in paper])
    measured = [paper[index] for index in np.argsort(-seeds.mean(1), kind="stable")]
    return Row(
        f"order by {quantity}, {COMPARISONS[comparison]}",
        " > ".join(LABELS[name] for name in paper) if comparison == "paper" else "-",
        " > ".join(LABELS[name] for name in measured),
        # The paper's order must hold for every seed.
        verdict(np.round(-np.diff(seeds, axis=0).max(0), 4)) if judged else None,
    )


def _row_of_speedup(name, comparison, ratios, judged):
    """Compare the steps of a variant with Inception's."""
    claim = f"{LABELS[name]}, {COMPARISONS[comparison]}: speed-up to Inception's best"
    ratio = FIGURE_3["inception"][0] / FIGURE_3[name][0]
    paper = f"more than 1 ({ratio:.1f})" if comparison == "paper" else "-"
    if None in ratios:
        measured = f"{ratios.count(None)} of {len(ratios)} seeds do not reach it"
        return Row(claim, paper, measured, False if judged else None)
    gains = np.round(np.array(ratios) - 1, 1)
    return Row(claim, paper, mean_and_range(ratios), verdict(gains) if judged else None)
