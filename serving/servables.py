"""Find versions of a model on disk; load, warm, serve and swap them.

Knows no transport and no status code: NumPy in, NumPy out.
"""

import contextlib
import dataclasses
import enum
import gc
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

# The one reader of all forms of saved_model.pb; the public loader keeps the
# tensor names of a signature to itself.
from tensorflow.python.saved_model.loader_impl import parse_saved_model
from tensorflow_serving.apis import prediction_log_pb2

from serving.signatures import (
    InvalidRequestError,
    ServingError,
    Signature,
    SignatureNotFoundError,
)

DEFAULT_SIGNATURE = "serving_default"
MAXIMUM_WARM_UP_RECORDS = 1000
LOAD_ATTEMPTS = 5

_logger = logging.getLogger(__name__)


class ServableNotFoundError(ServingError):
    """No such model, or no such version of it, is being served."""


class UnknownLabelError(ServingError):
    """No version carries that label."""


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


class Servable:
    """One loaded version of a model.

    Args:
        version: Its number.
        path: Its directory, with `saved_model.pb` in it.

    Attributes:
        version: Its number.
        signatures: Signature name to `Signature`.
        signature_definitions: Signature name to `SignatureDef`, as exported;
            TensorFlow's internal ones are among them.

    Raises:
        ValueError: The SavedModel has no serving signature. What TensorFlow
            raises for a SavedModel it cannot read is passed on.
    """

    def __init__(self, version: int, path: Path):
        self.version = version
        self.uses = 0
        # Variables live as long as the root object only.
        self._root = tf.saved_model.load(str(path), tags=["serve"])
        self.signature_definitions = next(
            dict(graph.signature_def)
            for graph in parse_saved_model(str(path)).meta_graphs
            if "serve" in graph.meta_info_def.tags
        )
        self.signatures = {
            name: Signature(function, self.signature_definitions[name])
            for name, function in self._root.signatures.items()
        }
        if not self.signatures:
            raise ValueError(
                "Expected a SavedModel with serving signatures. Received: none; "
                "save it with signatures={'serving_default': ...}."
            )

    def signature(self, name: str = "") -> Signature:
        """Return a signature; without a name, `serving_default`.

        Raises:
            SignatureNotFoundError: The model has none of that name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise SignatureNotFoundError(f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    def warm_up(self, path: Path) -> None:
        """Run the requests exported with the version, if any.

        Raises:
            InvalidRequestError: More than 1,000 records, or one of another kind than
                Predict. Whatever a record's run raises is passed on.
        """
        records = path / "assets.extra" / "tf_serving_warmup_requests"
        if not records.exists():
            return
        for number, record in enumerate(tf.data.TFRecordDataset(str(records)), 1):
            if number > MAXIMUM_WARM_UP_RECORDS:
                raise InvalidRequestError(
                    f"Expected at most {MAXIMUM_WARM_UP_RECORDS} warm-up records. "
                    "Received: more; export fewer."
                )
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            kind = log.WhichOneof("log_type")
            if kind != "predict_log":
                raise InvalidRequestError(
                    "Expected warm-up records with a predict_log. "
                    f"Received: {kind} in record {number}; export without it."
                )
            request = log.predict_log.request
            signature = self.signature(request.model_spec.signature_name)
            signature.run(signature.parse(request.inputs), request.output_filter)


class Servables:
    """The latest version of a model on disk, loaded, warmed and served.

    A newer version is loaded first and the old one unloaded after, when the last
    request that uses it is done. A version that fails to load, half-copied perhaps, is
    tried again at the next looks, `LOAD_ATTEMPTS` times in all; then it ends with its
    error, and what is written there later is not seen: export under a new number.
    Taking the latest version from the disk brings the one before it back.

    Args:
        directory: Directory of numbered versions, `DIRECTORY/1/saved_model.pb`;
            `00000123` is 123, other names are ignored.
        model_name: Name to serve under; the directory's last part by default.
        poll_seconds: Seconds between two looks at the directory.

    Example:
        ```python
        import tempfile

        import numpy as np
        import tensorflow as tf

        from serving.servables import Servables

        model = tf.Module()
        model.double = tf.function(
            lambda x: {"y": 2 * x},
            input_signature=[tf.TensorSpec([None], tf.float32, "x")],
            autograph=False,
        )
        with tempfile.TemporaryDirectory() as directory:
            tf.saved_model.save(model, f"{directory}/1", signatures=model.double)
            with Servables(directory, "double") as servables:
                with servables.use("double") as servable:
                    inputs = {"x": np.ones(3, np.float32)}
                    answer = servable.signature().run(inputs)
        assert answer["y"].tolist() == [2, 2, 2]
        ```
    """

    def __init__(
        self,
        directory: str | Path,
        model_name: str | None = None,
        poll_seconds: float = 1.0,
    ):
        self.directory = Path(directory).absolute()
        self.model_name = model_name or self.directory.resolve().name
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._statuses: dict[int, VersionStatus] = {}
        self._attempts: dict[int, int] = {}
        self._current: Servable | None = None
        self._retired: list[Servable] = []
        self._stopping = threading.Event()
        self._watcher = threading.Thread(
            target=self._watch, name=f"versions of {self.model_name}", daemon=True
        )

    def __enter__(self) -> "Servables":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start(self) -> None:
        """Load the latest version, at the first attempt, and look for newer ones.

        Raises:
            ValueError: No version in the directory, or the latest does not load.
        """
        if not self._versions_on_disk():
            mend = "export a model there first"
            if (self.directory / "saved_model.pb").exists():
                mend = "give the directory above this version"
            if self.directory.is_dir():
                found = "without any"
            elif self.directory.exists():
                found, mend = "which is a file", "give the directory of the versions"
            else:
                found = "which is not there"
            raise ValueError(
                "Expected a directory of numbered versions, such as "
                f"{self.directory / '1' / 'saved_model.pb'}. Received: "
                f"{self.directory} {found}; {mend}."
            )
        self.poll()
        if self._current is None:
            latest = self.versions(self.model_name)[0]
            raise ValueError(
                f"Expected version {latest.version} in {self.directory} to load. "
                f"Received: {latest.error}; export it anew under a new number."
            )
        self._watcher.start()

    def close(self, timeout: float | None = None) -> None:
        """Stop looking for versions and unload; requests under way finish.

        Args:
            timeout: Seconds to wait for a load under way; None waits for its end. What
                it loads is not served in either case.
        """
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join(timeout)
        self._swap(None)
        self._release()

    @contextlib.contextmanager
    def use(
        self, model_name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """Lend a loaded version, which stays loaded until given back.

        Args:
            model_name: Name of the model.
            version: Number of the version; the latest loaded by default.
            label: Name given to a version, instead of its number.

        Raises:
            ServableNotFoundError: No such model or version is loaded.
            UnknownLabelError: No version carries the label.
        """
        if label is not None:
            raise UnknownLabelError(f"Unrecognized servable version label: {label}")
        with self._lock:
            servable = self._current
            if (
                servable is None
                or model_name != self.model_name
                or version not in (None, servable.version)
            ):
                request = (
                    f"Latest({model_name})"
                    if version is None
                    else f"Specific({model_name}, {version})"
                )
                raise ServableNotFoundError(
                    f"Servable not found for request: {request}"
                )
            servable.uses += 1
        try:
            yield servable
        finally:
            with self._lock:
                servable.uses -= 1

    def versions(self, model_name: str) -> list[VersionStatus]:
        """Return the state of each version seen so far, the newest first."""
        if model_name != self.model_name:
            return []
        with self._lock:
            return [self._statuses[version] for version in sorted(self._statuses)][::-1]

    def poll(self) -> None:
        """Look at the directory once, and swap to its latest version."""
        found = self._versions_on_disk()
        if found:
            latest = max(found)
            self._end_failed_but(latest)
            known = self._statuses.get(latest)
            ended = known is not None and known.error and known.state is State.END
            served = self._current is not None and self._current.version == latest
            if not ended and not served:
                self._load(latest, found[latest])
        self._release()

    def _versions_on_disk(self) -> dict[int, Path]:
        if not self.directory.is_dir():
            return {}
        return {
            int(path.name): path
            for path in sorted(self.directory.iterdir())
            if re.fullmatch("[0-9]+", path.name)
            and int(path.name) < 2**63
            and path.is_dir()
        }

    def _load(self, version: int, path: Path) -> None:
        self._set(version, State.START)
        self._set(version, State.LOADING)
        try:
            servable = Servable(version, path)
            servable.warm_up(path)
        except Exception as error:  # a broken export may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _logger.error("Version %d at %s failed to load: %s", version, path, reason)
            self._attempts[version] = self._attempts.get(version, 0) + 1
            last = self._attempts[version] >= LOAD_ATTEMPTS
            self._set(version, State.END if last else State.LOADING, reason)
            return
        self._swap(servable)
        if self._current is servable:
            _logger.info("Version %d of %s is served.", version, self.model_name)

    def _swap(self, servable: Servable | None) -> None:
        with self._lock:
            if servable is not None and self._stopping.is_set():
                # Loaded too late, after `close`.
                self._statuses[servable.version] = VersionStatus(
                    servable.version, State.END
                )
                return
            old, self._current = self._current, servable
            if servable is not None:
                self._statuses[servable.version] = VersionStatus(
                    servable.version, State.AVAILABLE
                )
            if old is not None:
                self._statuses[old.version] = VersionStatus(
                    old.version, State.UNLOADING
                )
                self._retired.append(old)

    def _release(self) -> None:
        """Let go of replaced versions that no request uses any more."""
        with self._lock:
            idle = [servable for servable in self._retired if not servable.uses]
            self._retired = [servable for servable in self._retired if servable.uses]
            for version in {servable.version for servable in idle}:
                if self._statuses[version].state is State.UNLOADING:
                    self._statuses[version] = VersionStatus(version, State.END)
        if idle:
            idle.clear()
            gc.collect()  # a loaded model is full of reference cycles

    def _end_failed_but(self, latest: int) -> None:
        """End what failed to load and will not be tried again: no longer the latest."""
        with self._lock:
            for version, status in self._statuses.items():
                if status.error and version != latest:
                    self._statuses[version] = dataclasses.replace(
                        status, state=State.END
                    )

    def _set(self, version: int, state: State, error: str | None = None) -> None:
        with self._lock:
            self._statuses[version] = VersionStatus(version, state, error)

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.poll()
            except Exception:
                _logger.exception("Could not look for versions; will look again.")
