"""Fixtures that several test modules of the server share."""

import gc
import threading

import pytest
from serving_models import Model, write

from bn_keras_serving.servable.signature import Signature


class Gate:
    """A gate that every model waits at before it runs."""

    def __init__(self):
        self._arrived = threading.Semaphore(0)
        self._opened = threading.Event()

    def open(self):
        self._opened.set()

    def pass_through(self):
        self._arrived.release()
        assert self._opened.wait(60)

    def has_arrival(self, seconds=20):
        """Return whether one more run arrives within that time."""
        return self._arrived.acquire(timeout=seconds)

    def wait_for(self, runs):
        """Wait until that many more runs have arrived."""
        for _ in range(runs):
            assert self.has_arrival()


@pytest.fixture
def gate(monkeypatch):
    """Let no model run before the gate is opened."""
    gate = Gate()
    compute = Signature.compute

    def compute_behind_gate(*arguments):
        gate.pass_through()
        return compute(*arguments)

    monkeypatch.setattr(Signature, "compute", compute_behind_gate)
    yield gate
    gate.open()


@pytest.fixture(scope="session")
def doubling(tmp_path_factory):
    """The directory of a model whose only version, 2, multiplies by two."""
    directory = tmp_path_factory.mktemp("doubling")
    write(Model(2), directory, 2)
    return directory


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_collect():
    """Exclude existing objects from garbage collection, which every unload runs.

    A process that only serves does the same; see `Servable.close`.
    """
    gc.freeze()
    yield
    gc.unfreeze()
