"""Versions of one model on disk: which are served and which are not."""

import errno
import shutil
import time
from pathlib import Path

import pytest
from version_fakes import (
    LATEST,
    Loader,
    add_versions,
    states_of,
    versions_factory,
    wait_for,
)

from bn_keras_serving.common.errors import ServableNotFoundError
from bn_keras_serving.models.directories import Policy
from bn_keras_serving.models.versions import (
    State,
    Versions,
    VersionStatus,
)

pytestmark = pytest.mark.fast


def latest(count):
    return Policy(latest=Policy.Latest(num_versions=count))


def specific(*versions):
    return Policy(specific=Policy.Specific(versions=versions))


ALL = Policy(all=Policy.All())


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


def refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_only_directories_named_by_an_integer_are_versions(directory, versions_of):
    add_versions(
        directory, "00000123", "7.5", "-8", "+9", "1_0", "\u0663", "tmp-11", 2**63
    )
    (directory / "1234").touch()
    assert versions_of(ALL).statuses() == [
        VersionStatus(123, State.AVAILABLE),
        VersionStatus(1, State.AVAILABLE),
    ]


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        (LATEST, {10}),
        (latest(0), {10}),
        (latest(2), {10, 9}),
        (latest(9), {10, 9, 2, 1}),
        (ALL, {10, 9, 2, 1}),
        (specific(1, 9, 77), {9, 1}),
        (specific(), set()),
    ],
)
def test_the_policy_selects_the_versions(
    directory, versions_of, loader, policy, served
):
    add_versions(directory, 2, 9, 10)
    versions = versions_of(policy)
    assert versions.available() == served
    newest_first = [directory / str(version) for version in sorted(served)][::-1]
    assert loader.loaded == newest_first
    for version in served:
        with versions.use(version) as servable:
            assert servable.path == directory / str(version)


def test_the_latest_version_is_the_highest_that_is_loaded(directory, versions_of):
    add_versions(directory, 9, 10)
    versions = versions_of(specific(1, 9))
    with versions.use() as servable:
        assert servable.version == 9
    with pytest.raises(ServableNotFoundError) as raised, versions.use(10):
        pass
    assert str(raised.value) == "Servable not found for request: Specific(m, 10)"
    versions.close()
    with pytest.raises(ServableNotFoundError) as raised, versions.use():
        pass
    assert str(raised.value) == "Servable not found for request: Latest(m)"


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda path: None, "m, which does not exist. Export a model to it first."),
        (lambda path: path.mkdir(), "m, which contains no version. Export a model to"),
        (lambda path: path.touch(), "m, which is a file. Give the directory that"),
        (
            lambda path: add_versions(path, 1, 2),
            "m, which contains versions 1, 2. Select one of",
        ),
    ],
)
def test_the_reason_names_what_the_directory_contains_instead(
    tmp_path, loader, create, message
):
    create(tmp_path / "m")
    versions = Versions("m", tmp_path / "m", specific(7), loader)
    versions.poll()
    reason = versions.why_unavailable()
    assert reason.startswith("A model's directory must contain numbered versions, ")
    assert f"1/saved_model.pb. Received: {tmp_path / message}" in reason


def test_the_reason_names_the_parent_if_a_version_directory_is_given(directory, loader):
    (directory / "1" / "saved_model.pb").touch()
    versions = Versions("m", directory / "1", LATEST, loader)
    assert "Give the parent directory of this version." in versions.why_unavailable()


def test_the_reason_names_a_directory_that_cannot_be_read(
    directory, loader, monkeypatch
):
    monkeypatch.setattr(Path, "iterdir", refuse)
    reason = Versions("m", directory, LATEST, loader).why_unavailable()
    expected = "m, which cannot be read (Permission denied). Grant read permission."
    assert reason.endswith(expected)


def test_a_new_version_is_loaded_before_the_old_one_is_unloaded(
    directory, versions_of, loader
):
    during = []

    def load(version, path):
        during.append(states(versions) if version == 2 else {})
        return loader(version, path)

    versions = versions_of(load=load)
    add_versions(directory, 2)
    versions.poll()
    assert during[1] == {1: "AVAILABLE", 2: "LOADING"}
    assert states(versions) == {1: "END", 2: "AVAILABLE"}


def test_the_highest_old_version_stays_until_a_selected_one_is_loaded(
    directory, versions_of, loader
):
    add_versions(directory, 2, 3)
    versions = versions_of(specific(1, 2))
    loader.broken.add(3)
    versions.set_policy(specific(3))
    assert states(versions) == {1: "END", 2: "AVAILABLE", 3: "LOADING"}
    loader.broken.clear()
    versions.poll()
    assert states(versions) == {1: "END", 2: "END", 3: "AVAILABLE"}


def test_a_broken_version_ends_after_its_attempts_and_the_good_one_stays(
    directory, versions_of, loader
):
    versions = versions_of()
    loader.broken.add(2)
    add_versions(directory, 2)
    attempts = 1 + 5  # the default of --max_num_load_retries
    for _ in range(attempts):
        assert states(versions).get(2) != "END"
        versions.poll()
    assert states(versions) == {1: "AVAILABLE", 2: "END"}
    assert versions.statuses()[0].error == "OSError: half a file"
    loader.broken.clear()  # too late: all attempts are used up
    versions.poll()
    assert len(loader.loaded) == 1 + attempts
    add_versions(directory, 3)
    versions.poll()
    assert states(versions) == {1: "END", 2: "END", 3: "AVAILABLE"}
    assert versions.statuses()[1].error == "OSError: half a file"


