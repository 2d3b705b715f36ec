"""One row of the table of results: a claim of a paper and what was measured."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bn_keras.experiments.intervals import NO, UNDECIDED, YES, Interval


class Row(NamedTuple):
    """One row of the table of results.

    The verdicts are `"yes"`, `"no"`, `"undecided"`, or None if no paper claims it; see
    `bn_keras.experiments.intervals`.

    Args:
        claim: What is measured, in words.
        paper: What the paper says about it, or `"-"`.
        measured: What was measured, with its 95% interval or its range over the seeds.
        n: What the interval is over, such as `"5 seeds"`.
        direction: Whether the measured difference has the paper's direction.
        size: Whether it also has the paper's size, if the paper has a number for it.
        fact: The key of the claim in `bn_keras.experiments.facts.FACTS`, or empty.
    """

    claim: str
    paper: str
    measured: str
    n: str = ""
    direction: str | None = None
    size: str | None = None
    fact: str = ""


VERDICTS = (YES, NO, UNDECIDED, None)
# The fields that a table shows.
COLUMNS = Row._fields[:-1]


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of a row of a result file, in the order of `COLUMNS`.

    Args:
        row: A dict from the field names of `Row` to their values.

    Returns:
        Texts such as `("best test accuracy (%)", "higher with BN", "97.9", "5 seeds",
        "yes", "-")`.

    Raises:
        KeyError: If a field is missing, or a verdict is not one of `VERDICTS`.
    """
    for name in ("direction", "size"):
        if row[name] not in VERDICTS:
            raise KeyError(f"{name} {row[name]!r}")
    return tuple("-" if row[name] is None else str(row[name]) for name in COLUMNS)


def count_verdicts(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return how many claims are confirmed, contradicted and undecided.

    Args:
        rows: Rows of a result file. The direction of each counts.
    """
    verdicts = [row["direction"] for row in rows]
    return [verdicts.count(verdict) for verdict in (YES, NO, UNDECIDED)]


def count_seeds(seeds: int, more: str = "") -> str:
    """Return such as `"3 seeds"`, for `Row.n`.

    Args:
        seeds: Their number.
        more: What else the interval is over, such as `"10,000 pictures"`.
    """
    text = f"{seeds} seed{'s' if seeds != 1 else ''}"
    return f"{text}, {more}" if more else text


def with_interval(interval: Interval, digits: int = 1, unit: str = "") -> str:
    """Return an estimate and its 95% interval, as text.

    Args:
        interval: The interval.
        digits: The number of digits after the decimal point. Numbers of a million and
            more, and those that would be written as 0, have an exponent instead.
        unit: What follows the estimate, such as `" times"`.

    Returns:
        A text such as `"6.5 times (5.2 to 7.2)"`; of one seed, the estimate alone.

    Example:
    ```python
    from bn_keras.experiments.intervals import Interval
    from bn_keras.experiments.rows import with_interval

    assert with_interval(Interval(6.54, 5.2, 7.2)) == "6.5 (5.2 to 7.2)"
    ```
    """

    def text(value):
        if abs(value) >= 1e6 or 0 < abs(value) < 0.5 * 10**-digits:
            return f"{value:.0e}"
        return f"{value:,.{0 if abs(value) >= 1000 else digits}f}"

    if not np.isfinite(interval.high) and not interval.low > 0:
        return text(interval.estimate) + unit
    estimate, low, high = map(text, interval)
    return f"{estimate}{unit} ({low} to {high})"


def mean_and_range(values: ArrayLike, scale: float = 1, digits: int = 1) -> str:
    """Return the mean over seeds and their range, as text.

    Args:
        values: One value per seed.
        scale: The factor by which the values are multiplied, such as 100 for percent.
        digits: The number of digits after the decimal point.

    Returns:
        A text such as `"97.8 (97.6 to 98.0)"`; of a single value, the value alone.

    Example:
    ```python
    from bn_keras.experiments.rows import mean_and_range

    assert mean_and_range([0.5, 0.7], 100) == "60.0 (50.0 to 70.0)"
    ```
    """
    scaled = scale * np.asarray(values, float)
    mean = f"{scaled.mean():,.{digits}f}"
    if scaled.size == 1:
        return mean
    return f"{mean} ({scaled.min():,.{digits}f} to {scaled.max():,.{digits}f})"


def with_and_without(with_bn: ArrayLike, without: ArrayLike, digits: int = 1) -> str:
    """Return what was measured with and without BN, as one text.

    Args:
        with_bn: One value per seed.
        without: One value per seed.
        digits: The number of digits after the decimal point.

    Returns:
        A text such as `"97.9 (97.9 to 98.0) with BN, 96.5 (96.2 to 96.6) without"`.
    """
    texts = [mean_and_range(values, digits=digits) for values in (with_bn, without)]
    return "{} with BN, {} without".format(*texts)


def steps_to_accuracy(
    steps: Sequence[float], accuracy: Sequence[float], target: float
) -> float | None:
    """Return the step at which a curve first reaches an accuracy.

    Between two points of the curve the step is interpolated linearly.

    Args:
        steps: The steps of the curve's points, ascending, `(points,)`.
        accuracy: The accuracy at each of them, `(points,)`.
        target: The accuracy to reach.

    Returns:
        A number of steps, or None if the curve never reaches the accuracy.

    Example:
    ```python
    from bn_keras.experiments.rows import steps_to_accuracy

    assert steps_to_accuracy([50, 100, 150], [0.0, 0.5, 0.25], 0.25) == 75
    ```
    """
    reached = np.flatnonzero(np.asarray(accuracy) >= target)
    if not reached.size:
        return None
    first = int(reached[0])
    points = slice(max(0, first - 1), first + 1)
    return float(np.interp(target, accuracy[points], steps[points]))
