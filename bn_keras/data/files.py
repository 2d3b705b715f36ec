"""Image files, read one by one."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.bad_files import report_bad_files
from bn_keras.data.layouts import readable_name
from bn_keras.data.listing import Listing
from bn_keras.data.picture_files import (
    MANY,
    SAMPLE,
    FactsCache,
    read_headers,
    stat_files,
)
from bn_keras.data.splits import Split
from bn_keras.images import pixels

if TYPE_CHECKING:
    import tensorflow as tf


class Files(Split):
    """Image files, each of them read and decoded when it is needed.

    Args:
        paths: The path of each file, kept as bytes: a file name need not be UTF-8.
        labels: The label of each file, an index of the class names.
        shape: `(height, width, channels)`, with `None` for a side that varies.
        root: The folder of the data set, to which the names of the files are relative
            where they identify the examples of a run.
    """

    def __init__(
        self,
        paths: Sequence[bytes | str | os.PathLike[str]] | np.ndarray,
        labels: Sequence[int] | np.ndarray,
        shape: tuple[int | None, int | None, int] = (None, None, 3),
        root: bytes | str | os.PathLike[str] = b"/",
    ) -> None:
        self.paths = np.array([os.fsencode(path) for path in paths], object)
        self.labels = np.array(labels, np.int64)
        self.shape = shape
        self.root = os.fsencode(root)

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, position: int) -> str:  # noqa: D102 (documented in Split)
        return readable_name(self.paths[position])

    def without(self, positions: np.ndarray) -> "Files":
        """Return the same split without the files at these positions."""
        return self.at(np.delete(np.arange(len(self)), positions))

    def at(self, positions: np.ndarray) -> "Files":
        """Return the split of the files at these positions, in their order."""
        paths, labels = self.paths[positions], self.labels[positions]
        return Files(paths, labels, self.shape, self.root)

    @cached_property
    def listing(self) -> Listing:
        """The names, sizes and labels of the files, which identify a run."""
        sizes, _ = stat_files(self.paths)
        # `relpath` is too slow for a million names.
        start = self.root.rstrip(b"/") + b"/"
        names = [path.removeprefix(start) for path in self.paths]
        return Listing.of_files(names, sizes, self.labels, self.paths)

    def fingerprint(self) -> str:  # noqa: D102
        return self.listing.digest()

    def follow(self, listing: Listing) -> "tuple[Files, list[str]]":
        """Return the files of a listing that is of this data set, in its order.

        The place of a file that is missing is taken by the next one of its class, so
        that all other examples of a run stay where they are.

        Args:
            listing: The `listing` of an earlier `Files`.

        Returns:
            `(files, notes)`: the split, whose listing is the given one, and a text for
            each kind of difference.

        Raises:
            ValueError: If more than a tenth of the files are missing or have changed.
        """
        positions, notes = listing.find_in(self.listing)
        files = self.at(positions)
        # The run stays the one that it was.
        files.listing = listing
        return files, notes

    @cached_property
    def _cache(self) -> FactsCache:
        return FactsCache(self.root)

    def facts(self) -> np.ndarray:
        """Return the size and orientation of the files, `picture_files.FACTS`.

        Of more than 20,000 files only a sample is looked at. What a file does not
        state is zero.
        """
        positions = np.arange(len(self))
        if len(self) > MANY:
            positions = np.linspace(0, len(self) - 1, SAMPLE).astype(int)
        _, keys = stat_files(self.paths[positions])
        facts = self._cache.find(keys)
        unread = facts["height"] == 0
        if unread.any():
            read = read_headers(self.paths[positions][unread], keys[unread])
            read["checked"] = facts["checked"][unread]
            facts[unread] = read
            self._cache.add(read)
        return facts

    def unchecked(self) -> np.ndarray:
        """Return the positions of the files that were not decoded in an earlier run."""
        _, keys = stat_files(self.paths)
        return np.flatnonzero(~self._cache.find(keys)["checked"])

    def mark_checked(self, positions: np.ndarray) -> None:
        """Remember that the files at these positions can be decoded."""
        _, keys = stat_files(self.paths[positions])
        facts = self._cache.find(keys)
        facts["key"], facts["checked"] = keys, True
        self._cache.add(facts)

    def hold_out(self, every: int) -> "tuple[Files, Files]":  # noqa: D102
        held = self._every(self.labels, every)
        return self.without(held), self.at(held)

    @cached_property
    def _tensors(self) -> "tuple[tf.Tensor, tf.Tensor]":
        import tensorflow as tf

        # As in `Arrays`: outside any graph, and on the CPU.
        with tf.init_scope(), tf.device("cpu"):
            return tf.constant(self.paths), tf.constant(self.labels)

    def read(  # noqa: D102
        self, reference: "tf.Tensor"
    ) -> "tuple[tf.Tensor, tf.Tensor]":
        import tensorflow as tf

        paths, labels = self._tensors
        content = tf.io.read_file(paths[reference])
        # An image of any size stays encoded here: a crop of a JPEG file is decoded
        # without the rest of it.
        if None not in self.shape:
            content = pixels.decode(content, self.shape[-1])
            content = tf.ensure_shape(content, self.shape)
        return content, labels[reference]

    def load_arrays(self) -> Arrays:
        """Return the same images, which must have one size, as uint8 `Arrays`."""
        import tensorflow as tf

        references = self.order(None, tf.constant(0, tf.int64))
        contents = references.map(lambda index: self.read(index)[0], tf.data.AUTOTUNE)
        with report_bad_files(self):
            images = np.concatenate(list(contents.batch(1024).as_numpy_iterator()))
        return Arrays(images, self.labels)
