"""Requests and latencies of the last minutes, for the charts of the status page."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

INTERVAL_SECONDS = 10
INTERVALS = 30
# Rates are those of this many whole intervals, and the current one.
_RATE_INTERVALS = 6
# Latencies are counted in ranges from 1 µs to 20 minutes, each a fifth wider than the
# one before, so that a percentile is off by at most 10 %.
_WIDTH = math.log(1.2)
_RANGES = 1 + math.ceil(math.log(1.2e9) / _WIDTH)


class History:
    """Counts the requests of each model in intervals of ten seconds, for five minutes.

    This takes 14 kB of memory for each model, regardless of the number of requests.

    Args:
        clock: Function that returns a time in seconds.

    Example:
        ```python
        from bn_keras_serving.common.history import History

        history = History()
        history.record("digits", 1500.0)
        assert history.read()["digits"]["requests"][-1] == 1
        ```
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()  # guards everything below
        self._models: dict[str, _ModelHistory] = {}

    def record(self, model_name: str, microseconds: float | None) -> None:
        """Count a request.

        Args:
            model_name: Name of a served model, or "" for other requests.
            microseconds: Its latency; None if that does not count.
        """
        interval = int(self._clock() // INTERVAL_SECONDS)
        with self._lock:
            if model_name not in self._models:
                self._models[model_name] = _ModelHistory()
            self._models[model_name].record(interval, microseconds)

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what has been counted for each model.

        Returns:
            `{model_name: {"per_second": ..., "requests": [...], "p50": [...], "p99":
            [...]}}`. `per_second` is the rate of requests in the last minute. The lists
            have an entry for each interval, the current one last; latencies are in
            microseconds, and None without a request whose latency counts.
        """
        now = self._clock()
        interval = int(now // INTERVAL_SECONDS)
        with self._lock:
            counts = {
                name: model.copy(interval) for name, model in self._models.items()
            }
        seconds = now - INTERVAL_SECONDS * (interval - _RATE_INTERVALS)
        # A server that has just started is not said to be idle.
        seconds = max(1.0, min(seconds, now - self._start))
        return {
            name: {
                "per_second": sum(requests[-_RATE_INTERVALS - 1 :]) / seconds,
                "requests": requests,
                "p50": _percentiles(latencies, 0.5),
                "p99": _percentiles(latencies, 0.99),
            }
            for name, (requests, latencies) in counts.items()
        }

    def uptime(self) -> float:
        """Return the seconds since this object was created."""
        return self._clock() - self._start


class _ModelHistory:
    """The intervals of one model; the row of one that is too old is used again."""

    def __init__(self) -> None:
        self._intervals = [-1] * INTERVALS
        self._requests = [0] * INTERVALS
        self._latencies = np.zeros((INTERVALS, _RANGES), np.int32)

    def record(self, interval: int, microseconds: float | None) -> None:
        row = interval % INTERVALS
        if self._intervals[row] != interval:
            self._intervals[row] = interval
            self._requests[row] = 0
            self._latencies[row] = 0
        self._requests[row] += 1
        if microseconds is not None:
            index = int(math.log(max(microseconds, 1.0)) / _WIDTH)
            self._latencies[row, min(index, _RANGES - 1)] += 1

    def copy(self, interval: int) -> tuple[list[int], np.ndarray]:
        """Return the requests and latencies of the intervals up to the current one."""
        intervals = range(interval - INTERVALS + 1, interval + 1)
        rows = [number % INTERVALS for number in intervals]
        used = [
            self._intervals[row] == number
            for row, number in zip(rows, intervals, strict=True)
        ]
        requests = [
            self._requests[row] * is_used
            for row, is_used in zip(rows, used, strict=True)
        ]
        return requests, self._latencies[rows] * np.array(used)[:, None]


def _percentiles(latencies: np.ndarray, share: float) -> list[float | None]:
    """Return a percentile of each row of counts."""
    cumulative = np.cumsum(latencies, axis=1)
    totals = cumulative[:, -1:]
    # The middle of the range that the percentile is in.
    middles = np.exp(_WIDTH * ((cumulative < share * totals).sum(axis=1) + 0.5))
    return [
        float(middle) if total else None
        for middle, total in zip(middles, totals[:, 0], strict=True)
    ]
