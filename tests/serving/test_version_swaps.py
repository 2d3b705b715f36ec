"""Uses of a version while others are loaded, unloaded and closed."""

import gc
import threading
import weakref

import pytest
from version_fakes import (
    Loader,
    add_versions,
    few_objects_to_collect,
    states_of,
    versions_factory,
    wait_for,
)

from bn_keras_serving.models.versions import State, VersionStatus

pytestmark = pytest.mark.usefixtures(few_objects_to_collect.__name__)


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


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def test_a_use_keeps_its_version_alive_and_its_end_frees_it(directory, versions_of):
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


def test_a_version_asked_for_again_waits_for_the_end_of_its_uses(
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
    versions.poll()  # frees it
    versions.poll()
    assert states(versions) == {1: "AVAILABLE"}


def test_a_load_does_not_hold_up_uses_of_other_versions(directory, versions_of, loader):
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


def test_what_is_loaded_while_closing_is_not_served(directory, versions_of, loader):
    versions = versions_of()
    loader.gates[2] = threading.Event()
    add_versions(directory, 2)
    polling = in_thread(versions.poll)
    wait_for(lambda: len(loader.loaded) == 2)
    versions.close(timeout=0.01)
    assert states(versions) == {1: "END", 2: "END"}
    closing = in_thread(versions.close)
    closing.join(0.05)
    assert closing.is_alive(), "close without a timeout waits for the load"
    loader.gates[2].set()
    closing.join()
    polling.join()
    assert versions.available() == set()
    assert states(versions) == {1: "END", 2: "END"}


def test_a_failure_while_closing_ends_the_version(directory, versions_of, loader):
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


def test_a_use_outlives_the_close_and_then_the_watch_ends(versions_of):
    versions = versions_of()
    versions.watch()
    with versions.use() as servable:
        versions.close()
        assert states(versions) == {1: "UNLOADING"}
        assert servable.version == 1
    wait_for(lambda: states(versions) == {1: "END"})
    wait_for(lambda: "versions of m" not in [one.name for one in threading.enumerate()])


def test_a_watch_survives_what_it_cannot_foresee(
    directory, versions_of, monkeypatch, caplog
):
    def fail(policy, found):
        raise RuntimeError("unforeseen")

    versions = versions_of(poll_seconds=0.01)
    with monkeypatch.context() as patched:
        patched.setattr("bn_keras_serving.models.versions.aspired_versions", fail)
        versions.watch()
        wait_for(lambda: "unforeseen" in caplog.text)
    add_versions(directory, 2)
    wait_for(lambda: states(versions) == {1: "END", 2: "AVAILABLE"})


def test_no_use_fails_in_two_hundred_swaps(directory, versions_of):
    versions = versions_of(poll_seconds=0)
    versions.watch()
    failures, seen = [], set()
    stop = threading.Event()

    def ask():
        last = 0
        try:
            while not stop.is_set():
                with versions.use() as servable:
                    assert servable.version >= last, "an older version came back"
                    last = servable.version
                    state = states(versions)[last]
                    assert state in ("AVAILABLE", "UNLOADING"), state
                    seen.add(last)
        except BaseException as error:
            failures.append(error)

    askers = [in_thread(ask) for _ in range(8)]
    for version in range(2, 202):
        (directory / str(version - 1)).rename(directory / str(version))
        versions.poll()
    stop.set()
    for one in askers:
        one.join()
    assert failures == []
    assert len(seen) > 1
    expected = dict.fromkeys(range(1, 201), "END") | {201: "AVAILABLE"}
    wait_for(lambda: states(versions) == expected)
