"""A claim of a paper beside what was measured, as one row of a table.

Knows numbers and words; no experiment.
"""

from collections.abc import Sequence
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
