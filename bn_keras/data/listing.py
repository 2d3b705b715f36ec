"""The files of a run: what identifies its examples between two commands."""

import gzip
import hashlib
import os
import zlib
from typing import Any, NamedTuple

import numpy as np

from bn_keras.atomic_files import atomic_write
from bn_keras.data.layouts import count_noun, list_some, readable_name

# The share of the files that may be missing or changed when a run continues.
TOLERATED = 0.1
# Of each class so many files are compared by their first bytes too: folders that were
# swapped may hold files of the same names and sizes.
_SAMPLED, _BYTES = 8, 8192


class Listing(NamedTuple):
    """Names, sizes and labels of files, in the order of a split.

    Args:
        names: The name of each file below the folder of the data set.
        sizes: The size of each file in bytes, int64.
        labels: The label of each file, int64.
        checksums: The CRC-32 of the first bytes of some files, 0 for the others.
    """

    names: list[bytes]
    sizes: np.ndarray
    labels: np.ndarray
    checksums: np.ndarray

    @classmethod
    def of_files(
        cls,
        names: list[bytes],
        sizes: np.ndarray,
        labels: np.ndarray,
        paths: Any,
    ) -> "Listing":
        """Return the listing of files, the first bytes of some of which are read."""
        checksums = np.zeros(len(names), np.int64)
        for label in np.unique(labels):
            positions = np.flatnonzero(labels == label)
            for position in positions[:: -(-len(positions) // _SAMPLED)]:
                try:
                    with open(paths[position], "rb") as file:  # noqa: PTH123 (bytes)
                        # At least 1, as 0 stands for a file that was not read.
                        checksums[position] = max(1, zlib.crc32(file.read(_BYTES)))
                except OSError:
                    continue
        return cls(names, sizes, labels, checksums)

    def digest(self) -> str:
        """Return the SHA-256 of the listing, in hexadecimal digits."""
        return hashlib.sha256(self._as_bytes()).hexdigest()

    def _as_bytes(self) -> bytes:
        rows = zip(
            self.labels.tolist(),
            self.sizes.tolist(),
            self.checksums.tolist(),
            self.names,
            strict=True,
        )
        # A file name may hold any byte but this one.
        return b"\0".join(b"%d %d %d %s" % row for row in rows)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the listing to a file, atomically."""
        with atomic_write(path) as temporary_path:
            temporary_path.write_bytes(gzip.compress(self._as_bytes(), 6, mtime=0))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Listing":
        """Read a listing.

        Raises:
            ValueError: If the file does not hold one.
            FileNotFoundError: If there is no such file.
        """
        try:
            with gzip.open(path) as file:
                rows = [row.split(b" ", 3) for row in file.read().split(b"\0")]
            labels, sizes, checksums, names = zip(*rows, strict=True)
        except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path} must hold the list of a run's files. Received: {error}. Begin "
                "the run again (--restart)."
            ) from error
        sizes, labels, checksums = (
            np.array([*map(int, column)], np.int64)
            for column in (sizes, labels, checksums)
        )
        return cls(list(names), sizes, labels, checksums)

    def find_in(self, other: "Listing") -> tuple[np.ndarray, list[str]]:
        """Find the files of this listing in another one.

        Args:
            other: The listing of what is there now.

        Returns:
            `(positions, notes)`: int64 positions in `other`, in the order of this
            listing, and a text for each kind of difference. In the place of a file that
            is missing stands the next one of its class.

        Raises:
            ValueError: If more than a tenth of the files are missing or have changed,
                or all files of a class are missing.
        """
        by_name = {name: position for position, name in enumerate(other.names)}
        positions = np.array([by_name.pop(name, -1) for name in self.names], np.int64)
        missing = positions < 0
        # A file that now has another label is not the same example.
        missing |= other.labels[positions] != self.labels
        compared = (self.checksums != 0) & (other.checksums[positions] != 0)
        changed = (other.sizes[positions] != self.sizes) & ~missing
        changed |= compared & (other.checksums[positions] != self.checksums) & ~missing
        for what, affected, whole in (
            ("missing", missing, np.ones_like(missing)),
            ("changed", changed & compared, compared),
            ("changed", changed, np.ones_like(missing)),
        ):
            if affected.sum() > max(2, TOLERATED * whole.sum()):
                raise ValueError(
                    "The training files must be those of the unfinished run. Received: "
                    f"{affected.sum():,} of {len(self.names):,} files {what}, among "
                    f"them {self._list(affected)}. Restore them, or begin again "
                    "(--restart)."
                )
        positions[missing] = [
            self._substitute(int(position), positions, missing)
            for position in np.flatnonzero(missing)
        ]
        notes = []
        if missing.any():
            notes.append(
                f"the run continues without {count_noun(missing.sum(), 'file')} that "
                f"cannot be found or read ({self._list(missing)}); the next picture of "
                "the class takes the place of each"
            )
        if changed.any():
            notes.append(
                f"changed since the run began: {count_noun(changed.sum(), 'file')} "
                f"({self._list(changed)})"
            )
        if by_name:
            added = [readable_name(name) for name in by_name]
            notes.append(
                f"not used, as added since the run began: "
                f"{count_noun(len(added), 'file')} ({list_some(added)})"
            )
        return positions, notes

    def _list(self, chosen: np.ndarray) -> str:
        return list_some(
            [readable_name(self.names[index]) for index in np.flatnonzero(chosen)]
        )

    def _substitute(
        self, position: int, positions: np.ndarray, missing: np.ndarray
    ) -> int:
        present = np.flatnonzero(~missing & (self.labels == self.labels[position]))
        if not present.size:
            raise ValueError(
                "Every class must have a file of the unfinished run. Received: no "
                f"file of the class of {readable_name(self.names[position])}. "
                "Restore the files, or begin again (--restart)."
            )
        following = present[np.searchsorted(present, position) % len(present)]
        return int(positions[following])
