"""Measure time and memory in child processes.

A process keeps the memory that it has once used, so each measurement needs its own.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1e6


def resident() -> float:
    """Return the memory of this process in MB."""
    return _status("VmRSS")


def peak() -> float:
    """Return the largest memory of this process since `reset_peak`, in MB."""
    # `getrusage` would include the peak of the parent process.
    return _status("VmHWM")


def reset_peak() -> None:
    """Free what can be freed, and let `peak` begin at the memory of now."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith(key))
    return int(line.split()[1]) * 1024 / MB


def measure(work: Callable[[], Any]) -> dict[str, float]:
    """Run a function and return its time and memory.

    Returns:
        `seconds` of the processor, which other programs on the machine change less than
        the clock's, and `clock seconds`; the `MB` by which the memory rose while it
        ran, and `MB after` it.
    """
    reset_peak()
    before = resident()
    start, start_of_cpu = time.perf_counter(), time.process_time()
    result = work()
    figures = {
        "seconds": time.process_time() - start_of_cpu,
        "clock seconds": time.perf_counter() - start,
        "MB": peak() - before,
        "MB after": resident() - before,
    }
    del result  # it was held until its memory was read
    return figures


def in_child(module: str, *arguments: object) -> Any:
    """Return what `python -m module arguments` prints last, read as JSON.

    Raises:
        RuntimeError: If the process fails; a process without memory left is killed.
    """
    process = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        text=True,
        check=False,
    )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"status {process.returncode} of {process.args}: {last}")
    return json.loads(process.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Growth:
    """Tasks that are measured at several sizes.

    Args:
        sizes: The sizes in ascending order.
        tasks: By name, what returns figures by name for a size. It is called in a
            process of its own.
    """

    sizes: Sequence[int]
    tasks: Mapping[str, Callable[[int], dict[str, float]]]


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of a line through points on logarithmic axes.

    It is 1 for what grows in proportion, 0 for what is constant. The largest half of
    the sizes counts, where constant parts weigh least.

    Args:
        sizes: Positive numbers in ascending order.
        values: A positive number for each size.
    """
    import numpy as np

    half = max(2, (len(sizes) + 1) // 2)
    x, y = np.log(sizes[-half:]), np.log(values[-half:])
    return round(float(np.polyfit(x, y, 1)[0]), 2)
