"""The time that is left to answer one request."""

import time
from collections.abc import Callable

from bn_keras_serving.common.errors import DeadlineExceededError


class Deadline:
    """The time that is left to answer one request, while its client waits.

    A request passes through several stages: it waits for a thread, is parsed, waits
    until a model may run, runs. Each stage asks for the remaining time before it
    starts, so that no work is done for a client that no longer waits.

    Args:
        seconds: Time to answer the request, from now on; None for no limit.
        client_is_waiting: Function that returns whether the client is still connected.
            It is called from the thread that handles the request.

    Example:
        ```python
        from bn_keras_serving.dispatch.deadline import Deadline

        deadline = Deadline(30.0)
        assert 29.0 < deadline.remaining() <= 30.0
        ```
    """

    def __init__(
        self,
        seconds: float | None = None,
        client_is_waiting: Callable[[], bool] = lambda: True,
    ):
        self._end = None if seconds is None else time.monotonic() + seconds
        self._client_is_waiting = client_is_waiting

    def remaining(self) -> float | None:
        """Return the remaining time in seconds; None if it is unlimited.

        Raises:
            DeadlineExceededError: If the deadline has passed or the client has left.
        """
        seconds = None if self._end is None else self._end - time.monotonic()
        if not self._client_is_waiting() or (seconds is not None and seconds <= 0):
            raise DeadlineExceededError(
                "The deadline passed, or the client disconnected, before the model "
                "could run."
            )
        return seconds


UNLIMITED = Deadline()
