"""Return freed memory to the operating system."""

import ctypes
import functools
from collections.abc import Callable


def release_memory() -> None:
    """Return the memory that loading or closing a model has freed, where glibc is used.

    Its `malloc` keeps freed memory for later use. Loading a graph frees much more than
    the requests after it will need.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
