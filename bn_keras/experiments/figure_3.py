"""Figure 3: steps and accuracies of the paper, compared with the measured curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bn_keras.experiments.answers import unpack_answers
from bn_keras.experiments.intervals import (
    NO,
    UNDECIDED,
    YES,
    Interval,
    accuracy_interval,
    has_size,
    is_above,
    isotonic,
    mean_interval,
    ratio_interval,
)
from bn_keras.experiments.rows import (
    Row,
    count_seeds,
    mean_and_range,
    steps_to_accuracy,
    with_interval,
)

# What does not work according to the paper.
FAILING = ("inception-x5", "inception-sigmoid")
# Figure 3: steps to Inception's best accuracy in millions, and best accuracy in %.
FIGURE_3 = {
    "inception": (31.0, 72.2),
    "bn-baseline": (13.3, 72.7),
    "bn-x5": (2.1, 73.0),
    "bn-x30": (2.7, 74.8),
    "bn-x5-sigmoid": (None, 69.8),
}
COMPARISONS = {"tuned": "rates tuned for Inception", "paper": "the paper's rates"}
# The verdicts are on this one: the paper's rates were tuned for the paper's Inception.
JUDGED = "tuned"
# The last points of a curve, whose mean is its final accuracy.
LAST_LOOKS = 3
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


def final_accuracy(curve: Mapping[str, Any]) -> float:
    """Return the mean accuracy of the last looks at a training.

    Args:
        curve: A dict with `"accuracy"`.
    """
    return float(np.mean(curve["accuracy"][-LAST_LOOKS:]))


def speedups(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    variant: str,
    target: float | None = None,
) -> list[float | None]:
    """Return how many times fewer steps than Inception a variant needs.

    The steps are those at which the isotonic curve, the closest one that never falls,
    reaches an accuracy: a single lucky look counts for little.

    Args:
        curves: A dict from the variant to its curves, one per seed.
        variant: A key of it.
        target: The accuracy. With None it is each seed's final one of Inception.

    Returns:
        Inception's steps over the variant's for each seed, or None if one of them does
        not reach that accuracy.
    """
    ratios: list[float | None] = []
    for reference, curve in zip(curves["inception"], curves[variant], strict=True):
        accuracy = final_accuracy(reference) if target is None else target
        slow, fast = (_steps_to(of, accuracy) for of in (reference, curve))
        if slow is None or fast is None:
            ratios.append(None)
        else:
            ratios.append(slow / max(fast, 1.0))
    return ratios


def _steps_to(curve, accuracy):
    rising = isotonic(curve["accuracy"])
    # The final accuracy is the mean of looks that the isotonic curve may have pooled
    # with others: it counts as reached at the last look.
    reachable = (
        min(accuracy, rising[-1]) if accuracy <= rising[-1] + 1e-12 else accuracy
    )
    return steps_to_accuracy(curve["steps"], rising.tolist(), reachable)


def rows(measurements: Mapping[str, Any]) -> list[Row]:
    """Compare figures 2 and 3 with what was measured, for both sets of rates."""
    table = []
    for comparison in COMPARISONS:
        table += _compare(measurements, comparison)
    table += _rows_of_failing(measurements)
    return table + [
        Row(
            f"Inception at {schedule(rate, halved)}: accuracy when tuned (%)",
            "-",
            f"{100 * accuracy:.1f}",
            count_seeds(1),
        )
        for rate, halved, accuracy in measurements["sweep"]
    ]


def schedule(rate: float, halved: int) -> str:
    """Return a learning rate and its decay, as text.

    Args:
        rate: The learning rate of the first step.
        halved: How often it halves until the last step.
    """
    return f"rate {rate:g} decaying to 1/{2**halved}"


def _compare(measurements, comparison):
    """Return the rows of one comparison."""
    curves, where = measurements["curves"][comparison], COMPARISONS[comparison]
    # If Inception itself is at chance, no speed-up means anything.
    learned = min(map(final_accuracy, curves["inception"])) > 2 / CLASSES
    judged = comparison == JUDGED and learned
    table = []
    for name in [name for name in FIGURE_3 if name in curves]:
        table.append(
            Row(
                f"{LABELS[name]}, {where}: final test accuracy (%)",
                f"{FIGURE_3[name][1]} (ImageNet)" if judged else "-",
                mean_and_range([final_accuracy(of) for of in curves[name]], 100)
                + _cost(curves[name]),
                count_seeds(len(curves[name])),
            )
        )
    for name in ("bn-baseline", "bn-x5", "bn-x30"):
        if name in curves:
            table += _rows_of_speedup(measurements, curves, name, where, judged)
    if {"bn-x5", "bn-x30"} <= set(curves):
        table += _rows_of_x30(measurements, curves, where, judged)
    if "bn-x5-sigmoid" in curves:
        table.append(_row_of_sigmoid(curves, where, judged))
    return table


def _cost(seeds):
    """Return time per step and memory as text, where a result has them."""
    if "milliseconds" not in seeds[0]:
        return ""
    time, memory = (
        np.mean([seed[key] for seed in seeds]) for key in ("milliseconds", "megabytes")
    )
    return f"; {time:.0f} ms per step, {memory:,.0f} MB"


def _rows_of_speedup(measurements, curves, name, where, judged):
    """Compare the steps of a variant with Inception's, at three accuracies."""
    paper = FIGURE_3["inception"][0] / FIGURE_3[name][0]
    table = []
    for target in (None, *measurements.get("targets", (0.25, 0.3))):
        at = "Inception's final accuracy" if target is None else f"{target:.0%}"
        ratios = speedups(curves, name, target)
        decided = judged and target is None
        missing = ratios.count(None)
        values = np.array(ratios, float)
        interval = None if missing else ratio_interval(values, np.ones(len(values)))
        table.append(
            Row(
                f"{LABELS[name]}, {where}: speed-up to {at}",
                f"faster, {paper:.1f} times" if decided else "-",
                f"not reached with {missing} of {count_seeds(len(ratios))}"
                if interval is None
                else with_interval(interval, unit=" times"),
                count_seeds(len(ratios)),
                (NO if interval is None else is_above(interval, 1))
                if decided
                else None,
                (NO if interval is None else has_size(interval, paper))
                if decided
                else None,
                fact=f"{name}-faster" if decided else "",
            )
        )
    return table


