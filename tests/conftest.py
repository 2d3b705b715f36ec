"""Fixtures that several folders of tests share."""

import os
import signal
from pathlib import Path

import pytest
from browser import browser, missing
from optional import skip_or_fail


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep what is known of picture files out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"


@pytest.fixture(scope="session")
def mnist_directory():
    """The folder with the four original MNIST files."""
    if not MNIST.is_dir():
        pytest.skip(f"{MNIST} with the MNIST files does not exist")
    return MNIST


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """A headless Chromium."""
    if missing():
        skip_or_fail(f"{' and '.join(missing())} are not installed")
    with browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def interruptible():
    """Let child processes receive interrupts.

    A shell starts background jobs with interrupts ignored, which children inherit.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
