"""Many items as requests of several, and their answers one by one.

Knows arrays and a terminal; no server.
"""

import asyncio
import collections
import itertools
import operator
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress


class Chunk(NamedTuple):
    """Items of one request: the place of the first, and whether they are a batch."""

    first: int
    items: list
    batched: bool

    def inputs(self) -> Any:
        """Return the one item, or the items as a batch, by name where they have names.

        Raises:
            ValueError: The items have not the same names.
        """
        if not self.batched:
            return self.items[0]
        if not any(isinstance(item, Mapping) for item in self.items):
            return self.items
        names = [
            sorted(item) if isinstance(item, Mapping) else None for item in self.items
        ]
        for index, other in enumerate(names):
            if other != names[0]:
                raise ValueError(
                    f"`items` of one batch must have the same names. Received: "
                    f"{names[0]} and, {index} later, {other}; name them alike"
                )
        return {name: [item[name] for item in self.items] for name in self.items[0]}

    def answers(self, outputs: dict[str, np.ndarray]) -> Iterator[dict]:
        """Yield the answer to each item.

        Raises:
            ValueError: An output has not one row for each item of the batch.
        """
        if not self.batched:
            yield outputs
            return
        for name, array in outputs.items():
            if array.shape[:1] != (len(self.items),):
                raise ValueError(
                    f"The output {name} must have a row for each of the "
                    f"{len(self.items)} items sent. Received: shape {array.shape}; "
                    "leave it out by output_filter, or leave out batch_size"
                )
        for index in range(len(self.items)):
            # Of a row of one number an array too.
            yield {name: array[index, ...] for name, array in outputs.items()}

    def name(self, error: BaseException) -> BaseException:
        """Note in an error which items it came from."""
        last = self.first + len(self.items) - 1
        which = f"items {self.first} to" if last > self.first else "item"
        error.add_note(f"From {which} {last} (the first is 0).")
        return error


def chunks(items: Iterable, batch_size: int | None) -> Iterator[Chunk]:
    """Yield items as chunks: of one each where there is no size of a batch."""
    items = iter(items)
    first = 0
    while held := list(itertools.islice(items, batch_size or 1)):
        yield Chunk(first, held, batch_size is not None)
        first += len(held)


async def chunks_of_either(
    items: Iterable | AsyncIterable, batch_size: int | None
) -> AsyncIterator[Chunk]:
    """Yield as `chunks`, of an asynchronous iterable too."""
    if not isinstance(items, AsyncIterable):
        for chunk in chunks(items, batch_size):
            yield chunk
        return
    first, held = 0, []
    async for item in items:
        held.append(item)
        if len(held) == (batch_size or 1):
            yield Chunk(first, held, batch_size is not None)
            first, held = first + len(held), []
    if held:
        yield Chunk(first, held, batch_size is not None)


def check(batch_size: int | None, in_flight: int) -> None:
    """Raise ValueError for a number below one."""
    for name, value in (("batch_size", batch_size), ("in_flight", in_flight)):
        if value is not None and value < 1:
            raise ValueError(
                f"`{name}` must be 1 or more. Received: {name}={value}; choose another"
            )


def progress_bar(items: Any, shown: bool) -> Progress:
    """Return a bar of one task, on standard error if that is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
        # Else what goes to a file or a pipe would go to the terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
    bar.add_task("predicting", total=operator.length_hint(items) or None)
    return bar


def answers(
    chunks: Iterator[Chunk],
    begin: Callable[[Any], tuple],
    finish: Callable[..., dict],
    in_flight: int,
    bar: Progress,
) -> Iterator[dict]:
    """Yield the answers to chunks in order, while the next ones are under way.

    Args:
        chunks: What to ask; taken as requests can be begun.
        begin: Takes a chunk's inputs, returns steps and a `grpc.Future`.
        finish: Takes these, returns the outputs.
        in_flight: Most requests that are open at a time.
        bar: To advance by one for each answer.
    """
    failure, reading = None, True
    opened: collections.deque = collections.deque()
    try:
        while reading or opened:
            # A slow source must not hold back an answer that is there.
            while reading and _may_open(opened, in_flight):
                chunk = None
                try:
                    chunk = next(chunks, None)
                    if chunk is None:
                        reading = False
                    else:
                        opened.append((chunk, *begin(chunk.inputs())))
                except Exception as error:
                    failure = chunk.name(error) if chunk else error
                    reading = False
            if opened:
                chunk, steps, begun = opened[0]
                try:
                    found = list(chunk.answers(finish(steps, begun)))
                except Exception as error:
                    chunk.name(error)
                    raise
                opened.popleft()
                for answer in found:
                    bar.advance(bar.task_ids[0])
                    yield answer
    finally:
        for *_, begun in opened:
            begun.cancel()
    if failure:
        raise failure


async def answers_awaited(
    chunks: AsyncIterator[Chunk],
    ask: Callable[[Any], Awaitable[dict]],
    in_flight: int,
    bar: Progress,
) -> AsyncGenerator[dict]:
    """Yield as `answers`, each request a task of the event loop.

    Args:
        chunks: What to ask; taken as requests can be begun.
        ask: Takes a chunk's inputs, returns the outputs.
        in_flight: Most requests that are open at a time.
        bar: To advance by one for each answer.
    """
    failure, reading = None, True
    opened: collections.deque = collections.deque()
    try:
        while reading or opened:
            while reading and _may_open(opened, in_flight):
                chunk = None
                try:
                    chunk = await anext(chunks, None)
                    if chunk is None:
                        reading = False
                    else:
                        task = asyncio.ensure_future(ask(chunk.inputs()))
                        opened.append((chunk, task))
                except Exception as error:
                    failure = chunk.name(error) if chunk else error
                    reading = False
            if opened:
                chunk, task = opened[0]
                try:
                    found = list(chunk.answers(await task))
                except Exception as error:
                    chunk.name(error)
                    raise
                opened.popleft()
                for answer in found:
                    bar.advance(bar.task_ids[0])
                    yield answer
    finally:
        for _, task in opened:
            task.cancel()
        await asyncio.gather(*(task for _, task in opened), return_exceptions=True)
    if failure:
        raise failure


def _may_open(opened, in_flight):
    return len(opened) < in_flight and not (opened and opened[0][-1].done())
