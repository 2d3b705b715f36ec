"""Call a server repeatedly from many threads, and time the answers."""

import dataclasses
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass
class Load:
    """The outcome of a number of calls.

    Attributes:
        latencies: Seconds that each successful call took, in no particular order.
        seconds: Time from the start of the first call to the end of the last one.
        errors: Number of times that each error was raised, by its text.
    """

    latencies: list[float]
    seconds: float
    errors: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Successful calls per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds within which a percentage of the calls was answered."""
        return 1e3 * float(np.percentile(self.latencies, percent))


def closed_loop(
    call: Callable[[], object],
    concurrency: int,
    seconds: float,
    minimum: int = 1,
    pause: float = 0.0,
) -> Load:
    """Call from several threads, each as soon as its previous call is answered.

    Args:
        call: Blocks until it is answered.
        concurrency: Number of calls in flight at any time.
        seconds: Time after which no further call begins.
        minimum: Number of calls to make even if they take longer than that.
        pause: Seconds to sleep before each call.
    """
    end = time.perf_counter() + seconds
    numbers = itertools.count()

    def begin():
        if pause:
            time.sleep(pause)
        now = time.perf_counter()
        return now if next(numbers) < minimum or now < end else None

    return _run(call, concurrency, begin)


def open_loop(
    call: Callable[[], object], arrivals: Sequence[float], concurrency: int
) -> Load:
    """Call at scheduled times, whether or not earlier calls have been answered.

    A call that must wait for a free thread is timed from its scheduled time, so that a
    delay of the server cannot hide the delays that follow from it.

    Args:
        call: Blocks until it is answered.
        arrivals: Scheduled times in seconds from now, increasing.
        concurrency: Largest number of calls in flight.
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
    """Return the times of evenly spaced calls, `rate` per second."""
    return [number / rate for number in range(max(1, int(rate * seconds)))]


def poisson_arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Return the times of independent clients' calls, `rate` per second on average."""
    count = max(1, int(rate * seconds))
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.cumsum(gaps).tolist()


def perfect_queue(arrivals: Sequence[float], service: float) -> Load:
    """Return the load of an ideal server, which answers one call at a time.

    Args:
        arrivals: Times in seconds, increasing.
        service: Seconds that the server takes for each call.

    Reference:
        Lindley's recursion of waiting times.
    """
    free, latencies = 0.0, []
    for arrival in arrivals:
        free = max(free, arrival) + service
        latencies.append(free - arrival)
    return Load(latencies, free)


def _run(call, concurrency, begin) -> Load:
    """Let threads make calls until `begin` returns None instead of a start time."""
    done: list[tuple[float, float, str | None]] = []

    def work():
        while (start := begin()) is not None:
            error = None
            try:
                call()
            except Exception as raised:  # any error is counted
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
