"""A claim of a paper beside what was measured, as one row of a table.

Knows numbers and words; no experiment.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One line of the table of results.

    Args:
        claim: what is compared, in words.
        paper: what the paper says of it, or `"-"`.
        measured: what was measured, with its spread.
        agrees: whether every seed shows what the paper says; None where the paper
            says nothing of it, or nothing was measured that decides it.
    """

    claim: str
    paper: str
    measured: str
    agrees: bool | None = None


AGREES = {True: "yes", False: "no", None: "-"}


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of a row of a result file, in the order of `Row`.

    Args:
        row: dict from the names of `Row` to their values.

    Returns:
        Such as `("best test accuracy, in %", "higher with BN", "97.9", "yes")`.

    Raises:
        KeyError: if one is missing, or `agrees` is none of True, False and None.
    """
    return *(str(row[name]) for name in Row._fields[:-1]), AGREES[row["agrees"]]


def spread(values: Sequence[float], scale: float = 1, digits: int = 1) -> str:
    """The mean of some seeds, and their range.

    Args:
        values: one a seed.
        scale: they are multiplied by it, such as 100 for per cent.
        digits: behind the point.

    Returns:
        Such as `"97.8 (97.6 to 98.0)"`, or the value alone where there is one.

    Example:
    ```python
    from bn_keras.experiments.rows import spread

    assert spread([0.5, 0.7], 100) == "60.0 (50.0 to 70.0)"
    ```
    """
    found = scale * np.asarray(values, float)
    mean = f"{found.mean():,.{digits}f}"
    if found.size == 1:
        return mean
    return f"{mean} ({found.min():,.{digits}f} to {found.max():,.{digits}f})"


def rounded(values: Any, digits: int = 5) -> Any:
    """A number, or the numbers of an array, to so many significant digits.

    Args:
        values: a number or an array of any shape.
        digits: significant ones.

    Returns:
        What JSON can hold: a float, or lists of them.
    """
    found = np.asarray(values, float)
    flat = [float(f"{value:.{digits}g}") for value in found.ravel()]
    return np.reshape(flat, found.shape).tolist()


def with_and_without(
    with_bn: Sequence[float], without: Sequence[float], digits: int = 1
) -> str:
    """What was measured with and without BN, as one cell.

    Args:
        with_bn: one a seed.
        without: likewise.
        digits: behind the point.

    Returns:
        Such as `"97.9 (97.9 to 98.0) with BN, 96.5 (96.2 to 96.6) without"`.
    """
    ours, others = (spread(values, digits=digits) for values in (with_bn, without))
    return f"{ours} with BN, {others} without"


def verdict(gains: Any) -> bool | None:
    """Whether every seed gains, as `Row.agrees` has it.

    Args:
        gains: array of one a seed, rounded to the digits that are shown.

    Returns:
        False where one loses; None where one is no number, or none loses and not all
        gain.

    Example:
    ```python
    from bn_keras.experiments.rows import verdict

    found = [verdict(gains) for gains in ([1, 2], [1, -1], [1, 0], [1, float("nan")])]
    assert found == [True, False, None, None]
    ```
    """
    found = np.asarray(gains, float)
    if not found.size or np.isnan(found).any():
        return None
    if (found < 0).any():
        return False
    return True if (found > 0).all() else None


def steps_to(steps, accuracy, target):
    """The step at which a curve first reaches an accuracy, between its points too.

    Args:
        steps: of the curve's points, rising, `(points,)`.
        accuracy: at each of them, `(points,)`.
        target: the accuracy to reach.

    Returns:
        A number of steps, or None where it never does.

    Example:
    ```python
    from bn_keras.experiments.rows import steps_to

    assert steps_to([50, 100, 150], [0.0, 0.5, 0.25], 0.25) == 75
    ```
    """
    reached = np.flatnonzero(np.asarray(accuracy) >= target)
    if not reached.size:
        return None
    last = int(reached[0])
    points = slice(max(0, last - 1), last + 1)
    return float(np.interp(target, accuracy[points], steps[points]))
