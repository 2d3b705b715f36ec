"""The number of files and connections that the process may open."""

import contextlib
import resource


def raise_limit() -> None:
    """Raise the limit to the highest one that the system permits.

    Shells usually allow 1,024 open files, for the sake of programs that use `select`,
    which cannot handle more; this one does not.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems permit less than they report.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def limit() -> int:
    """Return how many files and connections the process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
