"""The served models by name and label; the list can change while serving."""

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Generic

from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.common.errors import (
    InvalidRequestError,
    ModelNotLoadedError,
    ServingError,
    UnknownLabelError,
    UnmetConditionError,
)
from bn_keras_serving.configuration import check_models
from bn_keras_serving.configuration.settings import Loading
from bn_keras_serving.models.config_watcher import watch_config
from bn_keras_serving.models.states import State, VersionStatus
from bn_keras_serving.models.versions import Loaded, Versions, version_not_found

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Snapshot(Generic[Loaded]):
    """All that is served at one time. A reload replaces it as a whole."""

    config: ModelServerConfig
    models: dict[str, Versions[Loaded]] = dataclasses.field(default_factory=dict)
    labels: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


class ModelRegistry(Generic[Loaded]):
    """The served models by name, each with its versions on disk.

    Args:
        config: The initial list of models.
        load: Function that loads a version, from the model's name, the version's number
            and its path.
        poll_seconds: Seconds between two polls of the models' directories; 0 polls only
            at the start.
        config_path: File that `config` was read from.
        config_poll_seconds: Seconds between two polls of that file; 0 never polls. The
            contents of the file override what `reload` has been called with. A file
            that cannot be used changes nothing; it is logged once and tried again at
            every poll.
        allow_labels_for_unavailable: Whether a label that is not in use may be assigned
            to a version that is not loaded, as with TensorFlow Serving's
            `--allow_version_labels_for_unavailable_models`.
        loading: How often a failed load is tried again, and how many versions are
            loaded at a time.

    Raises:
        ValueError: If a number of seconds is negative.
    """

    def __init__(
        self,
        config: ModelServerConfig,
        load: Callable[[str, int, Path], Loaded],
        poll_seconds: float = 1.0,
        config_path: str | Path | None = None,
        config_poll_seconds: float = 0.0,
        allow_labels_for_unavailable: bool = False,
        loading: Loading | None = None,
    ):
        if not (poll_seconds >= 0 and config_poll_seconds >= 0):
            raise ValueError(
                "`poll_seconds` and `config_poll_seconds` must be 0 or more. Received: "
                f"{poll_seconds=}, {config_poll_seconds=}"
            )
        self._load = load
        self._settings = loading or Loading()
        self._load_slots = (
            threading.Semaphore(self._settings.threads)
            if self._settings.threads
            else contextlib.nullcontext()
        )
        self._poll_seconds = poll_seconds
        self._config_path = config_path
        self._config_poll_seconds = config_poll_seconds
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._initial_config = config
        self._closing = threading.Event()
        # Reloads run one after the other. Loading takes long, so `_lock` is not held
        # meanwhile, only for the swap at the end.
        self._reload_lock = threading.Lock()
        self._lock = threading.Lock()  # guards everything below
        self._served: _Snapshot[Loaded] = _Snapshot(ModelServerConfig())
        # Models that a reload is loading; `close` has to close them too.
        self._loading: list[Versions[Loaded]] = []
        # Removed models still report the state of their versions.
        self._removed: dict[str, Versions[Loaded]] = {}

    def __enter__(self) -> "ModelRegistry[Loaded]":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Load the models, then poll for newer versions in the background.

        A single model must load at the first attempt. With several models, as in
        TensorFlow Serving, the call waits for each model until it has a version, or
        until the attempts to load one are used up.

        Raises:
            ValueError: If the configuration cannot be served or a model does not load.
        """
        models = len(self._initial_config.model_config_list.config)
        if not models:
            _logger.warning("The configuration lists no models, so none is served.")
        try:
            with self._reload_lock:
                wait = models > 1 and self._poll_seconds > 0
                self._replace(self._initial_config, wait)
        except ServingError as error:
            raise ValueError(str(error)) from error
        if self._config_path is not None and self._config_poll_seconds:
            threading.Thread(
                target=watch_config,
                args=(
                    self._config_path,
                    self._config_poll_seconds,
                    lambda: self._served.config,
                    self.reload,
                    self._closing,
                ),
                name="configuration of the models",
                daemon=True,
            ).start()

    def close(self, timeout: float | None = None) -> None:
        """Stop loading and unload all models; uses in progress finish first.

        Args:
            timeout: Seconds to wait for loads in progress, whose results are discarded;
                None waits until they end.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._closing.set()
            all_versions = [*self._served.models.values(), *self._loading]
        # First tell every model to stop, without waiting; then wait for all of them.
        for versions in all_versions:
            versions.close(0)
        for versions in all_versions:
            versions.close(None if end is None else end - time.monotonic())

    @contextlib.contextmanager
    def use(self, model_spec: ModelSpec) -> Iterator[Loaded]:
        """Lend the version that a request names; it stays loaded until returned.

        Args:
            model_spec: Name of the model, with a version's number or label, or neither
                for the latest loaded version.

        Yields:
            The loaded version.

        Raises:
            InvalidRequestError: If the name is empty.
            ServableNotFoundError: If no such model or version is loaded.
            UnknownLabelError: If no version of the model has the label.
        """
        name = model_spec.name
        if not name:
            raise InvalidRequestError("ModelSpec has no name specified.")
        choice = model_spec.WhichOneof("version_choice")
        with contextlib.ExitStack() as stack:
            # Lookup and lending are one step: a reload cannot replace and close the
            # model in between.
            with self._lock:
                version = None
                if choice == "version_label":
                    label = model_spec.version_label
                    version = self._served.labels.get(name, {}).get(label)
                    if version is None:
                        raise UnknownLabelError(
                            f"Unrecognized servable version label: {label}"
                        )
                elif choice == "version":
                    version = model_spec.version.value
                versions = self._served.models.get(name)
                if versions is None:
                    raise version_not_found(name, version)
                servable = stack.enter_context(versions.use(version))
            yield servable

    def names(self) -> list[str]:
        """Return the names of the models, in the order of the configuration."""
        return list(self._served.models)

    def base_paths(self) -> list[str]:
        """Return the directories of all models, of removed ones as well."""
        with self._lock:
            models = [*self._served.models.values(), *self._removed.values()]
        return [str(versions.directory) for versions in models]

    def statuses(self, model_name: str) -> list[VersionStatus]:
        """Return the state of each version, newest first; of removed models as well."""
        with self._lock:
            versions = self._served.models.get(model_name)
            versions = versions or self._removed.get(model_name)
        return versions.statuses() if versions else []

    def reload(self, config: ModelServerConfig) -> None:
        """Replace the whole list of models.

        New models, and those with a changed `base_path`, are loaded first; then
        everything changes at once. If an error is raised, nothing changes. The call
        returns when new models, and versions that a changed policy selects, have been
        loaded or have failed to load once.

        Raises:
            InvalidRequestError: If this server cannot serve the list.
            ModelNotLoadedError: If a new model has no version that loads.
            UnmetConditionError: If there is no list, as in an empty file, or a label is
                for a version that is not available.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise UnmetConditionError(
                "Cannot transition to requested config. It is only legal to transition "
                "from one ModelConfigList to another. Write `model_config_list {}` to "
                "serve no models."
            )
        with self._reload_lock:
            self._replace(config)

    def _replace(self, config: ModelServerConfig, wait: bool = False) -> None:
        check_models(config)
        old = self._served
        new = _Snapshot(ModelServerConfig())
        new.config.CopyFrom(config)  # the caller may change its message later
        added = []
        for model in new.config.model_config_list.config:
            versions = old.models.get(model.name)
            if versions is None or versions.directory != Path(model.base_path):
                versions = Versions(
                    model.name,
                    model.base_path,
                    model.model_version_policy,
                    functools.partial(self._load_version, model.name),
                    self._poll_seconds,
                    self._settings.retries,
                    self._settings.retry_seconds,
                )
                added.append(versions)
            new.models[model.name] = versions
        try:
            with self._lock:
                self._loading = added
            self._load_added(added, wait)
            self._assign_labels(new)
            with self._lock:
                self._served, self._loading = new, []
                for name, versions in old.models.items():
                    if name not in new.models:
                        self._removed[name] = versions
        except BaseException:
            for versions in added:
                versions.close(0)
            raise
        # From here on nothing can fail: requests already reach the new models.
        for versions in added:
            versions.watch()
        for name, versions in old.models.items():
            if new.models.get(name) is not versions:
                versions.close(0)
        for model in new.config.model_config_list.config:
            new.models[model.name].set_policy(model.model_version_policy)
            if model.HasField("logging_config"):
                _logger.warning(
                    "Model %s: `logging_config` is ignored. --request_log logs "
                    "requests.",
                    model.name,
                )
        _logger.info("Models served: %s.", ", ".join(new.models) or "none")

    def _poll_all(self, added: list[Versions[Loaded]]) -> None:
        if self._settings.threads > 1:
            with futures.ThreadPoolExecutor(self._settings.threads) as pool:
                list(pool.map(Versions.poll, added))
        else:
            for versions in added:
                versions.poll()
        if self._closing.is_set():
            raise UnmetConditionError("The server is shutting down.")

    def _load_version(self, model_name: str, version: int, path: Path) -> Loaded:
        with self._load_slots:
            return self._load(model_name, version, path)

    def _load_added(self, added: list[Versions[Loaded]], wait: bool) -> None:
        """Load new models; with `wait`, poll until each has a version."""
        last_problems = None
        while True:
            self._poll_all(added)
            missing = [versions for versions in added if not versions.available()]
            if not missing:
                return
            problems = " ".join(versions.why_unavailable() for versions in missing)
            # A model whose versions have all ended will not get one by waiting.
            states = [
                {status.state for status in versions.statuses()} for versions in missing
            ]
            if not wait or {State.END} in states:
                raise ModelNotLoadedError([one.model_name for one in missing], problems)
            if problems != last_problems:
                _logger.warning("Waiting for %d model(s): %s", len(missing), problems)
            last_problems = problems
            self._closing.wait(self._poll_seconds)

    def _assign_labels(self, new: _Snapshot[Loaded]) -> None:
        for model in new.config.model_config_list.config:
            available = new.models[model.name].available()
            old = self._served.labels.get(model.name, {})
            for label, version in model.version_labels.items():
                # A label in use must not move to a version that cannot answer.
                unused = old.get(label, version) == version
                permitted = self._allow_labels_for_unavailable and unused
                if version not in available and not permitted:
                    raise UnmetConditionError(
                        f"Request to assign label to version {version} of model "
                        f"{model.name}, which is not currently available for inference"
                    )
                new.labels.setdefault(model.name, {})[label] = version
