"""What is measured of the servers, and which rows come of it.

Knows loads and medians; no processes, no options and no files.
"""

import dataclasses
import statistics

from benchmarks.serving_load import (
    even_arrivals,
    perfect_queue,
    poisson_arrivals,
)
from benchmarks.serving_requests import NETWORK, PIXELS, TEXT, TINY

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
# What the direct calls are held at: on few cores more threads bring no more.
THREADS = (1, 2, 4)
# Eight images each: a longer queue of them is answered after many seconds.
LONGEST_QUEUE_OF_BATCHES = 16
CLIENTS = 64


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: how often everything takes its turn.
        tiny: seconds of each load of the tiny model.
        network: seconds of each load of BN-Inception.
        open_loop: seconds of a load of the tiny model with given arrivals;
            BN-Inception has three times as long.
        concurrencies: calls under way.
    """

    rounds: int = 5
    tiny: float = 0.7
    network: float = 1.2
    open_loop: float = 3.0
    concurrencies: tuple[int, ...] = CONCURRENCIES


QUICK = Effort(rounds=2, tiny=0.2, network=0.2, open_loop=0.5, concurrencies=(1, 4, 16))


def summary(load):
    """The figures of one load; RuntimeError where nothing was answered."""
    if not load.latencies:
        raise RuntimeError(f"no call was answered: {load.errors}")
    found = {"requests": len(load.latencies), "a second": load.throughput}
    for percent in (50, 95, 99):
        found[f"p{percent} ms"] = load.percentile(percent)
    if load.errors:
        found["errors"] = sum(load.errors.values())
    return found


def median(summaries):
    """Medians of several rounds' figures; requests and errors are added up."""
    found = {}
    for key in dict.fromkeys(key for one in summaries for key in one):
        values = [one[key] for one in summaries if key in one]
        added = key in ("requests", "errors")
        found[key] = sum(values) if added else statistics.median(values)
    return found


def rounded(row):
    """A row with three digits behind the point at most."""
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in row.items()
    }


def take_turns(cells, effort):
    """Put loads on all cells, round after round.

    Args:
        cells: list of `(contender's name, target, case, concurrency)`.
        effort: an `Effort`.

    Yields:
        After each round, a dict from `(name, case, concurrency)` to the medians of all
        rounds until then.
    """
    # First answers of a shape compile.
    for target, case in {(target, case) for _, target, case, _ in cells}:
        target.closed_loop(case, 2, 0.0, 4)
    found = {}
    for _ in range(effort.rounds):
        for name, target, case, concurrency in cells:
            seconds = effort.tiny if case.model == TINY.model else effort.network
            # Of a long queue at least every one: the first answers come late.
            load = target.closed_loop(case, concurrency, seconds, max(4, concurrency))
            found.setdefault((name, case, concurrency), []).append(summary(load))
        yield {cell: median(summaries) for cell, summaries in found.items()}


def network(direct, served, effort):
    """Yield rows of BN-Inception: throughput against direct calls."""
    cells = []
    for case in (NETWORK, PIXELS):
        for batch in (1, 8):
            longest = LONGEST_QUEUE_OF_BATCHES if batch > 1 else CLIENTS
            # The direct loads stand among the others: what slows the machine for some
            # seconds falls on both.
            for concurrency in sorted({*effort.concurrencies, *THREADS}):
                for name, target, chosen in (
                    ("direct", direct, THREADS),
                    ("served", served, effort.concurrencies),
                ):
                    if concurrency in chosen and concurrency <= longest:
                        one = case._replace(batch=batch)
                        cells.append((name, target, one, concurrency))
    for figures in take_turns(cells, effort):
        yield [_against_direct(figures, cell) for cell in figures]


def _against_direct(figures, cell):
    name, case, concurrency = cell
    row = {
        "signature": case.signature,
        "batch": case.batch,
        "by": name,
        "concurrency": concurrency,
        **figures[cell],
    }
    if name == "served":
        direct = [figures["direct", case, threads]["a second"] for threads in THREADS]
        row["of direct, one thread"] = row["a second"] / direct[0]
        row["of direct, best"] = row["a second"] / max(direct)
        if concurrency == 1:
            one = figures["direct", case, 1]
            row["direct p50 / p50"] = one["p50 ms"] / row["p50 ms"]
    return rounded(row)


