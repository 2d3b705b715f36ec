"""Versions on disk that are empty directories, and a loader that loads nothing."""

import contextlib
import gc
import threading
import time
import weakref

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.models import Models
from bn_keras_serving.models.directories import Policy
from bn_keras_serving.models.versions import Versions

LATEST = Policy()

ALL_VERSIONS = "model_version_policy { all {} }"


class Fake:
    """Stands for a loaded version; full of reference cycles, as a real one is."""

    def __init__(self, version, path):
        self.version = version
        self.path = path
        self.itself = self

    def close(self):
        self.itself = None


class Loader:
    """Loads, fails and waits as told.

    Attributes:
        loaded: Paths in the order that their loads began.
        made: What it made, without keeping it alive.
        broken: Versions that fail.
        gates: Version to the event that its load waits for.
    """

    def __init__(self):
        self.loaded = []
        self.made = weakref.WeakSet()
        self.broken = set()
        self.gates = {}
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def __call__(self, *name_version_path):
        *_, version, path = name_version_path
        with self._lock:
            self.loaded.append(path)
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if version in self.gates:
                assert self.gates[version].wait(20)
            if version in self.broken:
                raise OSError("half a\n file")
            fake = Fake(version, path)
            self.made.add(fake)
            return fake
        finally:
            with self._lock:
                self.at_once -= 1


def add(directory, *versions):
    for version in versions:
        (directory / str(version)).mkdir(parents=True)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def few_objects_to_collect():
    """Spare each unload a tour of all that TensorFlow has made."""
    gc.freeze()
    yield
    gc.unfreeze()


def states_of(statuses):
    return {one.version: one.state.value for one in statuses}


def polled(directory, loader):
    """Yield a function that makes versions of model `m`; close them at the end."""
    with contextlib.ExitStack() as stack:

        def make(policy=LATEST, poll_seconds=60, load=loader):
            versions = Versions("m", directory, policy, load, poll_seconds)
            stack.callback(versions.close)
            versions.poll()
            return versions

        yield make


def two_models(directory):
    """Put down models `a` of versions 1, 2 and `b` of version 5."""
    add(directory / "a", 1, 2)
    add(directory / "b", 5)
    return directory


def starting(loader):
    """Yield a function that starts models; close them at the end."""
    with contextlib.ExitStack() as stack:

        def start(config, **options):
            models = Models(config, loader, **{"poll_seconds": 60, **options})
            stack.callback(models.close)
            models.start()
            return models

        yield start


def config_of(disk, **models):
    """Configure each model with further fields in text form."""
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
    made = ModelSpec(name=name)
    if version is not None:
        made.version.value = version
    if label is not None:
        made.version_label = label
    return made


def served(models, *arguments, **named):
    with models.use(spec(*arguments, **named)) as servable:
        return servable.path.parent.name, servable.version


def states(models, name):
    return states_of(models.statuses(name))
