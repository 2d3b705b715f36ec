"""Empty version directories, and a loader that does not read them."""

import contextlib
import threading
import time
import weakref

from google.protobuf import text_format
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.models.directories import Policy
from bn_keras_serving.models.versions import Versions

LATEST = Policy()

ALL_VERSIONS = "model_version_policy { all {} }"


class Fake:
    """A stand-in for a loaded version, with a reference cycle like a real one."""

    def __init__(self, version, path):
        self.version = version
        self.path = path
        self.itself = self

    def close(self):
        self.itself = None


class Loader:
    """A loader that can fail and wait.

    Attributes:
        loaded: Paths, in the order in which their loads began.
        fakes: Weak references to what it returned.
        broken: Versions that fail to load.
        gates: Version to the event that its load waits for.
        highest_concurrency: Maximum number of loads in progress at a time.
    """

    def __init__(self):
        self.loaded = []
        self.fakes = weakref.WeakSet()
        self.broken = set()
        self.gates = {}
        self.highest_concurrency = 0
        self._in_progress = 0
        self._lock = threading.Lock()

    def __call__(self, *name_version_path):
        *_, version, path = name_version_path
        with self._lock:
            self.loaded.append(path)
            self._in_progress += 1
            self.highest_concurrency = max(self._in_progress, self.highest_concurrency)
        try:
            if version in self.gates:
                assert self.gates[version].wait(20)
            if version in self.broken:
                raise OSError("half a\n file")
            fake = Fake(version, path)
            self.fakes.add(fake)
            return fake
        finally:
            with self._lock:
                self._in_progress -= 1


def add_versions(directory, *versions):
    for version in versions:
        (directory / str(version)).mkdir(parents=True)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.005)


def states_of(statuses):
    return {status.version: status.state.value for status in statuses}


def versions_factory(directory, loader):
    """Yield a function that creates and polls versions of model `m`; close them."""
    with contextlib.ExitStack() as stack:

        def make(policy=LATEST, poll_seconds=60, load=loader, **retries):
            # By default the next poll tries a failed version again.
            retries = {"retry_seconds": 0.0, **retries}
            versions = Versions("m", directory, policy, load, poll_seconds, **retries)
            stack.callback(versions.close)
            versions.poll()
            return versions

        yield make


def two_models(directory):
    """Create models `a`, with versions 1 and 2, and `b`, with version 5."""
    add_versions(directory / "a", 1, 2)
    add_versions(directory / "b", 5)
    return directory


def registry_factory(loader):
    """Yield a function that creates and starts registries; close them at the end."""
    with contextlib.ExitStack() as stack:

        def start(config, **options):
            models = ModelRegistry(config, loader, **{"poll_seconds": 60, **options})
            stack.callback(models.close)
            models.start()
            return models

        yield start


def config_of(disk, **models):
    """Return a configuration of models; each value is further fields as text."""
    config = ModelServerConfig()
    config.model_config_list.SetInParent()
    for name, fields in models.items():
        model = config.model_config_list.config.add(
            name=name, base_path=str(disk / name), model_platform="tensorflow"
        )
        text_format.Merge(fields, model)
    return config


def labels(**versions):
    return " ".join(
        f'version_labels {{ key: "{label}" value: {version} }}'
        for label, version in versions.items()
    )


def spec(name, version=None, label=None):
    model_spec = ModelSpec(name=name)
    if version is not None:
        model_spec.version.value = version
    if label is not None:
        model_spec.version_label = label
    return model_spec


def served_version(models, *arguments, **keywords):
    """Return the directory and the version that a model spec leads to."""
    with models.use(spec(*arguments, **keywords)) as servable:
        return servable.path.parent.name, servable.version


def states(models, name):
    return states_of(models.statuses(name))
