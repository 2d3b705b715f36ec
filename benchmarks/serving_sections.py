"""The sections of the serving benchmark: which loads to measure, as rows of results."""

import dataclasses
import statistics

from benchmarks.serving_load import (
    even_arrivals,
    perfect_queue,
    poisson_arrivals,
)
from benchmarks.serving_requests import NETWORK, PIXELS, TEXT, TINY

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
# About what a call takes without its model: its messages, and the switches of threads.
PAUSE_SECONDS = 0.001
# Concurrency of the direct calls: on few cores more threads gain nothing.
THREADS = (1, 2, 4)
# For requests of eight images: a longer queue would take many seconds.
LONGEST_QUEUE_OF_BATCHES = 16
CLIENTS = 64


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: Number of times that every load is measured.
        tiny: Seconds of each load of the tiny model.
        network: Seconds of each load of BN-Inception.
        open_loop: Seconds of each open-loop load of the tiny model. Those of
            BN-Inception take three times as long.
        concurrencies: Numbers of calls in flight.
    """

    rounds: int = 5
    tiny: float = 0.7
    network: float = 1.2
    open_loop: float = 3.0
    concurrencies: tuple[int, ...] = CONCURRENCIES


QUICK = Effort(rounds=2, tiny=0.2, network=0.2, open_loop=0.5, concurrencies=(1, 4, 16))


def summary(load):
    """Return the figures of a load; raise RuntimeError if no call was answered."""
    if not load.latencies:
        raise RuntimeError(f"No call was answered: {load.errors}")
    figures = {"requests": len(load.latencies), "a second": load.throughput}
    for percent in (50, 95, 99):
        figures[f"p{percent} ms"] = load.percentile(percent)
    if load.errors:
        figures["errors"] = sum(load.errors.values())
    return figures


def median(summaries):
    """Return the medians of several rounds' figures, and the sums of counts."""
    figures = {}
    for key in dict.fromkeys(key for summary in summaries for key in summary):
        values = [summary[key] for summary in summaries if key in summary]
        is_count = key in ("requests", "errors")
        figures[key] = sum(values) if is_count else statistics.median(values)
    return figures


def round_row(row):
    """Return a row with at most three digits after the decimal point."""
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in row.items()
    }


def take_turns(cells, effort):
    """Measure the loads of all cells, round after round.

    Args:
        cells: List of `(contender's name, target, case, concurrency)`.
        effort: An `Effort`.

    Yields:
        After each round, a dict from `(name, case, concurrency)` to the medians of all
        rounds so far.
    """
    # Warm up: the first call with a shape compiles the model.
    for target, case in {(target, case) for _, target, case, _ in cells}:
        target.closed_loop(case, 2, 0.0, 4)
    summaries_of = {}
    for _ in range(effort.rounds):
        for name, target, case, concurrency in cells:
            seconds = effort.tiny if case.model == TINY.model else effort.network
            # At least the whole queue, since the first answers to a long one come late.
            load = target.closed_loop(case, concurrency, seconds, max(4, concurrency))
            summaries_of.setdefault((name, case, concurrency), []).append(summary(load))
        yield {cell: median(summaries) for cell, summaries in summaries_of.items()}


def network(direct, served, effort):
    """Yield rows of BN-Inception: throughput relative to direct calls."""
    cells = []
    for case in (NETWORK, PIXELS):
        for batch in (1, 8):
            longest = LONGEST_QUEUE_OF_BATCHES if batch > 1 else CLIENTS
            # The direct loads are interleaved with the others, so that a slow phase of
            # the machine affects both.
            for concurrency in sorted({*effort.concurrencies, *THREADS}):
                for name, target, concurrencies in (
                    ("direct", direct, THREADS),
                    ("served", served, effort.concurrencies),
                ):
                    if concurrency in concurrencies and concurrency <= longest:
                        batched = case._replace(batch=batch)
                        cells.append((name, target, batched, concurrency))
    for figures in take_turns(cells, effort):
        yield [_relative_to_direct(figures, cell) for cell in figures]


def _relative_to_direct(figures, cell):
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
            single = figures["direct", case, 1]
            row["direct p50 / p50"] = single["p50 ms"] / row["p50 ms"]
    return round_row(row)


