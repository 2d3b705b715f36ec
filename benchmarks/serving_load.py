"""Ask a server again and again, from many threads, and time the answers.

Knows threads, clocks and queues; not what a call does.
"""

import dataclasses
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass
class Load:
    """What came of a number of calls.

    Attributes:
        latencies: seconds of each call that succeeded, in no order.
        seconds: from the first call's start to the last one's end.
        errors: how often each error was raised, by its text.
    """

    latencies: list[float]
    seconds: float
    errors: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Successful calls a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds within which so many per cent of the calls were answered."""
        return 1e3 * float(np.percentile(self.latencies, percent))


def closed_loop(
    call: Callable[[], object], concurrency: int, seconds: float, least: int = 1
) -> Load:
    """Call from several threads, each as soon as its last call is answered.

    Args:
        call: Blocks until it is answered.
        concurrency: Calls under way at any time.
        seconds: Time after which no call is begun.
        least: Calls that are begun whatever time they take.
    """
    end = time.perf_counter() + seconds
    numbers = itertools.count()

    def begin():
        now = time.perf_counter()
        return now if next(numbers) < least or now < end else None

    return _run(call, concurrency, begin)


def open_loop(
    call: Callable[[], object], arrivals: Sequence[float], concurrency: int
) -> Load:
    """Call at given times, whether the calls before are answered or not.

    A call that has to wait for a free thread is timed from its given time, so that no
    delay of the server hides another.

    Args:
        call: Blocks until it is answered.
        arrivals: Seconds from now, increasing.
        concurrency: Calls under way at most.
    """
    start = time.perf_counter() + 0.01
    times = iter(arrivals)

    def begin():
        arrival = next(times, None)
        if arrival is None:
            return None
        time.sleep(max(0.0, start + arrival - time.perf_counter()))
        return start + arrival

    return _run(call, min(concurrency, len(arrivals)), begin)


def even_arrivals(rate: float, seconds: float) -> list[float]:
    """Times of evenly spaced calls, `rate` a second."""
    return [number / rate for number in range(max(1, int(rate * seconds)))]


def poisson_arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Times of calls of many independent clients, `rate` a second on average."""
    count = max(1, int(rate * seconds))
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.cumsum(gaps).tolist()


def perfect_queue(arrivals: Sequence[float], service: float) -> Load:
    """What a server would do that takes the same time for each call, one by one.

    Args:
        arrivals: Seconds, increasing.
        service: Seconds of each call.

    Reference:
        Lindley's recursion of waiting times.
    """
    free, latencies = 0.0, []
    for arrival in arrivals:
        free = max(free, arrival) + service
        latencies.append(free - arrival)
    return Load(latencies, free)


def _run(call, concurrency, begin) -> Load:
    """Let threads take calls until `begin` gives None in the place of a start."""
    done: list[tuple[float, float, str | None]] = []

    def work():
        while (start := begin()) is not None:
            error = None
            try:
                call()
            except Exception as raised:  # whatever it is, it is counted
                error = " ".join(f"{type(raised).__name__}: {raised}".split())[:200]
            done.append((start, time.perf_counter(), error))

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    first = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(
        [end - start for start, end, error in done if error is None],
        max(end for _, end, _ in done) - first,
        dict(Counter(error for _, _, error in done if error is not None)),
    )
