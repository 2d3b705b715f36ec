"""One row of the table of results: a claim of a paper and what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Row(NamedTuple):
    """One row of the table of results.

    Args:
        claim: What is measured, in words.
        paper: What the paper says about it, or `"-"`.
        measured: What was measured, with its range over the seeds.
        agrees: Whether every seed confirms the paper. None if the paper says nothing
            about it, or if the measurements do not decide it.
    """

    claim: str
    paper: str
    measured: str
    agrees: bool | None = None


AGREES = {True: "yes", False: "no", None: "-"}


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of a row of a result file, in the order of `Row`.

    Args:
        row: A dict from the field names of `Row` to their values.

    Returns:
        Texts such as `("best test accuracy (%)", "higher with BN", "97.9", "yes")`.

    Raises:
        KeyError: If a field is missing, or `agrees` is not True, False or None.
    """
    return *(str(row[name]) for name in Row._fields[:-1]), AGREES[row["agrees"]]


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


def round_digits(values: Any, digits: int = 5) -> Any:
    """Round a number, or the numbers of an array, to significant digits.

    Args:
        values: A number or an array of any shape.
        digits: The number of significant digits.

    Returns:
        A float or nested lists of floats, which JSON can represent.
    """
    array = np.asarray(values, float)
    flat = [float(f"{value:.{digits}g}") for value in array.ravel()]
    return np.reshape(flat, array.shape).tolist()


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


def verdict(gains: Any) -> bool | None:
    """Return whether every seed gains, for `Row.agrees`.

    Args:
        gains: An array of one value per seed, rounded to the digits that are shown.

    Returns:
        True if all gains are positive, False if one of them is negative. None if one is
        not a number, or if some are 0 and none is negative.

    Example:
    ```python
    from bn_keras.experiments.rows import verdict

    assert verdict([1, 2]) is True
    assert verdict([1, -1]) is False
    assert verdict([1, 0]) is None
    ```
    """
    gains = np.asarray(gains, float)
    if not gains.size or np.isnan(gains).any():
        return None
    if (gains < 0).any():
        return False
    return True if (gains > 0).all() else None


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