def batching(plain, batched, effort):
    """Yield rows of BN-Inception, requests of one image, gathered into eight or not."""
    longer = dataclasses.replace(effort, network=2 * effort.network)
    cells = [
        (name, target, NETWORK, concurrency)
        for concurrency in effort.concurrencies
        for name, target in (("plain", plain), ("batched", batched))
        if concurrency in (1, 16, 64)
    ]
    for figures in take_turns(cells, longer):
        rows = []
        for (name, case, concurrency), row in figures.items():
            alone = figures["plain", case, concurrency]["a second"]
            rows.append(
                rounded(
                    {
                        "by": name,
                        "concurrency": concurrency,
                        **row,
                        "of plain": row["a second"] / alone,
                    }
                )
            )
        yield rows


def tiny(direct, served, rest, effort):
    """Yield rows of the tiny model: latencies over the direct call's."""
    cells = [("direct", direct, TINY, 1)]
    for concurrency in effort.concurrencies:
        cells.append(("gRPC", served, TINY, concurrency))
        if concurrency in (1, 16):
            cells.append(("REST, numbers", rest, TINY, concurrency))
            cells.append(("REST, b64", rest, TEXT, concurrency))
    for figures in take_turns(cells, effort):
        direct_ms = figures["direct", TINY, 1]["p50 ms"]
        yield [
            rounded(
                {
                    "by": name,
                    "concurrency": concurrency,
                    **row,
                    "p50 over direct, ms": row["p50 ms"] - direct_ms,
                }
            )
            for (name, _, concurrency), row in figures.items()
        ]


def at_load(contenders, cases, effort, share=0.8):
    """Yield rows of latencies at a share of the highest throughput.

    The highest throughput is measured anew just before each load.

    Args:
        contenders: dict from name to `Served`.
        cases: what to call.
        effort: an `Effort`.
        share: of the throughput of 16 calls under way.
    """
    found = {}
    for turn in range(effort.rounds):
        for case in cases:
            seconds = effort.open_loop * (1 if case.model == TINY.model else 3)
            for name, target in contenders.items():
                most = target.closed_loop(case, 16, seconds / 3, 16).throughput
                for arrivals, make in (
                    ("even", even_arrivals),
                    ("Poisson", lambda *x: poisson_arrivals(*x, seed=turn)),  # noqa: B023
                ):
                    times = make(share * most, seconds)
                    load = target.open_loop(case, times, CLIENTS)
                    row = {"highest a second": most, **summary(load)}
                    row["p99 / p50"] = row["p99 ms"] / row["p50 ms"]
                    perfect = perfect_queue(times, 1 / most)
                    row["p99 / p50, perfect queue"] = perfect.percentile(
                        99
                    ) / perfect.percentile(50)
                    found.setdefault((name, case, arrivals), []).append(row)
        yield [
            rounded(
                {
                    "model": case.model,
                    "by": name,
                    "arrivals": arrivals,
                    **median(rows),
                }
            )
            for (name, case, arrivals), rows in found.items()
        ]


def peers(direct, contenders, effort):
    """Yield rows of all servers side by side, with the direct call among them."""
    cells = []
    eight = NETWORK._replace(batch=8)
    for case, chosen in ((TINY, (1, 4, 16, 64)), (NETWORK, (1, 8, 64)), (eight, (1,))):
        cells.append(("direct", direct, case, 1))
        cells += [
            (name, target, case, concurrency)
            for concurrency in chosen
            if concurrency in effort.concurrencies or concurrency == 8
            for name, target in contenders.items()
        ]
    for figures in take_turns(cells, effort):
        yield [
            rounded(
                {
                    "model": case.model,
                    "batch": case.batch,
                    "by": name,
                    "concurrency": concurrency,
                    **row,
                }
            )
            for (name, case, concurrency), row in figures.items()
        ]
