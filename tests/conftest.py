"""What several test modules need."""

import signal
import threading
from pathlib import Path

import pytest
from browser import browser, missing
from optional import skip_or_fail

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"


@pytest.fixture(scope="session")
def mnist_directory():
    """Folder of the four original MNIST files."""
    if not MNIST.is_dir():
        pytest.skip("the MNIST files are not beside this checkout")
    return MNIST


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """A headless Chromium."""
    if missing():
        skip_or_fail(f"{' and '.join(missing())} are not installed")
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def interruptible():
    """Let child processes be interrupted, whatever this one was started with.

    A job in the background may have handed down that interrupts are ignored.
    """
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture
def held(monkeypatch):
    """Hold every served model that runs; yields those begun, and what lets them go."""
    from bn_keras_serving.servable.signature import Signature

    begun, opened = threading.Semaphore(0), threading.Event()
    compute = Signature.compute

    def compute_when_opened(*arguments):
        begun.release()
        assert opened.wait(60)
        return compute(*arguments)

    monkeypatch.setattr(Signature, "compute", compute_when_opened)
    yield begun, opened
    opened.set()
