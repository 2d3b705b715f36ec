"""Version numbers, and versions that appear whole or not at all."""

import errno
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from export_checks import Loaded

from bn_keras import export_saved_model
from bn_keras.export import highest_version, publishing, versions
from bn_keras.export.publishing import publish

SMALL = """
import keras
model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])
"""


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])


def fill(folder):
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"whole")


def visible(directory):
    """What a server would look at."""
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


def test_a_deleted_version_counts_as_used(tmp_path):
    for expected in (1, 2, 3):
        assert publish(tmp_path, None, fill).name == str(expected)
    for path in (tmp_path / "3", tmp_path / "2"):
        (path / "saved_model.pb").unlink()
        path.rmdir()
    with pytest.raises(FileExistsError, match=r"above 3, the highest.*version=2"):
        publishing.check_free(tmp_path, 2)
    assert publish(tmp_path, None, fill).name == "4"
    # Without the file the highest folder counts.
    (tmp_path / ".highest_version").unlink()
    assert highest_version(tmp_path) == 4
    (tmp_path / ".highest_version").write_text("none")
    with pytest.raises(ValueError, match=r"one version number in .*Received: 'none'"):
        publish(tmp_path, None, fill)


def test_names_that_tensorflow_serving_ignores_are_no_versions(tmp_path):
    for name in ("backup", "-1", "1.5", "٣", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert versions(tmp_path) == []
    assert publish(tmp_path, 4, fill).name == "4"
    assert publish(tmp_path, None, fill).name == "6"


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, 2**63])
def test_a_version_must_be_a_positive_integer(model, tmp_path, version):
    with pytest.raises(ValueError, match=r"positive integer\. Received"):
        export_saved_model(model, tmp_path / "m", version=version)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("locks", [True, False])
def test_exporters_at_once_get_numbers_of_their_own(tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(publishing, "_lock", lambda *_, **__: False)

    def work(_):
        return [int(publish(tmp_path, None, fill).name) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        numbers = [x for found in pool.map(work, range(4)) for x in found]
    assert sorted(numbers) == versions(tmp_path)
    assert len(versions(tmp_path)) == 40
    assert all(
        (tmp_path / name / "saved_model.pb").exists() for name in visible(tmp_path)
    )
    if locks:
        assert versions(tmp_path) == list(range(1, 41))


@pytest.mark.parametrize("error", [errno.ENOTEMPTY, errno.EEXIST])
def test_the_loser_of_a_rename_takes_the_next_number_or_says_so(
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


def test_a_failed_export_leaves_nothing_a_server_would_load(
    model, tmp_path, monkeypatch
):
    def fail(folder, *_):
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bn_keras.export.signatures.write", fail)
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(model, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_an_os_error(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        export_saved_model(model, tmp_path / "file" / "m")


def run_export(directory, before="", **options):
    code = (
        SMALL
        + textwrap.dedent(before)
        + textwrap.dedent(f"""
        import bn_keras
        try:
            bn_keras.export_saved_model(model, {str(directory)!r})
        except OSError as error:
            print("OSError", " ".join(str(error).split()))
    """)
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, **options
    )


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
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
        big = "model = keras.Sequential([keras.Input((99,)), keras.layers.Dense(999)])"
        done = run_export(disk / "m", big)
        assert done.stdout.startswith("OSError [Errno 28] No space left on device")
        assert visible(disk / "m") == []
        assert list((disk / "m").iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_size_limit_while_tensorflow_writes_is_an_os_error(
    model, tmp_path, monkeypatch
):
    # TensorFlow writes the warm-up records, and has errors of its own.
    written = tf.io.TFRecordWriter

    def fail(path):
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left")

    monkeypatch.setattr(tf.io, "TFRecordWriter", fail)
    with pytest.raises(OSError, match=r"Cannot write .*No space left"):
        export_saved_model(model, tmp_path / "m")
    monkeypatch.setattr(tf.io, "TFRecordWriter", written)
    assert list((tmp_path / "m").iterdir()) == []


KILLED = """
import os, signal
from bn_keras.export import checking
checking.compare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_export_killed_half_way_shows_nothing_and_is_cleaned_up(model, tmp_path):
    done = run_export(tmp_path / "m", KILLED)
    assert done.returncode == -signal.SIGKILL
    assert visible(tmp_path / "m") == []
    (litter,) = (tmp_path / "m").iterdir()
    assert (litter / "version" / "saved_model.pb").exists()
    path = export_saved_model(model, tmp_path / "m")
    assert not litter.exists()
    Loaded(path)


@pytest.mark.slow
def test_an_export_killed_at_any_moment_leaves_whole_versions(tmp_path):
    moments = random.Random(0)
    start = time.perf_counter()
    assert run_export(tmp_path / "m").returncode == 0
    seconds = time.perf_counter() - start
    code = SMALL + (
        "import bn_keras\n"
        f"while True: bn_keras.export_saved_model(model, {str(tmp_path / 'm')!r})"
    )
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds * moments.uniform(0.6, 1.3))
        process.kill()
        process.wait()
        for name in visible(tmp_path / "m"):
            Loaded(tmp_path / "m" / name)
            assert (tmp_path / "m" / name / "assets.extra" / "manifest.json").exists()


def test_litter_is_removed_only_if_it_is_surely_dead(tmp_path):
    def litter(name, host):
        folder = tmp_path / f".export.tmp-{name}"
        (folder / "version").mkdir(parents=True)
        if host is not None:
            (folder / "owner").write_text(host)
        return folder

    here = socket.gethostname()
    dead, foreign, new, old = (
        litter("dead", here),
        litter("foreign", "elsewhere"),
        litter("new", None),
        litter("old", "elsewhere"),
    )
    os.utime(old, (0, 0))
    former = tmp_path / ".7.tmp-abc"
    former.mkdir()
    os.utime(former, (0, 0))
    alive = threading.Event(), threading.Event()

    def write(folder):
        fill(folder)
        alive[0].set()
        assert alive[1].wait(30)

    other = threading.Thread(target=publish, args=(tmp_path, None, write))
    other.start()
    assert alive[0].wait(30)
    assert publish(tmp_path, None, fill).name == "1"
    gone = [one for one in (dead, foreign, new, old, former) if not one.exists()]
    assert gone == [dead, old, former]
    alive[1].set()
    other.join()
    assert versions(tmp_path) == [1, 2]


def test_another_user_can_read_a_version(model, tmp_path):
    umask = os.umask(0o022)
    try:
        path = export_saved_model(model, tmp_path / "m")
    finally:
        os.umask(umask)
    for one in (path, *path.rglob("*")):
        assert one.stat().st_mode & 0o044 == 0o044, one
