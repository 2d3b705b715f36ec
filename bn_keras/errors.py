"""Say an error in a user's words.

Knows the kinds of errors that the packages below raise, and one of its own; not where
they are shown.
"""

import textwrap
from errno import EDQUOT, EFBIG, ENOSPC


class DivergenceError(ValueError):
    """The loss of a training became NaN or infinite."""


def message(error):
    """What an error says to a user; of a foreseen one no more than its words."""
    import grpc
    import tensorflow as tf

    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError):
        full = (ENOSPC, EDQUOT, EFBIG)
        if error.errno in full or f"errno = {ENOSPC}" in str(error):  # HDF5's way
            return "No space left on the device; free some, then do the same again"
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}" if error.strerror else str(error)
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, tf.errors.OpError):
        return f"TensorFlow's {type(error).__name__}: {error.message}"
    if isinstance(error, MemoryError):
        return f"Not enough memory: {error}; use smaller or fewer examples at a time"
    return (
        f"Unexpected {type(error).__name__}: {textwrap.shorten(str(error), 500)}; "
        "BN_KERAS_TRACEBACK=1 in the environment shows where"
    )
