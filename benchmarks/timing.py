"""Timing of several contenders side by side, and the origin of a result."""

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np


def medians(
    contenders: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
    """Return the median time of each contender, in seconds.

    The contenders take turns. In each turn a contender runs twice and only the second
    run is timed: the first one brings caches and the memory allocator from the state of
    the previous contender to its own.

    Args:
        contenders: A dict from names to functions without arguments. They must return
            only when their work is done.
        rounds: The number of turns of each contender.

    Returns:
        A dict from names to seconds.
    """
    seconds = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def provenance(module: str) -> dict[str, Any]:
    """Return the command, the kind of machine and the versions behind a result."""
    variable = os.environ.get("KERAS_BACKEND")
    backend = [f"KERAS_BACKEND={variable}"] if variable else []
    versions = {}
    for name in ("tensorflow", "keras", "jax", "torch", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": " ".join([*backend, "python", "-m", module, *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }
