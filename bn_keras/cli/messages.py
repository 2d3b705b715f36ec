"""The text of an error as the command line shows it."""

import textwrap
from errno import EDQUOT, EFBIG, ENOSPC


def error_message(error: BaseException) -> str:
    """Return the text of an error for a user, without its traceback.

    An error that the packages below raise on purpose is shown as its own text. Any
    other one also names its class and says how to see the traceback.
    """
    import grpc
    import tensorflow as tf

    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError):
        full = (ENOSPC, EDQUOT, EFBIG)
        # HDF5 raises an OSError without an errno and names the number in its text.
        if error.errno in full or f"errno = {ENOSPC}" in str(error):
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