def overhead(direct, empty, served, effort):
    """Yield rows of single calls: what serving adds to a direct call.

    The yardstick is a call of gRPC's own Python server with the same bytes and no
    model. A model that is called after a pause, as a server calls it, takes longer than
    in a loop without pauses, since its threads and caches have gone cold meanwhile;
    `direct after a pause` shows that part.
    """
    contenders = {
        "direct": direct,
        "direct after a pause": direct.with_pauses(PAUSE_SECONDS),
        "empty call": empty,
        "served": served,
    }
    # The model takes most of the time: many calls, for the difference of two medians.
    effort = dataclasses.replace(effort, network=3 * effort.network)
    cells = [
        (name, target, case, 1)
        for case in (TINY, NETWORK)
        for name, target in contenders.items()
    ]
    for figures in take_turns(cells, effort):
        rows = []
        for (name, case, concurrency), row in figures.items():
            row = {"model": case.model, "by": name, **row}
            if name == "served":
                direct_ms = figures["direct", case, concurrency]["p50 ms"]
                after_pause = figures["direct after a pause", case, concurrency]
                over = row["p50 ms"] - direct_ms
                empty_ms = figures["empty call", case, concurrency]["p50 ms"]
                row["p50 over direct, ms"] = over
                row["over direct / empty call"] = over / empty_ms
                row["over direct and empty call, ms"] = over - empty_ms
                row["of it, the pause, ms"] = after_pause["p50 ms"] - direct_ms
            rows.append(round_row(row))
        yield rows


def batching(plain, batched, effort):
    """Yield rows of BN-Inception, with and without batching of single images."""
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
            plain_rate = figures["plain", case, concurrency]["a second"]
            rows.append(
                round_row(
                    {
                        "by": name,
                        "concurrency": concurrency,
                        **row,
                        "of plain": row["a second"] / plain_rate,
                    }
                )
            )
        yield rows


def tiny(direct, served, rest, effort):
    """Yield rows of the tiny model: latencies in excess of the direct call's."""
    cells = [("direct", direct, TINY, 1)]
    for concurrency in effort.concurrencies:
        cells.append(("gRPC", served, TINY, concurrency))
        if concurrency in (1, 16):
            cells.append(("REST, numbers", rest, TINY, concurrency))
            cells.append(("REST, b64", rest, TEXT, concurrency))
    for figures in take_turns(cells, effort):
        direct_ms = figures["direct", TINY, 1]["p50 ms"]
        yield [
            round_row(
                {
                    "by": name,
                    "concurrency": concurrency,
                    **row,
                    "p50 over direct, ms": row["p50 ms"] - direct_ms,
                }
            )
            for (name, _, concurrency), row in figures.items()
        ]


def at_load(contenders, empty, cases, effort, share=0.8):
    """Yield rows of latencies at a fraction of the highest throughput.

    The highest throughput is measured again just before each load. The same load is
    given to a server without a model: its ratio is that of the machine, on which the
    clients run too.

    Args:
        contenders: Dict from name to `Served`.
        empty: The server without a model, a `Served`.
        cases: Cases to call.
        effort: An `Effort`.
        share: Fraction of the throughput with 16 calls in flight.
    """
    rows_of = {}
    for turn in range(effort.rounds):
        for case in cases:
            seconds = effort.open_loop * (1 if case.model == TINY.model else 3)
            for name, target in contenders.items():
                peak = target.closed_loop(case, 16, seconds / 3, 16).throughput
                for arrivals, make in (
                    ("even", even_arrivals),
                    ("Poisson", lambda *x: poisson_arrivals(*x, seed=turn)),  # noqa: B023
                ):
                    times = make(share * peak, seconds)
                    load = target.open_loop(case, times, CLIENTS)
                    without_model = empty.open_loop(case, times, CLIENTS)
                    row = {"highest a second": peak, **summary(load)}
                    row["p99 / p50"] = row["p99 ms"] / row["p50 ms"]
                    row["p99 / p50, empty call"] = _spread(without_model)
                    row["p99 / p50, perfect queue"] = _spread(
                        perfect_queue(times, 1 / peak)
                    )
                    rows_of.setdefault((name, case, arrivals), []).append(row)
        yield [
            round_row(
                {
                    "model": case.model,
                    "by": name,
                    "arrivals": arrivals,
                    **median(rows),
                }
            )
            for (name, case, arrivals), rows in rows_of.items()
        ]


def _spread(load):
    return load.percentile(99) / load.percentile(50)


def peers(direct, contenders, effort):
    """Yield rows of all servers and of direct calls."""
    cells = []
    eight = NETWORK._replace(batch=8)
    for case, concurrencies in (
        (TINY, (1, 4, 16, 64)),
        (NETWORK, (1, 8, 64)),
        (eight, (1,)),
    ):
        cells.append(("direct", direct, case, 1))
        cells += [
            (name, target, case, concurrency)
            for concurrency in concurrencies
            if concurrency in effort.concurrencies or concurrency == 8
            for name, target in contenders.items()
        ]
    for figures in take_turns(cells, effort):
        yield [
            round_row(
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
