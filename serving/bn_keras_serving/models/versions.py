"""The versions of one model: finding them on disk, loading, swapping and unloading."""

import contextlib
import dataclasses
import logging
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from bn_keras_serving.common.errors import ServableNotFoundError
from bn_keras_serving.models.directories import (
    Policy,
    aspired_versions,
    explain_missing_versions,
    format_versions,
    policy_problem,
    versions_on_disk,
)
from bn_keras_serving.models.states import FailedLoads, State, VersionStatus


class Closeable(Protocol):
    """A loaded version, which must release its memory when it is closed."""

    def close(self) -> None:
        """Release all memory."""
        ...


Loaded = TypeVar("Loaded", bound=Closeable)

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class _LoadedVersion(Generic[Loaded]):
    """A loaded version with the number of its uses in progress."""

    servable: Loaded
    uses: int = 0


def version_not_found(
    model_name: str, version: int | None = None
) -> ServableNotFoundError:
    """Return the error for a version that is not loaded; None is for the latest."""
    request = f"Latest({model_name})"
    if version is not None:
        request = f"Specific({model_name}, {version})"
    return ServableNotFoundError(f"Servable not found for request: {request}")


class Versions(Generic[Loaded]):
    """The versions of one model that its policy selects.

    A new version is loaded before the versions that are no longer selected are
    unloaded, and each of those stays until its last use ends. While none of the
    selected versions is loaded, the highest of the others keeps serving. A version that
    fails to load, perhaps because it is still being copied, stays in the state LOADING
    and is tried again. Once the attempts are used up, it ends with its error, and
    anything written to its directory later is ignored: export under a new number. If
    the directory contains no version any more, all are unloaded; if it cannot be read,
    nothing changes.

    Args:
        model_name: Name of the model.
        directory: Directory of the versions, as in `DIRECTORY/1/saved_model.pb`.
        policy: Which versions to serve; an empty policy selects the latest.
        load: Function that loads a version from its number and path. It may raise any
            error.
        poll_seconds: Seconds between two polls of the directory. With 0, the directory
            is read only when `poll` is called.
        retries: How often a failed load is tried again.
        retry_seconds: Seconds between two attempts. Other versions are loaded
            meanwhile.

    Reference:
        `file_system_storage_path_source.cc`, `availability_preserving_policy.cc` and
        `loader_harness.cc` of TensorFlow Serving.
    """

    def __init__(
        self,
        model_name: str,
        directory: str | Path,
        policy: Policy,
        load: Callable[[int, Path], Loaded],
        poll_seconds: float = 1.0,
        retries: int = 5,
        retry_seconds: float = 60.0,
    ):
        self.model_name = model_name
        self.directory = Path(directory)
        self._policy = policy
        self._load_servable = load
        self._poll_seconds = poll_seconds
        # Held for a whole poll, loads included: polls run one after the other.
        self._poll_lock = threading.Lock()
        self._aspired: dict[int, Path] = {}  # guarded by `_poll_lock`
        # Held briefly, never while loading: requests must not wait for a load.
        self._lock = threading.Lock()  # guards everything below
        self._statuses: dict[int, VersionStatus] = {}
        self._failed = FailedLoads(retries, retry_seconds)
        self._serving: dict[int, _LoadedVersion[Loaded]] = {}
        self._retired: dict[int, _LoadedVersion[Loaded]] = {}
        self._closed = False
        self._last_problem: str | None = None
        self._wake = threading.Event()
        self._watcher: threading.Thread | None = None

    def watch(self) -> None:
        """Start to poll the directory in a background thread."""
        name = f"versions of {self.model_name}"
        self._watcher = threading.Thread(target=self._watch, name=name, daemon=True)
        self._watcher.start()

    def close(self, timeout: float | None = None) -> None:
        """Stop serving and unload all versions; uses in progress finish first.

        Args:
            timeout: Seconds to wait for a load in progress; None waits until it ends.
        """
        with self._lock:
            self._closed = True
            for version in list(self._serving):
                self._retire(version)
            for version, status in self._statuses.items():
                if status.state in (State.START, State.LOADING):
                    self._set(version, State.END, status.error)
            self._failed.discard_except(())
        self._wake.set()
        # A poll in progress holds this lock, and sees `_closed` after its load.
        if self._poll_lock.acquire(timeout=-1 if timeout is None else max(0, timeout)):
            self._poll_lock.release()
        self._unload_idle()

    @contextlib.contextmanager
    def use(self, version: int | None = None) -> Iterator[Loaded]:
        """Lend a loaded version; it stays loaded until it is returned.

        Args:
            version: Number of the version; the highest loaded one by default.

        Yields:
            The loaded version.

        Raises:
            ServableNotFoundError: If the version is not loaded.
        """
        with self._lock:
            number = max(self._serving, default=-1) if version is None else version
            loaded = self._serving.get(number)
            if loaded is None:
                raise version_not_found(self.model_name, version)
            loaded.uses += 1
        try:
            yield loaded.servable
        finally:
            with self._lock:
                loaded.uses -= 1
                # The watcher unloads it: a request must not wait for that.
                if not loaded.uses and self._retired.get(number) is loaded:
                    self._wake.set()

    def statuses(self) -> list[VersionStatus]:
        """Return the state of each version seen so far, newest first."""
        with self._lock:
            return [
                self._statuses[version]
                for version in sorted(self._statuses, reverse=True)
            ]

    def available(self) -> set[int]:
        """Return the numbers of the versions that can answer requests."""
        with self._lock:
            return set(self._serving)

    def why_unavailable(self) -> str:
        """Explain why the model cannot answer requests, and how to fix it."""
        for status in self.statuses():
            if status.error is not None:
                return (
                    f"Version {status.version} in {self.directory} must load. "
                    f"Received: {status.error}. Export it again under a new number."
                )
        return explain_missing_versions(self.directory)

    def set_policy(self, policy: Policy) -> None:
        """Change the policy, and load and unload versions accordingly."""
        if policy != self._policy:
            self._policy = policy
            self.poll()

    def poll(self) -> None:
        """Read the directory once; load selected versions and unload the others."""
        with self._poll_lock:
            if self._closed:
                return
            try:
                on_disk = versions_on_disk(self.directory)
            except OSError as error:
                # A file system that is briefly unavailable must not unload the model.
                self._report(f"{self.directory} must be readable. Received: {error}")
                self._load_missing()
                return
            self._report(policy_problem(self.directory, self._policy, on_disk))
            self._aspired = aspired_versions(self._policy, on_disk)
            self._end_failed_except(self._aspired)
            self._retire_all_except(self._aspired)
            self._load_missing()
            self._unload_idle()

    def _load_missing(self) -> None:
        """Load the selected versions whose turn it is; `_poll_lock` must be held."""
        for version in self._versions_to_load():
            if self._closed:
                break
            self._load(version, self._aspired[version])
            # At the first version that loads, the old ones are no longer needed.
            self._retire_all_except(self._aspired)

    def _versions_to_load(self) -> list[int]:
        """Return the versions to load now, newest first."""
        with self._lock:
            # A retired version with the same number must be unloaded first.
            missing = set(self._aspired).difference(
                self._serving, self._retired, self._failed.waiting()
            )
            for version in missing:
                if version not in self._failed:
                    self._set(version, State.START)
        return sorted(missing, reverse=True)

    def _load(self, version: int, path: Path) -> None:
        with self._lock:
            self._set(version, State.LOADING, self._statuses[version].error)
        try:
            servable = self._load_servable(version, path)
        except Exception as error:  # a damaged export can raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            with self._lock:
                wait = self._failed.add(version)
                last = self._closed or wait == math.inf
                self._set(version, State.END if last else State.LOADING, reason)
            _logger.error("Version %d at %s failed to load: %s", version, path, reason)
            if self._watcher and not last:
                _logger.info("The next attempt is in %g seconds.", wait)
            return
        with self._lock:
            self._failed.discard(version)
            if self._closed:  # during the load
                self._set(version, State.END)
                return
            self._serving[version] = _LoadedVersion(servable)
            self._set(version, State.AVAILABLE)
        _logger.info("Model %s: version %d is served.", self.model_name, version)

    def _retire_all_except(self, aspired: dict[int, Path]) -> None:
        with self._lock:
            others = sorted(self._serving.keys() - aspired)
            if aspired and not self._serving.keys() & aspired:
                others = others[:-1]  # keep the highest until a selected one is loaded
            for version in others:
                self._retire(version)
        if others:
            self._unload_idle()

    def _retire(self, version: int) -> None:
        """Stop lending a version; `_lock` must be held."""
        self._retired[version] = self._serving.pop(version)
        self._set(version, State.UNLOADING)

    def _unload_idle(self) -> None:
        """Unload the retired versions that are not in use any more."""
        with self._lock:
            idle = {
                version: self._retired.pop(version)
                for version, loaded in list(self._retired.items())
                if not loaded.uses
            }
        if not idle:
            return
        # Unloading takes long; it happens outside the lock.
        for loaded in idle.values():
            loaded.servable.close()
        with self._lock:
            for version in idle:
                # Meanwhile the version may have been selected again.
                if self._statuses[version].state is State.UNLOADING:
                    self._set(version, State.END)
        _logger.info("Model %s: %s unloaded.", self.model_name, format_versions(idle))

    def _end_failed_except(self, aspired: dict[int, Path]) -> None:
        """End failed versions that are no longer selected, and reset their attempts."""
        with self._lock:
            for version in self._failed.discard_except(aspired):
                self._set(version, State.END, self._statuses[version].error)

    def _set(self, version: int, state: State, error: str | None = None) -> None:
        self._statuses[version] = VersionStatus(version, state, error)

    def _report(self, problem: str | None) -> None:
        """Log a problem of the directory once.

        Before `watch` is called, the caller reports problems itself.
        """
        if self._watcher and problem not in (None, self._last_problem):
            _logger.warning("Model %s: %s", self.model_name, problem)
        self._last_problem = problem

    def _seconds_to_sleep(self) -> float | None:
        """Return the seconds until the next poll or attempt; None without any."""
        with self._lock:
            next_attempt = self._failed.seconds_to_next_attempt()
        seconds = min(self._poll_seconds or math.inf, next_attempt)
        return None if seconds == math.inf else seconds

    def _watch(self) -> None:
        while True:
            woken = self._wake.wait(self._seconds_to_sleep())
            self._wake.clear()
            try:
                if woken:
                    # A use has ended or the model is closed; nothing on disk has to be
                    # read for that.
                    self._unload_idle()
                elif self._poll_seconds:
                    self.poll()
                else:
                    with self._poll_lock:
                        self._load_missing()
            except Exception:
                _logger.exception("Polling for versions failed and will be retried.")
            with self._lock:
                # After `close`, stay until the last use has ended.
                if self._closed and not self._retired:
                    return
