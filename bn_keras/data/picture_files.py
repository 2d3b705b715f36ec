"""What is known of picture files: their size, orientation, and whether they decode.

It is kept between runs in the user's cache, by the name, size and time of each file.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bn_keras.atomic_files import atomic_write

# `checked` says that TensorFlow has decoded the file.
FACTS = np.dtype(
    [
        ("key", "u8"),
        ("height", "u4"),
        ("width", "u4"),
        ("rotated", "?"),
        ("checked", "?"),
    ]
)
# Of larger data sets only so many files are looked at before a run.
MANY, SAMPLE = 20_000, 1_000
_ORIENTATION = 0x0112


def stat_files(paths: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the size of each file in bytes, and a key of its path, size and time.

    Args:
        paths: The path of each file.

    Returns:
        int64 `(files,)` and uint64 `(files,)`. The size of a missing file is -1.
    """
    sizes = np.full(len(paths), -1, np.int64)
    keys = np.zeros(len(paths), np.uint64)
    for index, path in enumerate(paths):
        try:
            status = os.stat(path)  # noqa: PTH116 (bytes)
        except OSError:
            continue
        sizes[index] = status.st_size
        text = b"%s\0%d\0%d" % (
            os.path.abspath(path),  # noqa: PTH100
            status.st_size,
            status.st_mtime_ns,
        )
        keys[index] = int.from_bytes(
            hashlib.blake2b(text, digest_size=8).digest(), "little"
        )
    return sizes, keys


class FactsCache:
    """The facts of the files of one folder, in a file of the user's cache.

    Args:
        root: The folder.
    """

    def __init__(self, root: bytes) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = hashlib.sha256(os.path.realpath(root)).hexdigest()[:32]
        self._path = Path(cache) / "bn-keras" / "pictures" / f"{name}.npy"
        self._facts = np.zeros(0, FACTS)
        try:
            facts = np.load(self._path, allow_pickle=False)
            if facts.dtype == FACTS:
                self._facts = facts
        except (OSError, ValueError):  # none yet, or damaged: everything is looked at
            pass

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the facts of files, zero for unknown ones.

        Args:
            keys: What `stat_files` returned.
        """
        facts = np.zeros(len(keys), FACTS)
        if len(self._facts):
            # The facts are sorted by key.
            at = np.searchsorted(self._facts["key"], keys).clip(0, len(self._facts) - 1)
            known = self._facts["key"][at] == keys
            facts[known] = self._facts[at[known]]
        return facts

    def add(self, facts: np.ndarray) -> None:
        """Keep facts. A cache that cannot be written is ignored."""
        # New facts come first, and `unique` keeps the first of equal keys.
        merged = np.concatenate([facts[facts["key"] != 0], self._facts])
        _, first = np.unique(merged["key"], return_index=True)
        self._facts = merged[first]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path) as temporary_path:
                np.save(temporary_path, self._facts)
        except OSError:
            pass


def read_headers(paths: Sequence[bytes] | np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the facts that the headers of files state; zeros for unreadable ones."""
    from PIL import Image

    facts = np.zeros(len(paths), FACTS)
    facts["key"] = keys
    # Python's filters of warnings are those of all threads, so they are set here.
    with warnings.catch_warnings(), ThreadPoolExecutor(8) as threads:
        # An image of very many pixels: nothing is decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for index, (height, width, rotated) in enumerate(
            threads.map(_read_header, paths)
        ):
            facts[index]["height"], facts[index]["width"] = height, width
            facts[index]["rotated"] = rotated
    return facts


def _read_header(path: bytes) -> tuple[int, int, bool]:
    from PIL import Image

    try:
        with Image.open(os.fsdecode(path)) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
            return image.height, image.width, orientation not in (0, 1)
    except Exception:  # Pillow's readers raise many kinds of them
        return 0, 0, False
