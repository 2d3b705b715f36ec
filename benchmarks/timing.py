"""Time several contenders side by side.

Knows clocks and medians; nothing of what runs.
"""

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import numpy as np


def medians(contenders, rounds):
    """Median seconds of each contender, interleaved.

    In each round every contender runs twice and its second run counts: the first one
    brings the memory allocator from its predecessor's state to its own.

    Args:
        contenders: dict from name to a function without arguments that blocks until its
            work is done.
        rounds: how often all of them take their turn.

    Returns:
        A dict from name to seconds.
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


def provenance(module):
    """The command, the kind of machine and the versions behind a result."""
    chosen = os.environ.get("KERAS_BACKEND")
    backend = [f"KERAS_BACKEND={chosen}"] if chosen else []
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
