"""The time that is left to answer one request."""

import time

from bn_keras_serving.common.errors import DeadlineExceededError


class Deadline:
    """The time that is left to answer one request, while its client waits.

    A request passes through several stages: it waits for a thread, is parsed, waits
    until a model may run, runs. Each stage asks for the remaining time before it
    starts, so that no work is done for a client that no longer waits.

    Args:
        seconds: Time to answer the request, from now on; None for no limit.

    Example:
        ```python
        from bn_keras_serving.dispatch.deadline import Deadline

        deadline = Deadline(30.0)
        assert 29.0 < deadline.remaining() <= 30.0
        ```
    """

    def __init__(self, seconds: float | None = None):
        self._end = None if seconds is None else time.monotonic() + seconds
        self._cancelled = False

    def cancel(self) -> None:
        """End the request, because its client has left. Any thread may call this."""
        self._cancelled = True

    def has_passed(self) -> bool:
        """Return whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end

    def remaining(self) -> float | None:
        """Return the remaining time in seconds; None if it is unlimited.

        Raises:
            DeadlineExceededError: If the deadline has passed or the client has left.
        """
        seconds = None if self._end is None else self._end - time.monotonic()
        if self._cancelled or (seconds is not None and seconds <= 0):
            raise DeadlineExceededError(
                "The deadline passed, or the client disconnected, before the model "
                "could run."
            )
        return seconds


UNLIMITED = Deadline()
