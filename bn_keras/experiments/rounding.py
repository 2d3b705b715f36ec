"""Numbers with as many digits as a result file keeps."""

from typing import Any

import numpy as np


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
