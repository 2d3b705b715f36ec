"""Use of a version while versions are loaded, unloaded and closed."""

import gc
import threading
import weakref

import pytest
from version_fakes import (
    Loader,
    add_versions,
    states_of,
    versions_factory,
    wait_for,
)

from bn_keras_serving.models.versions import State, VersionStatus

pytestmark = pytest.mark.fast


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def directory(tmp_path):
    add_versions(tmp_path / "m", 1)
    return tmp_path / "m"


@pytest.fixture
def versions_of(directory, loader):
    yield from versions_factory(directory, loader)


def states(versions):
    return states_of(versions.statuses())


def new_watchers(others):
    """Return the threads that watch versions, without those of other tests."""
    return [
        thread
        for thread in set(threading.enumerate()) - others
        if thread.name.startswith("versions of ")
    ]


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def test_a_version_stays_loaded_until_its_last_use_ends(directory, versions_of):
    versions = versions_of(poll_seconds=0)
    versions.watch()
    with versions.use() as servable:
        memory = weakref.ref(servable)
        add_versions(directory, 2)
        versions.poll()
        assert states(versions) == {1: "UNLOADING", 2: "AVAILABLE"}
        del servable
        gc.collect()
        assert memory().version == 1
    wait_for(lambda: states(versions)[1] == "END")
    assert memory() is None


def test_a_version_that_returns_is_loaded_after_its_old_uses_have_ended(
    directory, versions_of, loader
):
    versions = versions_of()
    with versions.use():
        (directory / "1").rmdir()
        versions.poll()
        add_versions(directory, 1)
        versions.poll()
        assert states(versions) == {1: "UNLOADING"}
        assert len(loader.loaded) == 1
    versions.poll()  # unloads it
    versions.poll()
    assert states(versions) == {1: "AVAILABLE"}


def test_other_versions_can_be_used_during_a_load(directory, versions_of, loader):
    versions = versions_of()
    loader.gates[2] = threading.Event()
    add_versions(directory, 2)
    polling = in_thread(versions.poll)
    wait_for(lambda: len(loader.loaded) == 2)
    with versions.use() as servable:
        assert servable.version == 1
    assert states(versions) == {1: "AVAILABLE", 2: "LOADING"}
    loader.gates[2].set()
    polling.join()
    assert states(versions) == {1: "END", 2: "AVAILABLE"}


def test_a_version_that_finishes_loading_after_close_is_not_served(
    directory, versions_of, loader
):
    versions = versions_of()
    loader.gates[2] = threading.Event()
    add_versions(directory, 2)
    polling = in_thread(versions.poll)
    wait_for(lambda: len(loader.loaded) == 2)
    versions.close(timeout=0.01)
    assert states(versions) == {1: "END", 2: "END"}
    closing = in_thread(versions.close)
    closing.join(0.05)
    assert closing.is_alive(), "close without a time-out waits for the load"
    loader.gates[2].set()
    closing.join()
    polling.join()
    assert versions.available() == set()
    assert states(versions) == {1: "END", 2: "END"}


def test_a_version_that_fails_to_load_after_close_ends(directory, versions_of, loader):
    versions = versions_of()
    loader.gates[2] = threading.Event()
    loader.broken.add(2)
    add_versions(directory, 2)
    polling = in_thread(versions.poll)
    wait_for(lambda: len(loader.loaded) == 2)
    versions.close(timeout=0)
    loader.gates[2].set()
    polling.join()
    assert versions.statuses()[0] == VersionStatus(2, State.END, "OSError: half a file")
    versions.poll()
    assert len(loader.loaded) == 2


def test_a_use_may_outlast_close_and_then_the_watcher_ends(versions_of):
    others = set(threading.enumerate())
    versions = versions_of()
    versions.watch()
    with versions.use() as servable:
        versions.close()
        assert states(versions) == {1: "UNLOADING"}
        assert servable.version == 1
    wait_for(lambda: states(versions) == {1: "END"})
    wait_for(lambda: not new_watchers(others))


def test_the_watcher_survives_unexpected_errors(
    directory, versions_of, monkeypatch, caplog
):
    def fail(policy, on_disk):
        raise RuntimeError("unexpected")

    versions = versions_of(poll_seconds=0.01)
    with monkeypatch.context() as patched:
        patched.setattr("bn_keras_serving.models.versions.aspired_versions", fail)
        versions.watch()
        wait_for(lambda: "unexpected" in caplog.text)
    add_versions(directory, 2)
    wait_for(lambda: states(versions) == {1: "END", 2: "AVAILABLE"})