def test_a_version_that_is_being_copied_is_served_once_it_is_complete(
    directory, versions_of, loader
):
    loader.broken.add(1)
    versions = versions_of()
    assert versions.statuses() == [
        VersionStatus(1, State.LOADING, "OSError: half a file")
    ]
    assert versions.why_unavailable() == (
        f"Version 1 in {directory} must load. Received: OSError: half a file. "
        "Export it again under a new number."
    )
    loader.broken.clear()
    versions.poll()
    assert versions.statuses() == [VersionStatus(1, State.AVAILABLE)]


def test_a_broken_version_that_is_deleted_may_come_again(
    directory, versions_of, loader
):
    versions = versions_of()
    loader.broken.add(2)
    add_versions(directory, 2)
    versions.poll()
    (directory / "2").rmdir()
    versions.poll()
    assert versions.statuses()[0] == VersionStatus(2, State.END, "OSError: half a file")
    loader.broken.clear()
    add_versions(directory, 2)
    versions.poll()
    assert states(versions) == {1: "END", 2: "AVAILABLE"}


def test_a_version_without_retries_has_one_attempt(versions_of, loader):
    loader.broken.add(1)
    assert states(versions_of(retries=0)) == {1: "END"}


def test_a_failed_version_waits_for_its_next_attempt(directory, versions_of, loader):
    versions = versions_of(retry_seconds=0.3)
    loader.broken.add(2)
    add_versions(directory, 2)
    start = time.monotonic()
    versions.poll()
    for _ in range(3):
        versions.poll()
    assert len(loader.loaded) == 2 or time.monotonic() > start + 0.3
    assert states(versions) == {1: "AVAILABLE", 2: "LOADING"}
    loader.broken.clear()
    add_versions(directory, 3)  # a newer one need not wait for it
    versions.poll()
    assert states(versions)[3] == "AVAILABLE"


@pytest.mark.parametrize("poll_seconds", [0, 60])
def test_attempts_do_not_wait_for_the_next_poll(versions_of, loader, poll_seconds):
    loader.broken.add(1)
    versions = versions_of(poll_seconds=poll_seconds, retry_seconds=0.1)
    versions.watch()
    wait_for(lambda: len(loader.loaded) >= 3)
    loader.broken.clear()
    wait_for(lambda: states(versions) == {1: "AVAILABLE"})


def test_attempts_continue_while_the_directory_cannot_be_read(
    directory, versions_of, loader, monkeypatch
):
    loader.broken.add(1)
    versions = versions_of(poll_seconds=60, retry_seconds=0.05)
    monkeypatch.setattr(Path, "iterdir", refuse)
    versions.watch()
    wait_for(lambda: states(versions) == {1: "END"})
    assert len(loader.loaded) == 6


def test_closing_does_not_wait_for_the_next_attempt(versions_of, loader):
    loader.broken.add(1)
    versions = versions_of(retry_seconds=60)
    versions.watch()
    start = time.monotonic()
    versions.close()
    assert time.monotonic() < start + 10
    assert states(versions) == {1: "END"}
    assert len(loader.loaded) == 1


def test_a_broken_version_does_not_affect_the_others(directory, versions_of, loader):
    add_versions(directory, 2, 3)
    loader.broken.add(3)
    assert states(versions_of(ALL)) == {
        1: "AVAILABLE",
        2: "AVAILABLE",
        3: "LOADING",
    }


def test_deleting_the_latest_version_brings_the_previous_one_back(
    directory, versions_of, loader
):
    add_versions(directory, 2)
    versions = versions_of()
    (directory / "2").rmdir()
    loader.broken.add(1)
    versions.poll()
    assert states(versions) == {1: "LOADING", 2: "AVAILABLE"}
    loader.broken.clear()
    versions.poll()
    assert states(versions) == {1: "AVAILABLE", 2: "END"}


def test_all_versions_are_unloaded_if_the_directory_is_empty(directory, versions_of):
    versions = versions_of()
    (directory / "1").rmdir()
    versions.poll()
    assert states(versions) == {1: "END"}
    add_versions(directory, 1)
    versions.poll()
    assert states(versions) == {1: "AVAILABLE"}


def test_the_model_stays_loaded_if_the_directory_is_deleted(directory, versions_of):
    versions = versions_of()
    shutil.rmtree(directory)
    versions.poll()
    assert states(versions) == {1: "AVAILABLE"}


def test_a_problem_of_the_directory_is_logged_once(directory, versions_of, caplog):
    versions = versions_of(poll_seconds=0.01)
    versions.watch()
    shutil.rmtree(directory)
    wait_for(lambda: "No such file" in caplog.text)
    for _ in range(3):
        versions.poll()
    assert caplog.text.count("No such file") == 1
    add_versions(directory, 1)
    versions.poll()
    versions.set_policy(specific(1, 7))
    versions.poll()
    assert caplog.text.count(f"{directory} must contain version 7.") == 1
