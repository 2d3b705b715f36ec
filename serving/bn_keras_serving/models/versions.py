"""Find the versions of one model on disk; load, swap and unload them.

Knows neither what a loaded version is nor how it is asked: loading is handed in.
"""

import contextlib
import dataclasses
import enum
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from bn_keras_serving.common.errors import ServableNotFoundError
from bn_keras_serving.models.directories import (
    Policy,
    aspired,
    listed,
    problem_of,
    versions_on_disk,
    why_nothing_is_aspired,
)

LOAD_ATTEMPTS = 5


class Closeable(Protocol):
    """What is loaded must let go of its memory when told."""

    def close(self) -> None:
        """Let go."""
        ...


Loaded = TypeVar("Loaded", bound=Closeable)

_logger = logging.getLogger(__name__)


class State(enum.Enum):
    """Where a version is in its life."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """State of one version, with the error that ended it, if one did."""

    version: int
    state: State
    error: str | None = None


@dataclasses.dataclass(eq=False)
class _Lendable(Generic[Loaded]):
    servable: Loaded
    uses: int = 0


def not_found(model_name: str, version: int | None = None) -> ServableNotFoundError:
    """Say that a version is not served, or none where it has no number."""
    asked = f"Latest({model_name})"
    if version is not None:
        asked = f"Specific({model_name}, {version})"
    return ServableNotFoundError(f"Servable not found for request: {asked}")


class Versions(Generic[Loaded]):
    """The versions of one model that its policy asks for.

    A new version is loaded first; versions not asked for are unloaded after, each when
    its last use is over. Until one of those asked for serves, the highest of the others
    stays. A version that fails to load, half-copied perhaps, is tried again at the next
    looks, `LOAD_ATTEMPTS` times in all; then it ends with its error, and what is
    written there later is not seen: export under a new number. A directory emptied of
    versions unloads them all; one that cannot be read changes nothing.

    Args:
        model_name: Name to serve under.
        directory: Where the versions are, `DIRECTORY/1/saved_model.pb`.
        policy: Which versions to serve; an empty one asks for the latest.
        load: Makes a servable of a number and a path, or raises anything.
        poll_seconds: Seconds between two looks at the directory; 0 looks only when
            `poll` is called, and tries each version once.

    Reference:
        `file_system_storage_path_source.cc` and `availability_preserving_policy.cc` of
        TensorFlow Serving.
    """

    def __init__(
        self,
        model_name: str,
        directory: str | Path,
        policy: Policy,
        load: Callable[[int, Path], Loaded],
        poll_seconds: float = 1.0,
    ):
        self.model_name = model_name
        self.directory = Path(directory)
        self._policy = policy
        self._load_servable = load
        self._poll_seconds = poll_seconds
        self._attempts_allowed = LOAD_ATTEMPTS if poll_seconds else 1
        self._polling = threading.Lock()
        self._lock = threading.Lock()  # of all that follows
        self._statuses: dict[int, VersionStatus] = {}
        self._attempts: dict[int, int] = {}
        self._serving: dict[int, _Lendable[Loaded]] = {}
        self._retired: dict[int, _Lendable[Loaded]] = {}
        self._closed = False
        self._told: str | None = None
        self._wake = threading.Event()
        self._watcher: threading.Thread | None = None

    def watch(self) -> None:
        """Look at the directory from now on, in a thread of its own."""
        name = f"versions of {self.model_name}"
        self._watcher = threading.Thread(target=self._watch, name=name, daemon=True)
        self._watcher.start()

    def close(self, timeout: float | None = None) -> None:
        """Serve nothing more and unload all; uses under way finish.

        Args:
            timeout: Seconds to wait for a load under way; None waits for its end.
        """
        with self._lock:
            self._closed = True
            for version in list(self._serving):
                self._retire(version)
            for version, status in self._statuses.items():
                if status.state in (State.START, State.LOADING):
                    self._set(version, State.END, status.error)
        self._wake.set()
        if self._polling.acquire(timeout=-1 if timeout is None else max(0, timeout)):
            self._polling.release()
        self._release()

    @contextlib.contextmanager
    def use(self, version: int | None = None) -> Iterator[Loaded]:
        """Lend a loaded version, which stays loaded until given back.

        Args:
            version: Its number; the highest loaded by default.

        Raises:
            ServableNotFoundError: It is not loaded.
        """
        with self._lock:
            number = max(self._serving, default=-1) if version is None else version
            lent = self._serving.get(number)
            if lent is None:
                raise not_found(self.model_name, version)
            lent.uses += 1
        try:
            yield lent.servable
        finally:
            with self._lock:
                lent.uses -= 1
                if not lent.uses and self._retired.get(number) is lent:
                    self._wake.set()

    def statuses(self) -> list[VersionStatus]:
        """Return the state of each version seen so far, the newest first."""
        with self._lock:
            return [self._statuses[one] for one in sorted(self._statuses)][::-1]

    def available(self) -> set[int]:
        """Return the numbers of the versions that serve."""
        with self._lock:
            return set(self._serving)

    def why_unavailable(self) -> str:
        """Say what keeps the model from serving, and how to mend it."""
        for status in self.statuses():
            if status.error is not None:
                return (
                    f"Expected version {status.version} in {self.directory} to load. "
                    f"Received: {status.error}; export it anew under a new number."
                )
        return why_nothing_is_aspired(self.directory)

    def set_policy(self, policy: Policy) -> None:
        """Ask for other versions, and load and unload accordingly."""
        if policy != self._policy:
            self._policy = policy
            self.poll()

    def poll(self) -> None:
        """Look at the directory once; load what is asked for, unload the rest."""
        with self._polling:
            if self._closed:
                return
            try:
                found = versions_on_disk(self.directory)
            except OSError as error:
                # A file system that is away for a while must not unload the model.
                self._tell(f"Expected to read {self.directory}. Received: {error}")
                return
            self._tell(problem_of(self.directory, self._policy, found))
            wanted = aspired(self._policy, found)
            self._end_failed_but(wanted)
            self._unload_all_but(wanted)
            for version in self._unloaded(wanted):
                if self._closed:
                    break
                self._load(version, wanted[version])
                self._unload_all_but(wanted)
            self._release()

    def _unloaded(self, wanted: dict[int, Path]) -> list[int]:
        """Return the versions to load now, the newest first."""
        with self._lock:
            ended = [
                version
                for version, attempts in self._attempts.items()
                if attempts >= self._attempts_allowed
            ]
            unloaded = set(wanted).difference(self._serving, self._retired, ended)
            for version in unloaded.difference(self._attempts):
                self._set(version, State.START)
        return sorted(unloaded, reverse=True)

    def _load(self, version: int, path: Path) -> None:
        with self._lock:
            self._set(version, State.LOADING, self._statuses[version].error)
        try:
            servable = self._load_servable(version, path)
        except Exception as error:  # a broken export may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            with self._lock:
                attempt = self._attempts[version] = self._attempts.get(version, 0) + 1
                last = self._closed or attempt >= self._attempts_allowed
                self._set(version, State.END if last else State.LOADING, reason)
            _logger.error("Version %d at %s failed to load: %s", version, path, reason)
            return
        with self._lock:
            self._attempts.pop(version, None)
            if self._closed:
                self._set(version, State.END)
                return
            self._serving[version] = _Lendable(servable)
            self._set(version, State.AVAILABLE)
        _logger.info("Model %s: version %d is served.", self.model_name, version)

    def _unload_all_but(self, wanted: dict[int, Path]) -> None:
        with self._lock:
            others = sorted(self._serving.keys() - wanted)
            if wanted and not self._serving.keys() & wanted:
                others = others[:-1]  # the model must not be without any
            for version in others:
                self._retire(version)
        if others:
            self._release()

    def _retire(self, version: int) -> None:
        self._retired[version] = self._serving.pop(version)
        self._set(version, State.UNLOADING)

    def _release(self) -> None:
        """Let go of retired versions that nobody uses any more."""
        with self._lock:
            idle = {
                number: self._retired.pop(number)
                for number, one in list(self._retired.items())
                if not one.uses
            }
        if not idle:
            return
        for one in idle.values():
            one.servable.close()
        with self._lock:
            for version in idle:
                if self._statuses[version].state is State.UNLOADING:
                    self._set(version, State.END)
        _logger.info("Model %s: %s unloaded.", self.model_name, listed(idle))

    def _end_failed_but(self, wanted: dict[int, Path]) -> None:
        """End what failed and is not asked for; asked for again, it starts anew."""
        with self._lock:
            for version in self._attempts.keys() - wanted:
                del self._attempts[version]
                self._set(version, State.END, self._statuses[version].error)

    def _set(self, version: int, state: State, error: str | None = None) -> None:
        self._statuses[version] = VersionStatus(version, state, error)

    def _tell(self, problem: str | None) -> None:
        """Log a problem of the directory, once; before `watch`, the caller tells it."""
        if self._watcher and problem not in (None, self._told):
            _logger.warning("Model %s: %s", self.model_name, problem)
        self._told = problem

    def _watch(self) -> None:
        while True:
            woken = self._wake.wait(self._poll_seconds or None)
            self._wake.clear()
            try:
                self._release() if woken else self.poll()
            except Exception:
                _logger.exception("Could not look for versions; will look again.")
            with self._lock:
                if self._closed and not self._retired:
                    return
