"""Files and folders that appear whole or not at all.

Knows the file system; not what is written.
"""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def published(path):
    """Write beside `path`, rename to it at the end: nobody sees it half-written.

    Args:
        path: the file or folder to appear.

    Yields:
        A path in a temporary sibling folder, with the same suffix, to write to. An
        error inside the block, or the end of the process, publishes nothing.

    Raises:
        FileExistsError: where `path` is a folder that exists and is not empty.

    Example:
    ```python
    import pathlib, tempfile
    from bn_keras.atomic_files import published

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "note.txt"
        with published(path) as beside:
            beside.write_text("whole")
            assert not path.exists()
        assert path.read_text() == "whole"
    ```
    """
    path = Path(path)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    beside = folder / path.name
    try:
        yield beside
        # rename() replaces a file or an empty folder and refuses any other folder.
        beside.rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
