"""Versions get new numbers and appear complete or not at all."""

import errno
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from export_checks import LoadedExport

from bn_keras import export_saved_model
from bn_keras.export import highest_version, publishing, versions
from bn_keras.export.publishing import publish

SMALL = """
import keras, bn_keras
model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])
"""


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])


def fill(folder):
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"complete")


def visible_versions(directory):
    """Return the names of the folders that a server would load."""
    return sorted(path.name for path in directory.iterdir() if path.name.isdigit())


def test_versions_count_up_and_are_never_reused(model, tmp_path):
    names = [export_saved_model(model, tmp_path / "m").name for _ in range(2)]
    assert names == ["1", "2"]
    (tmp_path / "m" / "00000007").mkdir()
    for taken in (2, 7):
        with pytest.raises(FileExistsError, match=f"Version {taken} is already in"):
            export_saved_model(model, tmp_path / "m", version=taken)
    assert export_saved_model(model, tmp_path / "m").name == "8"
    assert versions(tmp_path / "m") == [1, 2, 7, 8]


@pytest.mark.fast
def test_a_deleted_version_counts_as_used(tmp_path):
    for expected in (1, 2, 3):
        assert publish(tmp_path, None, fill).name == str(expected)
    for path in (tmp_path / "3", tmp_path / "2"):
        (path / "saved_model.pb").unlink()
        path.rmdir()
    with pytest.raises(FileExistsError, match=r"above 3, the highest.*version=2"):
        publishing.check_version(tmp_path, 2)
    assert publish(tmp_path, None, fill).name == "4"
    # Without the file the highest version that exists counts.
    (tmp_path / ".highest_version").unlink()
    assert highest_version(tmp_path) == 4
    (tmp_path / ".highest_version").write_text("none")
    with pytest.raises(
        ValueError, match=r"must hold one version number.*Received: 'none'"
    ):
        publish(tmp_path, None, fill)


@pytest.mark.fast
def test_names_that_tensorflow_serving_ignores_are_not_versions(tmp_path):
    for name in ("backup", "-1", "1.5", "٣", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert versions(tmp_path) == []
    assert publish(tmp_path, 4, fill).name == "4"
    assert publish(tmp_path, None, fill).name == "6"


@pytest.mark.fast
@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, 2**63])
def test_a_version_must_be_a_positive_integer(model, tmp_path, version):
    with pytest.raises(ValueError, match=r"positive integer below.*Received"):
        export_saved_model(model, tmp_path / "m", version=version)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.fast
