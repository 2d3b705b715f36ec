"""Send many items in requests of several, and return their answers one by one."""

import asyncio
import collections
import contextlib
import functools
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

from bn_keras_serving.client.conversation import Answer

# Advances a progress bar by one answer.
Advance = Callable[[], object]


class Chunk(NamedTuple):
    """Items of one request.

    Attributes:
        first: Position of the first item among all items.
        items: The items.
        batched: Whether they are examples to send as one batch; if not, there is one
            item, a whole input.
    """

    first: int
    items: list[Any]
    batched: bool

    def inputs(self) -> Any:
        """Return the inputs of the request.

        Raises:
            ValueError: The items of a batch do not have the same names.
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
                    "`items` of one batch must have the same names. Received: "
                    f"{names[0]} for the first item of the batch and {other} for item "
                    f"{index} of it. Give every item the same names."
                )
        return {name: [item[name] for item in self.items] for name in self.items[0]}

    def answers(self, outputs: Answer) -> Iterator[Answer]:
        """Yield the answer to each item.

        Raises:
            ValueError: An output does not have one row for each item of the batch.
        """
        if not self.batched:
            yield outputs
            return
        for name, array in outputs.items():
            if array.shape[:1] != (len(self.items),):
                raise ValueError(
                    f"The output {name} must have a row for each of the "
                    f"{len(self.items)} items sent. Received: shape {array.shape}. "
                    "Leave it out with output_filter, or do not pass batch_size."
                )
        for index in range(len(self.items)):
            # With the ellipsis a row of one number is an array, too.
            yield {name: array[index, ...] for name, array in outputs.items()}

    def annotate(self, error: BaseException) -> BaseException:
        """Note in an error which items it is about, and return it."""
        last = self.first + len(self.items) - 1
        which = f"items {self.first} to" if last > self.first else "item"
        error.add_note(f"From {which} {last} (the first is 0).")
        return error


def chunks(items: Iterable[Any], batch_size: int | None) -> Iterator[Chunk]:
    """Yield items as chunks of a batch size, or of one item without a batch size."""
    items = iter(items)
    first = 0
    while batch := list(itertools.islice(items, batch_size or 1)):
        yield Chunk(first, batch, batch_size is not None)
        first += len(batch)


async def async_chunks(
    items: Iterable[Any] | AsyncIterable[Any], batch_size: int | None
) -> AsyncIterator[Chunk]:
    """Yield as `chunks` does, from an asynchronous iterable too."""
    if not isinstance(items, AsyncIterable):
        for chunk in chunks(items, batch_size):
            yield chunk
        return
    first, batch = 0, []
    async for item in items:
        batch.append(item)
        if len(batch) == (batch_size or 1):
            yield Chunk(first, batch, batch_size is not None)
            first, batch = first + len(batch), []
    if batch:
        yield Chunk(first, batch, batch_size is not None)


def check(batch_size: int | None, in_flight: int) -> None:
    """Raise ValueError for a number below one."""
    for name, value in (("batch_size", batch_size), ("in_flight", in_flight)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be 1 or more. Received: {name}={value}.")


def progress_bar(items: Any, shown: bool) -> contextlib.AbstractContextManager[Advance]:
    """Return a progress bar on standard error, if that is a terminal.

    Args:
        items: Items to answer; the bar has a total if they have a length.
        shown: Whether to show it at all.

    Raises:
        ImportError: A bar is wanted, and the package rich is not installed.
    """
    if not shown:
        return contextlib.nullcontext(lambda: None)
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        raise ImportError(
            "`progress=True` needs the package rich. Install it with `pip install "
            "rich`.",
            name="rich",
        ) from None

    @contextlib.contextmanager
    def show() -> Iterator[Advance]:
        console = Console(stderr=True)
        bar = Progress(
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # Otherwise output for a file or a pipe would go to the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        task = bar.add_task("predicting", total=operator.length_hint(items) or None)
        with bar:
            yield functools.partial(bar.advance, task)

    return show()


def answers(
    chunks: Iterator[Chunk],
    begin: Callable[[Any], tuple[Any, Any]],
    finish: Callable[..., Answer],
    in_flight: int,
    advance: Advance,
) -> Iterator[Answer]:
    """Yield the answers to chunks in order while the next requests are in flight.

    Args:
        chunks: Chunks to send; taken only when a request can begin.
        begin: Takes a chunk's inputs, sends the request, and returns the steps of the
            conversation and a `grpc.Future`.
        finish: Takes these two and returns the outputs.
        in_flight: Largest number of open requests.
        advance: Called after each answer.
    """
    # An error must come after the answers to the chunks before it, so it waits here.
    failure, reading = None, True
    pending: collections.deque[tuple[Chunk, Any, Any]] = collections.deque()
    try:
        while reading or pending:
            while reading and _can_begin(pending, in_flight):
                chunk = None
                try:
                    chunk = next(chunks, None)
                    if chunk is None:
                        reading = False
                    else:
                        pending.append((chunk, *begin(chunk.inputs())))
                except Exception as error:
                    failure = chunk.annotate(error) if chunk else error
                    reading = False
            if pending:
                chunk, steps, future = pending[0]
                try:
                    results = list(chunk.answers(finish(steps, future)))
                except Exception as error:
                    chunk.annotate(error)
                    raise
                # Only now: if the caller stops meanwhile, `finally` cancels it.
                pending.popleft()
                for result in results:
                    advance()
                    yield result
    finally:
        for *_, future in pending:
            future.cancel()
    if failure:
        raise failure


async def async_answers(
    chunks: AsyncIterator[Chunk],
    ask: Callable[[Any], Awaitable[Answer]],
    in_flight: int,
    advance: Advance,
) -> AsyncGenerator[Answer, None]:
    """Yield as `answers` does, with each request as a task of the event loop.

    Args:
        chunks: Chunks to send; taken only when a request can begin.
        ask: Takes a chunk's inputs and returns the outputs.
        in_flight: Largest number of open requests.
        advance: Called after each answer.
    """
    failure, reading = None, True
    pending: collections.deque[tuple[Chunk, Any]] = collections.deque()
    try:
        while reading or pending:
            while reading and _can_begin(pending, in_flight):
                chunk = None
                try:
                    chunk = await anext(chunks, None)
                    if chunk is None:
                        reading = False
                    else:
                        task = asyncio.ensure_future(ask(chunk.inputs()))
                        pending.append((chunk, task))
                except Exception as error:
                    failure = chunk.annotate(error) if chunk else error
                    reading = False
            if pending:
                chunk, task = pending[0]
                try:
                    results = list(chunk.answers(await task))
                except Exception as error:
                    chunk.annotate(error)
                    raise
                pending.popleft()
                for result in results:
                    advance()
                    yield result
    finally:
        for _, task in pending:
            task.cancel()
        # Cancelled tasks end only when they are awaited.
        await asyncio.gather(*(task for _, task in pending), return_exceptions=True)
    if failure:
        raise failure


def _can_begin(pending: collections.deque[Any], in_flight: int) -> bool:
    """Whether to send another request before waiting for the oldest answer.

    Not if that answer has arrived: a slow source of items must not hold it back.
    """
    return len(pending) < in_flight and not (pending and pending[0][-1].done())
