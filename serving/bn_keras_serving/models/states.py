"""The states of versions, and when those that have failed to load are tried again."""

import dataclasses
import enum
import math
import time
from collections.abc import Container


class State(enum.Enum):
    """Stage in the life of a version."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """State of one version, with the error of its last failed load, if any."""

    version: int
    state: State
    error: str | None = None


@dataclasses.dataclass
class _Failures:
    attempts: int
    next_attempt: float  # of `time.monotonic`


class FailedLoads:
    """The versions that have failed to load. Callers must exclude one another.

    Args:
        retries: How often a failed load is tried again.
        retry_seconds: Seconds between two attempts.

    Example:
        ```python
        from bn_keras_serving.models.states import FailedLoads

        failed = FailedLoads(1, 60.0)
        assert failed.add(3) == 60.0  # seconds until the second and last attempt
        assert failed.waiting() == {3}
        assert failed.add(3) == float("inf")
        ```
    """

    def __init__(self, retries: int, retry_seconds: float):
        self._retries = retries
        self._retry_seconds = retry_seconds
        self._failures: dict[int, _Failures] = {}

    def __contains__(self, version: int) -> bool:
        return version in self._failures

    def add(self, version: int) -> float:
        """Count a failure; return the seconds until the next attempt, infinite if none.

        Args:
            version: Number of the version.
        """
        previous = self._failures.get(version)
        attempts = 1 + (0 if previous is None else previous.attempts)
        seconds = math.inf if attempts > self._retries else self._retry_seconds
        self._failures[version] = _Failures(attempts, time.monotonic() + seconds)
        return seconds

    def discard(self, version: int) -> None:
        """Forget the failures of a version."""
        self._failures.pop(version, None)

    def discard_except(self, versions: Container[int]) -> list[int]:
        """Forget the failures of all but some versions; return the forgotten ones."""
        others = [version for version in self._failures if version not in versions]
        for version in others:
            self.discard(version)
        return others

    def waiting(self) -> set[int]:
        """Return the versions that must not be tried yet, or no more."""
        now = time.monotonic()
        return {v for v, failed in self._failures.items() if failed.next_attempt > now}

    def seconds_to_next_attempt(self) -> float:
        """Return the seconds until a version may be tried; infinite without any."""
        attempts = [failed.next_attempt for failed in self._failures.values()]
        return max(0.0, min(attempts, default=math.inf) - time.monotonic())
