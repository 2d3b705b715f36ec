"""What the command line writes to the standard error stream."""

import re
import sys
import textwrap
from errno import EDQUOT, EFBIG, ENOSPC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


# Keras colors parts of its messages.
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def report(text: str) -> None:
    """Print a line in the name of the command line."""
    print(f"bn-keras: {text}", file=sys.stderr)


def one_line(text: str) -> str:
    """Return a text as one line of at most 1,000 characters, without colors."""
    return textwrap.shorten(_COLOR.sub("", text), 1000, placeholder=" ...")


def error_message(error: BaseException) -> str:
    """Return the text of an error for a user, without its traceback.

    An error that the packages below raise on purpose is shown as its own text. Any
    other one also names its class and says how to see the traceback.
    """
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError):
        full = (ENOSPC, EDQUOT, EFBIG)
        # HDF5 raises an OSError without an errno and names the number in its text.
        if error.errno in full or f"errno = {ENOSPC}" in str(error):
            place = f" of {error.filename}" if error.filename else ""
            return (
                f"No space left on the device{place}; free some space, then run the "
                "same command again"
            )
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}" if error.strerror else str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return (
            f"The package {package} must be installed. It is not in {sys.prefix}. "
            "Install bn-keras there with its dependencies, or the package itself"
        )
    # An error of a package that has not been imported cannot have been raised, so that
    # neither needs to be imported here.
    grpc = sys.modules.get("grpc")
    if grpc and isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    tf = sys.modules.get("tensorflow")
    if tf and isinstance(error, tf.errors.OpError):
        return f"TensorFlow's {type(error).__name__}: {error.message}"
    if isinstance(error, MemoryError):
        return f"Not enough memory: {error}; use smaller or fewer examples at a time"
    return (
        f"Unexpected {type(error).__name__}: {textwrap.shorten(str(error), 500)}; "
        "set BN_KERAS_TRACEBACK=1 in the environment to see the traceback"
    )


def progress_bar() -> "Progress":
    """Return a bar on the standard error stream, if that is a terminal.

    Standard output is left to results.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