def test_simultaneous_exporters_get_different_numbers(tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(publishing, "_lock", lambda *_, **__: False)

    def work(_):
        return [int(publish(tmp_path, None, fill).name) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        numbers = [x for worker in pool.map(work, range(4)) for x in worker]
    assert sorted(numbers) == versions(tmp_path)
    assert len(versions(tmp_path)) == 40
    assert all(
        (tmp_path / name / "saved_model.pb").exists()
        for name in visible_versions(tmp_path)
    )
    if locks:
        assert versions(tmp_path) == list(range(1, 41))


@pytest.mark.parametrize("error", [errno.ENOTEMPTY, errno.EEXIST])
@pytest.mark.fast
def test_an_exporter_that_loses_the_rename_takes_the_next_number_or_reports_it(
    tmp_path, monkeypatch, error
):
    rename = Path.rename

    def lose(self, target):
        if target == tmp_path / "1":
            monkeypatch.setattr(Path, "rename", rename)
            fill(target)
            raise OSError(error, os.strerror(error), str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", lose)
    assert publish(tmp_path, None, fill).name == "2"

    def lose_again(self, target):
        fill(target)
        raise OSError(error, os.strerror(error), str(target))

    monkeypatch.setattr(Path, "rename", lose_again)
    with pytest.raises(FileExistsError, match="another exporter was faster"):
        publish(tmp_path, 9, fill)


def test_a_failed_export_leaves_no_files(model, tmp_path, monkeypatch):
    def fail(folder, *_):
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bn_keras.export.signatures.write_saved_model", fail)
    with pytest.raises(OSError, match="No space left") as raised:
        export_saved_model(model, tmp_path / "m")
    assert raised.value.filename == str(tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize("failing", ["monitoring.config", "fsync", "rename"])
def test_a_failure_at_the_end_leaves_no_files(model, tmp_path, monkeypatch, failing):
    """The server's configuration is written first, beside the version."""

    def fail(path, *_):
        if failing != "monitoring.config" or failing in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, *_)

    rename = Path.rename
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif failing == "rename":
        monkeypatch.setattr(publishing, "_rename", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space left") as raised:
        export_saved_model(model, tmp_path / "m")
    # The folder, or the file in it that is replaced.
    assert str(raised.value.filename).startswith(str(tmp_path / "m"))
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.fast
def test_no_version_follows_the_largest_one(tmp_path):
    largest = 2**63 - 1
    assert publish(tmp_path, largest, fill).name == str(largest)
    with pytest.raises(ValueError, match=r"below 2\*\*63.*Export to another directory"):
        publish(tmp_path, None, fill)
    assert versions(tmp_path) == [largest]


@pytest.mark.parametrize("name", ["file", "file/m"])
def test_a_directory_that_is_a_file_or_below_one_is_an_os_error(model, tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        NotADirectoryError, match="`directory` must be a folder"
    ) as error:
        export_saved_model(model, tmp_path / name)
    assert f"/{name}', which is a file or is below one" in str(error.value)


def test_a_path_that_is_not_in_utf_8_is_refused_before_any_work(model, tmp_path):
    with pytest.raises(
        ValueError, match=r"a path in UTF-8.*Received: directory='.*udcff'"
    ):
        export_saved_model(model, tmp_path / os.fsdecode(b"m\xff"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_os_error_and_leaves_no_files(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        big = keras.Sequential([keras.Input((99,)), keras.layers.Dense(999)])
        # 400 kB of weights: in a file of TensorFlow's, and in one of Python's.
        for constants in (False, True):
            with pytest.raises(OSError, match="No space left on device") as raised:
                export_saved_model(big, disk / "m", constants=constants)
            assert raised.value.errno == errno.ENOSPC
            assert raised.value.filename == str(disk / "m")
            assert list((disk / "m").iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_error_of_tensorflows_writer_is_an_os_error(model, tmp_path, monkeypatch):
    # TensorFlow writes the warm-up requests, and raises its own kind of error.
    writer = tf.io.TFRecordWriter

    def fail(path):
        raise tf.errors.PermissionDeniedError(None, None, f"{path}; not permitted")

    monkeypatch.setattr(tf.io, "TFRecordWriter", fail)
    with pytest.raises(OSError, match=r"Cannot write .*/m: .*not permitted"):
        export_saved_model(model, tmp_path / "m")
    monkeypatch.setattr(tf.io, "TFRecordWriter", writer)
    assert list((tmp_path / "m").iterdir()) == []


# The module needs nothing but the standard library, so it is loaded by itself: the
# process starts without Keras and TensorFlow.
KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("publishing", sys.argv[1])
publishing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(publishing)

def write(folder):
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"incomplete")
    os.kill(os.getpid(), signal.SIGKILL)

publishing.publish(sys.argv[2], None, write)
"""


def test_a_killed_export_is_not_visible_and_is_cleaned_up_by_the_next(model, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLED, publishing.__file__, str(tmp_path / "m")],
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert visible_versions(tmp_path / "m") == []
    (temporary,) = (tmp_path / "m").iterdir()
    assert (temporary / "version" / "saved_model.pb").exists()
    path = export_saved_model(model, tmp_path / "m")
    assert not temporary.exists()
    LoadedExport(path)


@pytest.mark.slow
def test_an_export_killed_at_any_moment_leaves_complete_versions(tmp_path):
    moments = random.Random(0)
    start = time.perf_counter()
    export = f"bn_keras.export_saved_model(model, {str(tmp_path / 'm')!r})"
    subprocess.run([sys.executable, "-c", SMALL + export], check=True)
    seconds = time.perf_counter() - start
    code = SMALL + f"while True: {export}"
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds * moments.uniform(0.6, 1.3))
        process.kill()
        process.wait()
        for name in visible_versions(tmp_path / "m"):
            LoadedExport(tmp_path / "m" / name)
            assert (tmp_path / "m" / name / "assets.extra" / "manifest.json").exists()


@pytest.mark.fast
def test_temporary_folders_are_removed_only_if_their_export_is_certainly_dead(tmp_path):
    def temporary_folder(name, host):
        folder = tmp_path / f".export.tmp-{name}"
        (folder / "version").mkdir(parents=True)
        if host is not None:
            (folder / "owner").write_text(host)
        return folder

    here = socket.gethostname()
    dead, foreign, new, old = (
        temporary_folder("dead", here),
        temporary_folder("foreign", "elsewhere"),
        temporary_folder("new", None),
        temporary_folder("old", "elsewhere"),
    )
    os.utime(old, (0, 0))
    has_begun, may_finish = threading.Event(), threading.Event()

    def write(folder):
        fill(folder)
        has_begun.set()
        assert may_finish.wait(30)

    other = threading.Thread(target=publish, args=(tmp_path, None, write))
    other.start()
    assert has_begun.wait(30)
    assert publish(tmp_path, None, fill).name == "1"
    folders = (dead, foreign, new, old)
    removed = [folder for folder in folders if not folder.exists()]
    assert removed == [dead, old]
    may_finish.set()
    other.join()
    assert versions(tmp_path) == [1, 2]


def test_other_users_can_read_a_version(model, tmp_path):
    umask = os.umask(0o022)
    try:
        path = export_saved_model(model, tmp_path / "m")
    finally:
        os.umask(umask)
    for entry in (path, *path.rglob("*")):
        assert entry.stat().st_mode & 0o044 == 0o044, entry
