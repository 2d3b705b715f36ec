"""Processes that convert large documents, so that other requests need not wait.

Python runs one thread at a time: while it parses a document of 32 MB in one call, no
other request is answered.
"""

import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bn_keras_serving.common.errors import UnavailableError
from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.dispatch.workers import Workers
from bn_keras_serving.rest import conversion_process, framing
from bn_keras_serving.rest.framing import Bytes

# How often a waiting thread looks whether the client has left.
_POLL_SECONDS = 0.1
_STOP_SECONDS = 1.0
# How long an idle process takes at most to see that it is needed no more.
_EXIT_SECONDS = 0.2
# Up to 64 MB of free memory stay with a process: it takes longer to get a page from the
# operating system than to fill it. Documents of 1 to 8 MB take half the time.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}

_logger = logging.getLogger(__name__)


class Converters:
    """A pool of processes for calls of functions in `json_requests` and `json_answers`.

    A process is started when it is first needed, and again after it has been ended:
    by a deadline that passed while it worked, or because its memory ran out.

    Args:
        processes: Maximum number of processes.

    Example:
        ```python
        import asyncio

        import numpy as np

        from bn_keras_serving.dispatch.deadline import Deadline
        from bn_keras_serving.rest import json_answers
        from bn_keras_serving.rest.converters import Converters

        converters = Converters(1)
        outputs = {"y": np.ones(2, np.float32)}
        call = converters.run(
            json_answers.encode_predictions, (outputs, True), Deadline(10.0)
        )
        assert bytes(asyncio.run(call)) == b'{"predictions":[1.0,1.0]}'
        converters.stop()
        ```
    """

    def __init__(self, processes: int):
        self._workers = Workers(processes, "conversion")
        self._converters = [_Converter() for _ in range(processes)]
        # The last one is taken first: the others are started only if they are needed.
        self._idle: queue.LifoQueue[_Converter] = queue.LifoQueue()
        for converter in self._converters:
            self._idle.put(converter)
        self._warned = False

    async def run(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        deadline: Deadline,
        body: list[Any] | None = None,
    ) -> Any:
        """Call a function in one of the processes, as soon as one is idle.

        Args:
            function: A function at the top of a module.
            arguments: Its arguments.
            deadline: Time left for the request. When it is over, the process is ended.
            body: Parts of a body, which becomes the first argument of the function.
                They are removed from the list as they are sent.

        Returns:
            What the function returns; instead of the parts of a document, the document
            as a buffer.

        Raises:
            DeadlineExceededError: If there was not enough time.
            UnavailableError: If the process ended unexpectedly, for want of memory
                perhaps. Errors that the function raises are passed on.
        """

        def call() -> Any:
            converter = self._idle.get()
            try:
                return converter.call(function, arguments, deadline, body)
            except _CannotStartError as error:
                self._warn(error)
            finally:
                self._idle.put(converter)
            parts = () if body is None else (b"".join(body),)
            result = function(*parts, *arguments)
            return b"".join(result) if isinstance(result, list) else result

        return await self._workers.run(call)

    def stop(self) -> None:
        """End the processes."""
        self._workers.stop(_STOP_SECONDS)
        for converter in self._converters:
            converter.stop()

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(
                "The process for large documents cannot be started: %r. They are "
                "converted in the server, where other requests wait for them.",
                error.__cause__,
            )


class ConverterPools:
    """A pool of processes for documents of seconds, and a process for shorter ones.

    Args:
        processes: Maximum number of processes for long documents.

    Attributes:
        long: For documents that can take seconds.
        short: For documents that take less; they need not wait for long ones.
    """

    def __init__(self, processes: int):
        self.long = Converters(processes)
        self.short = Converters(1)

    def stop(self) -> None:
        """End the processes."""
        self.long.stop()
        self.short.stop()


class _CannotStartError(Exception):
    """The process cannot be started, or does not find what it imports."""


class _Converter:
    """One process, which is started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ready = False

    def call(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        deadline: Deadline,
        body: list[Any] | None,
    ) -> Any:
        """Call a function in the process; the arguments are those of `Converters`."""
        self._start(deadline)
        try:
            self._send((function, arguments, body is not None), body, deadline)
            result = self._receive(deadline)
        except (OSError, EOFError):
            status = self.stop()
            _logger.warning(
                "A process that converted a document has ended with status %s.", status
            )
            raise UnavailableError(
                "The document could not be converted. Try again later, or send several "
                "smaller ones."
            ) from None
        except BaseException:
            self.stop()
            raise
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # it refers to this frame, with the whole request
        return result

    def stop(self) -> int | None:
        """End the process, and return its exit status."""
        process, self._process = self._process, None
        if self._socket is not None:
            self._socket.close()  # the end of the input of the process
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_EXIT_SECONDS)
        process.kill()
        return process.wait()

    def _start(self, deadline: Deadline) -> None:
        """Wait until the process runs. If time is over before, the next call waits."""
        try:
            if self._process is None or self._process.poll() is not None:
                self.stop()
                self._socket, self._process = _start_process()
                self._ready = False
            if not self._ready:
                _transfer(self._socket.recv_into, bytearray(1), deadline)
                self._ready = True
        except (OSError, EOFError) as error:
            self.stop()
            raise _CannotStartError from error

    def _send(self, message: Any, body: list[Any] | None, deadline: Deadline) -> None:
        def write(part: Bytes) -> None:
            _transfer(self._socket.send, part, deadline)

        framing.send(write, message, body)

    def _receive(self, deadline: Deadline) -> Any:
        def read(size: int) -> memoryview:
            # A bytearray would be filled with zeros, while no other thread runs.
            buffer = np.empty(size, np.uint8).data
            _transfer(self._socket.recv_into, buffer, deadline)
            return buffer

        message, document = framing.receive(read)
        return document if message is None and document else message


def _start_process() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a process; return a socket to its standard input and output as well."""
    ours, theirs = socket.socketpair()
    ours.settimeout(_POLL_SECONDS)
    path = [str(entry or Path.cwd()) for entry in sys.path]
    with theirs:
        try:
            process = subprocess.Popen(
                # Without -P, modules in the working directory would come first.
                [sys.executable or "", "-P", "-m", conversion_process.__name__],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path),
                    "OPENBLAS_NUM_THREADS": "1",
                    **_MALLOC,
                },
                # An interrupt from a terminal is meant for the server alone. (In a
                # session of its own, its priority would be as high as the server's.)
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    return ours, process


def _transfer(
    transfer: Callable[[memoryview], int], buffer: Bytes, deadline: Deadline
) -> None:
    """Send or receive as many bytes as a buffer has."""
    view = memoryview(buffer)
    while len(view):
        deadline.remaining()
        try:
            count = transfer(view)
        except TimeoutError:
            continue
        if not count:
            raise EOFError
        view = view[count:]
