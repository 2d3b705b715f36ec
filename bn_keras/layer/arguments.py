"""Checks of the constructor's arguments."""

from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import Any


def standardize_axis(axis: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return `axis` as an int or a tuple of ints.

    Args:
        axis: An integer of any type, or a list or tuple of integers.

    Returns:
        The same axis or axes as Python integers, which JSON can represent.

    Raises:
        ValueError: If `axis` is anything else.
    """
    try:
        if isinstance(axis, list | tuple):
            return tuple(index(element) for element in axis)
        # `index` accepts integers of NumPy, but neither floats nor strings.
        return index(axis)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise ValueError(
            f"`axis` must be an integer or a tuple of integers. Received: axis={axis!r}"
        ) from None


def standardize_momentum(name: str, value: Any) -> float:
    """Return a momentum as a float.

    Raises:
        ValueError: If it is not a number in [0, 1].
    """
    if not (isinstance(value, Real) and 0 <= float(value) <= 1):
        message = f"`{name}` must be a number in [0, 1]. Received: {name}={value!r}."
        if name == "momentum":
            message += ' Use `averaging="cumulative"` for equal weights.'
        raise ValueError(message)
    return float(value)


def standardize_epsilon(value: Any) -> float:
    """Return `epsilon` as a float.

    Raises:
        ValueError: If it is negative, NaN or no number.
    """
    if not (isinstance(value, Real) and float(value) >= 0):
        raise ValueError(
            "`epsilon` must be a number that is not negative. Received: "
            f"epsilon={value!r}"
        )
    return float(value)


def standardize_virtual_batch_size(
    value: Any, renorm: bool, synchronized: bool
) -> int | None:
    """Return `virtual_batch_size` as an int, or None.

    Raises:
        ValueError: If it is neither None nor a positive integer, or is combined with
            `renorm` or `synchronized`.
    """
    if value is None:
        return None
    try:
        size = index(value)
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool) or renorm or synchronized:
        raise ValueError(
            "`virtual_batch_size` must be a positive integer, without `renorm` and "
            f"`synchronized`. Received: virtual_batch_size={value!r}, "
            f"renorm={renorm}, synchronized={synchronized}"
        )
    return size
