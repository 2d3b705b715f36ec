"""Write files and folders atomically: they appear complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write to a temporary path and rename it to `path` at the end of the block.

    Args:
        path: The file or folder to create. Its parent folder must exist. An existing
            file, or an existing empty folder, is replaced.

    Yields:
        The temporary path to write to. It does not exist yet and has the same name and
        suffix as `path`. If the block raises an error, or the process ends inside it,
        `path` is unchanged.

    Raises:
        OSError: If `path` is a folder that is not empty, or the file system is full;
            the error then names `path`.

    Example:
    ```python
    import pathlib, tempfile
    from bn_keras.atomic_files import atomic_write

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "note.txt"
        with atomic_write(path) as temporary_path:
            temporary_path.write_text("complete")
            assert not path.exists()
        assert path.read_text() == "complete"
    ```
    """
    path = Path(path)
    # A sibling folder is on the same file system, where a rename is atomic.
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    temporary_path = folder / path.name
    try:
        yield temporary_path
        # Some file systems report only now that they are full. And after a power
        # failure the renamed file must not be empty.
        _flush(temporary_path)
        # rename() replaces a file or an empty folder, and refuses any other folder.
        temporary_path.rename(path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file, or every file of a folder, is on the device."""
    for entry in (path, *path.rglob("*")):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            continue
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