def _rows_of_x30(measurements, curves, where, judged):
    """Compare BN-x30 with BN-x5: slower at first, and better at the end."""
    # Steps of BN-x30 over those of BN-x5; None, not reached, becomes NaN.
    ratios = np.array([speedups(curves, name) for name in ("bn-x5", "bn-x30")], float)
    slower = ratio_interval(*ratios)
    n = count_seeds(ratios.shape[1])
    gain, over = _difference(curves, "bn-x30", "bn-x5")
    paper = FIGURE_3["bn-x30"][0] / FIGURE_3["bn-x5"][0]
    return [
        Row(
            f"BN-x30, {where}: steps to Inception's final accuracy, times BN-x5's",
            f"slower at first, {paper:.1f} times" if judged else "-",
            "not reached by both"
            if np.isnan(slower.estimate)
            else with_interval(slower, 2, " times"),
            n,
            is_above(slower, 1) if judged else None,
            has_size(slower, paper) if judged else None,
            fact="bn-x30-slower" if judged else "",
        ),
        Row(
            f"BN-x30, {where}: final test accuracy above BN-x5's (points)",
            "higher (1.8)" if judged else "-",
            with_interval(_points(gain), unit=" points"),
            over,
            is_above(gain, 0) if judged else None,
            fact="bn-x30-best" if judged else "",
        ),
    ]


def _row_of_sigmoid(curves, where, judged):
    """Compare the sigmoid network with chance, and with Inception."""
    final = [final_accuracy(of) for of in curves["bn-x5-sigmoid"]]
    above = mean_interval(np.array(final) - 2 / CLASSES)
    gain, over = _difference(curves, "bn-x5-sigmoid", "inception")
    return Row(
        f"BN-x5-Sigmoid, {where}: learns; final accuracy above Inception's (points)",
        "learns; -2.4" if judged else "-",
        with_interval(_points(gain), unit=" points"),
        over,
        is_above(above, 0) if judged else None,
        is_above(Interval(*(-gain.estimate, -gain.high, -gain.low)), 0)
        if judged
        else None,
        fact="sigmoid-learns" if judged else "",
    )


def _difference(curves, name, other):
    """Return the interval of a difference of final accuracies, and what it is over."""
    seeds = [curves[name], curves[other]]
    n = count_seeds(len(seeds[0]))
    if all("correct" in seed for of in seeds for seed in of):
        images = seeds[0][0]["images"]
        correct = [
            unpack_answers([seed["correct"] for seed in of], images) for of in seeds
        ]
        return accuracy_interval(*correct), f"{n}, {images:,} pictures"
    final = [[final_accuracy(seed) for seed in of] for of in seeds]
    return mean_interval(np.subtract(final[0], final[1])), n


def _points(interval):
    return Interval(*(100 * value for value in interval))


def _rows_of_failing(measurements):
    """Return the rows of the networks that do not train according to the paper."""
    table = []
    for comparison, where in COMPARISONS.items():
        curves = measurements["curves"][comparison]
        # The verdict is on the tuned rates, where a result has them.
        judged = comparison == JUDGED or not any(
            name in measurements["curves"][JUDGED] for name in FAILING
        )
        for name, paper, fact in (
            ("inception-x5", "parameters reach infinity", "inception-x5-diverges"),
            ("inception-sigmoid", "chance", "sigmoid-chance"),
        ):
            if name not in curves:
                continue
            seeds = curves[name]
            diverged = [curve["diverged"] is not None for curve in seeds]
            final = [curve["final"] for curve in seeds]
            fails = (
                diverged
                if name == "inception-x5"
                else [value < 1.2 / CLASSES for value in final]
            )
            table.append(
                Row(
                    f"{LABELS[name]}, {where}: final test accuracy (%)",
                    paper if judged else "-",
                    f"{mean_and_range(final, 100)}; {sum(diverged)} of "
                    f"{count_seeds(len(diverged))} diverged; chance is "
                    f"{100 / CLASSES:g}",
                    count_seeds(len(seeds)),
                    _all_or_none(fails) if judged else None,
                    fact=fact if judged else "",
                )
            )
    return table


def _all_or_none(values):
    return YES if all(values) else UNDECIDED if any(values) else NO
