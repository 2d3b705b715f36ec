"""Worker threads with a limit on the number of pending calls."""

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures

from bn_keras_serving.common.errors import (
    DeadlineExceededError,
    ServerBusyError,
    ServerStoppingError,
)


class BoundedExecutor:
    """An executor with a limit on the number of pending calls.

    Args:
        workers: Runs the calls.
        places: Maximum number of calls that run or wait; further ones are rejected.
    """

    def __init__(self, workers: futures.Executor, places: int):
        self._workers = workers
        self._places = threading.BoundedSemaphore(places)

    async def run(self, work: Callable[[], bytes], timeout: float) -> bytes:
        """Run a function in a worker thread and return its result.

        Raises:
            ServerBusyError: If too many calls are pending.
            ServerStoppingError: If the workers have been shut down.
            DeadlineExceededError: If the result is late.
        """
        # The event loop must never block, so it does not wait for a place.
        if not self._places.acquire(blocking=False):
            raise ServerBusyError
        try:
            future = self._workers.submit(work)
        except RuntimeError:
            self._places.release()
            raise ServerStoppingError("The server is stopping.") from None
        # The place is taken until the work has ended, not merely until its caller has
        # given up: otherwise late work would pile up in the executor.
        future.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise DeadlineExceededError(
                f"No answer within {timeout:g} seconds."
            ) from None
