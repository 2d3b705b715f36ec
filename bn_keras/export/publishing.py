"""Publish a version: give it a new number and make it appear complete."""

import contextlib
import errno
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

HIGHEST_VERSION = ".highest_version"
# TensorFlow Serving reads version numbers as signed 64-bit integers.
VERSION_LIMIT = 2**63
_TEMPORARY_PREFIX = ".export.tmp-"
_DAY = 86400.0


def versions(directory: str | PathLike[str]) -> list[int]:
    """Return the numbers of the versions in a folder, in ascending order.

    Subfolders whose names are positive integers are versions, as for TensorFlow
    Serving.

    Args:
        directory: An existing folder.
    """
    numbers = map(_version_number, Path(directory).iterdir())
    return sorted(number for number in numbers if number)


def highest_version(directory: str | PathLike[str]) -> int:
    """Return the highest version ever published in a folder, 0 if there was none.

    The file `.highest_version` also counts versions that were deleted. If the file does
    not exist, the highest version that exists is returned.

    Args:
        directory: A folder, which may not exist yet.

    Raises:
        ValueError: If `.highest_version` does not hold a number.
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
            f"{file} must hold one version number. Received: {text[:40]!r}. Write the "
            "highest number that was ever used there"
        )
    return max([int(text), *versions(directory)])


def check_version(directory: str | PathLike[str], version: int | None) -> None:
    """Raise an error unless a version is None or above every one used before.

    Args:
        directory: A folder, which may not exist yet.
        version: The number of the version, or None.

    Raises:
        ValueError: If the version is not a positive signed 64-bit integer, there is no
            next one, or the path is not in UTF-8.
        FileExistsError: If the number was, or may have been, used before.
        NotADirectoryError: If the directory is a file or is below one.
    """
    path = Path(directory).absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            "`directory` must be a path in UTF-8, as TensorFlow needs it. Received: "
            f"directory={str(directory)!r}. Choose another name"
        ) from None
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(
            "`directory` must be a folder, or the name of a new one. Received: "
            f"directory={str(directory)!r}, which is a file or is below one. Choose "
            "another name"
        )
    if version is None:
        if highest_version(directory) >= VERSION_LIMIT - 1:
            raise ValueError(
                "A version must be below 2**63. Received: a directory whose highest "
                f"version is {highest_version(directory)}. Export to another directory"
            )
        return
    if type(version) is not int or not 0 < version < VERSION_LIMIT:
        raise ValueError(
            "`version` must be None or a positive integer below 2**63. "
            f"Received: version={version!r}"
        )
    highest = highest_version(directory)
    if version > highest:
        return
    is_present = version in versions(directory)
    raise FileExistsError(
        (f"Version {version} is already in {directory}. " if is_present else "")
        + f"`version` must be above {highest}, the highest that was ever used in "
        f"{directory}. Received: version={version}. Leave `version` out to get the "
        "next one"
    )


def publish(
    directory: str | PathLike[str],
    version: int | None,
    write: Callable[[Path], Iterable[Path] | None],
) -> Path:
    """Write a version to a temporary folder, then rename that folder.

    Several exporters at the same time get different numbers: the number is chosen, and
    the folder renamed, under a lock on the directory. On a file system without locks
    only one of them can rename to a number; the others try the next one.

    Args:
        directory: Folder of the versions; created if missing.
        version: The number, or None for one above the highest ever used.
        write: Called with the path of a folder to create and fill. If it raises an
            error, nothing is published. Files that it returns are removed if publishing
            fails.

    Returns:
        The path of the version.

    Raises:
        FileExistsError: If the number was used before, or in the meantime.
        OSError: If the directory cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _remove_dead_exports(directory)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=directory))
    try:
        with (temporary / "owner").open("w") as owner:
            # The operating system releases the lock when the process ends, in whatever
            # way. The name of the machine is written after locking, so that an exporter
            # that reads it finds the file locked.
            _lock(owner)
            with file_errors(directory):
                owner.write(socket.gethostname())
                owner.flush()
            unpublished = temporary / "version"
            others = write(unpublished) or ()
            try:
                with file_errors(directory):
                    _synchronize(unpublished)
                    return _rename(unpublished, directory, version)
            except BaseException:
                for file in others:
                    file.unlink(missing_ok=True)
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def file_errors(path: str | PathLike[str]) -> Iterator[None]:
    """Raise an `OSError` that names a place for every error of writing there.

    TensorFlow has errors of its own, and those of a full disk often name no file.

    Args:
        path: The file or folder that is written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    except Exception as error:
        # An error of TensorFlow's can only be raised if TensorFlow was imported.
        tf = sys.modules.get("tensorflow")
        if tf is None or not isinstance(error, tf.errors.OpError):
            raise
        reason = " ".join(error.message.split())
        for number in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(number) in reason:
                raise OSError(number, os.strerror(number), str(path)) from None
        raise OSError(f"Cannot write {path}: {reason}") from None


def _rename(unpublished: Path, directory: Path, version: int | None) -> Path:
    folder = os.open(directory, os.O_RDONLY)
    try:
        _lock(folder, wait=True)
        # More than one turn only on a file system without locks.
        while True:
            check_version(directory, version)
            number = highest_version(directory) + 1 if version is None else version
            # Note the number before renaming: a crash in between may skip a number, but
            # no number is used twice. The note itself is also replaced by a rename.
            note = unpublished.with_name("highest")
            note.write_text(f"{number}\n")
            note.replace(directory / HIGHEST_VERSION)
            path = directory / str(number)
            try:
                # `rename` would replace an empty folder.
                if path.exists():
                    raise FileExistsError(errno.EEXIST, "Version exists", str(path))
                unpublished.rename(path)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                if version is not None:
                    raise FileExistsError(
                        f"Version {version} is already in {directory}: another "
                        "exporter was faster. Leave `version` out to get the next one"
                    ) from None
                continue
            # The version exists, even if this fails.
            with contextlib.suppress(OSError):
                os.fsync(folder)
            return path
    finally:
        os.close(folder)  # This also releases the lock.


def _remove_dead_exports(directory: Path) -> None:
    """Remove the temporary folders of exports that were certainly killed."""
    for folder in directory.glob(f"{_TEMPORARY_PREFIX}*"):
        if _is_dead(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    # If the folder vanishes meanwhile, another exporter has removed it.
    with contextlib.suppress(OSError):
        is_old = time.time() - folder.stat().st_mtime > _DAY
        try:
            with (folder / "owner").open("r") as owner:
                # On a network file system the locks of other machines may not be
                # visible. Their exports count as dead only after a day.
                is_local = owner.read() == socket.gethostname()
                return (is_local or is_old) and _lock(owner)
        except FileNotFoundError:
            # The export has just begun, or was killed right after that.
            return is_old
    return False


def _lock(file: Any, wait: bool = False) -> bool:
    """Lock a file; return False if it is locked or the system has no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (OSError, ImportError):
        return False
    return True


def _synchronize(folder: Path) -> None:
    """Write a folder to the disk, so that a crash cannot leave it incomplete."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _version_number(path: Path) -> int:
    """Return the number of the version at a path, or 0 if it is not a version."""
    name = path.name
    if not (name.isascii() and name.isdigit() and path.is_dir()):
        return 0
    number = int(name)
    return number if number < VERSION_LIMIT else 0
