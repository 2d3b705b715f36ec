"""Serve several models by name and label, and change the list while serving.

Knows neither what a loaded version is nor any transport.
"""

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic

from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.common.errors import (
    InvalidRequestError,
    ServingError,
    UnknownLabelError,
    UnmetConditionError,
)
from bn_keras_serving.configuration import check_models
from bn_keras_serving.models.config_watcher import follow
from bn_keras_serving.models.versions import (
    Loaded,
    State,
    Versions,
    VersionStatus,
    not_found,
)

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Served(Generic[Loaded]):
    """What is served at one time; replaced whole."""

    config: ModelServerConfig
    models: dict[str, Versions[Loaded]] = dataclasses.field(default_factory=dict)
    labels: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


class Models(Generic[Loaded]):
    """Models by name, each with its versions on disk.

    Args:
        config: The models to start with.
        load: Makes a servable of a model's name, a version's number and its path.
        poll_seconds: Seconds between two looks at the models' directories; 0 looks at
            the start only.
        config_path: File that `config` came from.
        config_poll_seconds: Seconds between two looks at that file; 0 never looks. What
            the file says replaces what `reload` was told. A file that cannot be used is
            logged once, tried again at each look, and changes nothing.
        allow_labels_for_unavailable: Whether a label not in use may be given to a
            version that is not loaded: the real server's
            `--allow_version_labels_for_unavailable_models`.

    Raises:
        ValueError: A number of seconds is negative.
    """

    def __init__(
        self,
        config: ModelServerConfig,
        load: Callable[[str, int, Path], Loaded],
        poll_seconds: float = 1.0,
        config_path: str | Path | None = None,
        config_poll_seconds: float = 0.0,
        allow_labels_for_unavailable: bool = False,
    ):
        if not (poll_seconds >= 0 and config_poll_seconds >= 0):
            raise ValueError(
                "`poll_seconds` and `config_poll_seconds` must be 0 or more. Received: "
                f"{poll_seconds=}, {config_poll_seconds=}"
            )
        self._load = load
        self._poll_seconds = poll_seconds
        self._config_path = config_path
        self._config_poll_seconds = config_poll_seconds
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._first_config = config
        self._closing = threading.Event()
        self._reloading = threading.Lock()
        self._lock = threading.Lock()  # of all that follows
        self._served: _Served[Loaded] = _Served(ModelServerConfig())
        self._new: list[Versions[Loaded]] = []
        self._removed: dict[str, Versions[Loaded]] = {}

    def __enter__(self) -> "Models[Loaded]":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start(self) -> None:
        """Load the models, then look for newer versions.

        A single model must load at the first attempt. Several are waited for, as the
        real server does: one without a version until it has one, one that fails to load
        until its attempts are used up.

        Raises:
            ValueError: The configuration cannot be served, or a model does not load.
        """
        models = len(self._first_config.model_config_list.config)
        if not models:
            _logger.warning("The configuration is without models; none is served.")
        try:
            with self._reloading:
                self._replace(self._first_config, models > 1 and self._poll_seconds > 0)
        except ServingError as error:
            raise ValueError(str(error)) from error
        if self._config_path is not None and self._config_poll_seconds:
            threading.Thread(
                target=follow,
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
        """Load nothing more and unload all; uses under way finish.

        Args:
            timeout: Seconds to wait for loads under way, which are not served even if
                they end; None waits for their end.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._closing.set()
            versions = [*self._served.models.values(), *self._new]
        for one in versions:
            one.close(0)
        for one in versions:
            one.close(None if end is None else end - time.monotonic())

    @contextlib.contextmanager
    def use(self, model_spec: ModelSpec) -> Iterator[Loaded]:
        """Lend the version that a request names, which stays loaded until given back.

        Args:
            model_spec: Its name; a version's number or label, or neither for the latest
                loaded.

        Raises:
            InvalidRequestError: The name is empty.
            ServableNotFoundError: No such model or version is loaded.
            UnknownLabelError: No version of the model carries the label.
        """
        name = model_spec.name
        if not name:
            raise InvalidRequestError("ModelSpec has no name specified.")
        choice = model_spec.WhichOneof("version_choice")
        with contextlib.ExitStack() as stack:
            # What is lent under the lock cannot be replaced and closed before.
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
                    raise not_found(name, version)
                servable = stack.enter_context(versions.use(version))
            yield servable

    def names(self) -> list[str]:
        """Return the names of the models, in the order of their configuration."""
        return list(self._served.models)

    def statuses(self, model_name: str) -> list[VersionStatus]:
        """Return the state of each version, the newest first; of removed models too."""
        with self._lock:
            versions = self._served.models.get(model_name)
            versions = versions or self._removed.get(model_name)
        return versions.statuses() if versions else []

    def reload(self, config: ModelServerConfig) -> None:
        """Replace the whole list of models.

        New models, and those whose `base_path` is another, are loaded first; then all
        changes at once. On an error nothing changes. Returns when new models and
        versions that a changed policy asks for have been loaded or have failed once.

        Raises:
            InvalidRequestError: The list is not one that this server can serve.
            UnmetConditionError: A new model has no version that loads, or a label is
                for a version that is not available.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise InvalidRequestError(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        with self._reloading:
            self._replace(config)

    def _replace(self, config: ModelServerConfig, patient: bool = False) -> None:
        check_models(config)
        old = self._served
        served = _Served(ModelServerConfig())
        served.config.CopyFrom(config)  # the caller may change its own
        new = []
        for model in served.config.model_config_list.config:
            versions = old.models.get(model.name)
            if versions is None or versions.directory != Path(model.base_path):
                versions = Versions(
                    model.name,
                    model.base_path,
                    model.model_version_policy,
                    functools.partial(self._load, model.name),
                    self._poll_seconds,
                )
                new.append(versions)
            served.models[model.name] = versions
        try:
            with self._lock:
                self._new = new
            self._load_first(new, patient)
            self._assign_labels(served)
            with self._lock:
                self._served, self._new = served, []
                for name, versions in old.models.items():
                    if name not in served.models:
                        self._removed[name] = versions
        except BaseException:
            for versions in new:
                versions.close(0)
            raise
        for versions in new:
            versions.watch()
        for name, versions in old.models.items():
            if served.models.get(name) is not versions:
                versions.close(0)
        for model in served.config.model_config_list.config:
            served.models[model.name].set_policy(model.model_version_policy)
            if model.HasField("logging_config"):
                _logger.warning("Model %s: requests are not logged.", model.name)
        _logger.info("Models served: %s.", ", ".join(served.models) or "none")

    def _load_first(self, new: list[Versions[Loaded]], patient: bool) -> None:
        """Load new models; the patient wait for those that may still come."""
        told = None
        while True:
            for versions in new:
                if self._closing.is_set():
                    raise UnmetConditionError("The server is shutting down.")
                versions.poll()
            missing = [versions for versions in new if not versions.available()]
            if not missing:
                return
            problems = " ".join(one.why_unavailable() for one in missing)
            states = [{one.state for one in each.statuses()} for each in missing]
            if not patient or {State.END} in states:
                raise UnmetConditionError(problems)
            if problems != told:
                _logger.warning("Waiting for %d model(s): %s", len(missing), problems)
            told = problems
            self._closing.wait(self._poll_seconds)

    def _assign_labels(self, served: _Served[Loaded]) -> None:
        for model in served.config.model_config_list.config:
            available = served.models[model.name].available()
            old = self._served.labels.get(model.name, {})
            for label, version in model.version_labels.items():
                unused = old.get(label, version) == version
                lenient = self._allow_labels_for_unavailable and unused
                if version not in available and not lenient:
                    raise UnmetConditionError(
                        f"Request to assign label to version {version} of model "
                        f"{model.name}, which is not currently available for inference"
                    )
                served.labels.setdefault(model.name, {})[label] = version
