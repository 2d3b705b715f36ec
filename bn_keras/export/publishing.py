"""Number a version and let it appear, whole, once.

Knows directories, locks and TensorFlow Serving's rule for version names; not what is
in a version.
"""

import contextlib
import errno
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

HIGHEST_VERSION = ".highest_version"
# TensorFlow Serving reads version numbers as signed 64-bit integers.
LIMIT = 2**63
_PREFIX = ".export.tmp-"
# What version 0.1.0 called its temporary folders.
_OLD_LITTER = ".[0-9]*.tmp-*"
_DAY = 86400.0


def versions(directory):
    """The version numbers in a folder, ascending: names that parse as an integer.

    Args:
        directory: an existing folder.

    Returns:
        A list of ints.
    """
    return sorted(_number(path) for path in Path(directory).iterdir() if _number(path))


def highest_version(directory):
    """The highest number ever used in a folder, 0 if none was.

    The file `.highest_version` remembers numbers whose folders were deleted. Without
    it the highest folder counts.

    Args:
        directory: a folder, which need not exist.

    Returns:
        An int.

    Raises:
        ValueError: where `.highest_version` holds no number.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return 0
    file = directory / HIGHEST_VERSION
    try:
        text = file.read_text()
    except FileNotFoundError:
        text = "0"
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise ValueError(
            f"Expected one version number in {file}. Received: {text[:40]!r}; write "
            "the highest number ever used there"
        )
    return max([int(text), *versions(directory)])


def check_free(directory, version):
    """Raise unless a version is None or a number above every one used before.

    Args:
        directory: a folder, which need not exist.
        version: an int, or None.

    Raises:
        ValueError: for what is no positive 64-bit integer.
        FileExistsError: for a number that was, or may have been, used before.
    """
    if version is None:
        return
    if type(version) is not int or not 0 < version < LIMIT:
        raise ValueError(
            f"The version must be a positive integer. Received: {version!r}"
        )
    highest = highest_version(directory)
    if version > highest:
        return
    there = version in versions(directory)
    raise FileExistsError(
        (f"Version {version} is already in {directory}. " if there else "")
        + f"Expected a number above {highest}, the highest ever used in {directory}: "
        f"leave `version` out to get the next one. Received: version={version}"
    )


def publish(directory, version, write):
    """Write a version beside its place, then rename it there.

    Two exporters at once get two numbers: the number is chosen and the rename made
    under a lock on the folder, and where the file system has no locks, the loser of
    the rename tries the next number.

    Args:
        directory: the versions' folder; made if missing.
        version: an int, or None for one above the highest ever used.
        write: called with the path of a folder to make and fill. An error in it
            publishes nothing.

    Returns:
        The `pathlib.Path` of the version.

    Raises:
        FileExistsError: where the number was used before, also meanwhile.
        OSError: where the directory cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _clean(directory)
    temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
    try:
        with (temporary / "owner").open("w") as owner:
            # Released by the system when the process ends, however it does. The name
            # comes after: who reads it finds the lock taken.
            _lock(owner)
            owner.write(socket.gethostname())
            owner.flush()
            beside = temporary / "version"
            write(beside)
            _synchronize(beside)
            return _rename(beside, directory, version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(beside, directory, version):
    folder = os.open(directory, os.O_RDONLY)
    try:
        _lock(folder, wait=True)
        while True:
            check_free(directory, version)
            number = highest_version(directory) + 1 if version is None else version
            # Before the rename: a number may be lost by a crash, but not used twice.
            note = beside.with_name("highest")
            note.write_text(f"{number}\n")
            note.replace(directory / HIGHEST_VERSION)
            path = directory / str(number)
            try:
                # rename() would take the place of an empty folder.
                if path.exists():
                    raise FileExistsError(errno.EEXIST, "Version exists", str(path))
                beside.rename(path)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                if version is not None:
                    raise FileExistsError(
                        f"Version {version} is already in {directory}: another "
                        "exporter was faster. Leave `version` out to get the next one"
                    ) from None
                continue
            with contextlib.suppress(OSError):  # it is there, synchronized or not
                os.fsync(folder)
            return path
    finally:
        os.close(folder)


def _clean(directory):
    """Remove what killed exports have left, if it is certain that they are dead."""
    for pattern in (f"{_PREFIX}*", _OLD_LITTER):
        for folder in directory.glob(pattern):
            if _is_dead(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder):
    with contextlib.suppress(OSError):
        old = time.time() - folder.stat().st_mtime > _DAY
        try:
            with (folder / "owner").open("r") as owner:
                # Another machine's lock may be invisible here: give it a day.
                here = owner.read() == socket.gethostname()
                return (here or old) and _lock(owner)
        except FileNotFoundError:
            return old  # made just now, or killed just after
    return False


def _lock(file, wait=False):
    """Lock a file exclusively; False where somebody else has, or no locks exist."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (OSError, ImportError):
        return False
    return True


def _synchronize(folder):
    """Bring a folder's content to the disk, that a rename may not outrun it."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _number(path):
    """The version that a path is, or 0."""
    name = path.name
    if not (name.isascii() and name.isdigit() and path.is_dir()):
        return 0
    number = int(name)
    return number if number < LIMIT else 0
