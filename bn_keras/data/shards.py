"""Images in sharded TFRecord files, as `convert` writes them."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bn_keras.data.bad_files import BadFiles, check_bad_files, find_unreadable
from bn_keras.data.folders import check_folder
from bn_keras.data.orders import Shuffling
from bn_keras.data.splits import Data, Split
from bn_keras.images import pixels

if TYPE_CHECKING:
    import tensorflow as tf

DESCRIPTION = "dataset.json"
# The names of TensorFlow's own image data sets.
IMAGE, LABEL, FILENAME = "image/encoded", "image/class/label", "image/filename"
# The number of files read at the same time, and of records that are shuffled among one
# another. Twice as many records are in memory: half a gigabyte of ImageNet.
CYCLE, BUFFER = 16, 2048


class Records(Split):
    """Images in TFRecord files.

    A shuffled epoch reads the files in random order, `CYCLE` of them in turns, and
    shuffles every `BUFFER` records. This reads files in sequence and keeps little in
    memory. Whoever writes the files must mix the classes, as `convert` does.

    Args:
        files: The path of each file.
        counts: The number of records in each file.
        shape: `(height, width, channels)`, with `None` for a side that varies.
        features: The names of the encoded image and of the label in a `tf.Example`.
        bad: The positions of records to leave out, counted over all files.
    """

    def __init__(
        self,
        files: Iterable[str | os.PathLike[str]],
        counts: Sequence[int] | np.ndarray,
        shape: tuple[int | None, int | None, int],
        features: tuple[str, str] = (IMAGE, LABEL),
        bad: Sequence[int] | np.ndarray = (),
    ) -> None:
        self.files = [str(path) for path in files]
        self.counts = np.array(counts, np.int64)
        height, width, channels = shape
        self.shape = (height, width, channels)
        self.features = features
        self.bad = np.array(bad, np.int64)
        # The position of each file's first record.
        self._starts = np.cumsum(self.counts) - self.counts
        for path in self.files:
            if not Path(path).is_file():
                raise ValueError(
                    f"All {len(self.files)} files of records must exist. Received: no "
                    f"file {path}. Copy or convert them again."
                )

    def __len__(self) -> int:
        return int(self.counts.sum()) - len(self.bad)

    def describe(self, position: int) -> str:  # noqa: D102 (documented in Split)
        file = int(np.searchsorted(self._starts, position, "right")) - 1
        return f"record {position - self._starts[file]} of {self.files[file]}"

    def positions(self) -> np.ndarray:  # noqa: D102
        return np.delete(np.arange(self.counts.sum()), self.bad)

    def without(self, positions: np.ndarray) -> "Records":
        """Return the same split without the records at these positions."""
        bad = np.union1d(self.bad, positions)
        return Records(self.files, self.counts, self.shape, self.features, bad)

    def enumerate_references(  # noqa: D102
        self, skip_damaged: bool = False
    ) -> "tf.data.Dataset[Any]":
        import tensorflow as tf

        files = np.arange(len(self.files))
        if skip_damaged:
            # ignore_errors() would try a file that cannot be opened without end.
            files = files[[os.access(path, os.R_OK) for path in self.files]]

        def enumerate_records(file):
            records = self._all_records(file)
            if skip_damaged:
                # TensorFlow ends a file at its first damaged record, so the records
                # after it are lost too.
                records = records.ignore_errors()
            return records.enumerate(tf.gather(self._starts, file))

        return tf.data.Dataset.from_tensor_slices(files).interleave(
            enumerate_records,
            # Positions may come in any order where damage is looked for.
            cycle_length=CYCLE if skip_damaged else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def order(  # noqa: D102
        self, shuffling: Shuffling | None, epoch: "tf.Tensor"
    ) -> "tf.data.Dataset[Any]":
        import tensorflow as tf

        files = tf.range(len(self.files), dtype=tf.int64)
        if shuffling is None:
            return self._interleave(files, 1)
        seed = tf.stack([tf.cast(shuffling.seed, tf.int64), epoch])
        # Two independent seeds: one for the order of files, one for that of records.
        file_seed, record_seed = tf.unstack(tf.random.split(seed))
        files = tf.random.experimental.stateless_shuffle(files, file_seed)
        if not shuffling.within_shards:
            return self._interleave(files, 1)

        # tf.data's own shuffle() also depends on TensorFlow's global seed, and keeps a
        # state that a resumed run would not have. So shuffle block by block, each block
        # by a seed of its own.
        def shuffle_block(*numbered):
            number, block = numbered
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(block)), tf.random.fold_in(record_seed, number)
            )
            return tf.data.Dataset.from_tensor_slices(tf.gather(block, order))

        # The next block is read while this one is used.
        blocks = self._interleave(files, CYCLE).batch(BUFFER).prefetch(1)
        return blocks.enumerate().flat_map(shuffle_block)

    def read(  # noqa: D102
        self, reference: "tf.Tensor"
    ) -> "tuple[tf.Tensor, tf.Tensor]":
        import tensorflow as tf

        image, label = self.features
        example = tf.io.parse_single_example(
            reference,
            {
                image: tf.io.FixedLenFeature((), tf.string),
                label: tf.io.FixedLenFeature((), tf.int64),
            },
        )
        content = example[image]
        if None not in self.shape:
            content = pixels.decode(content, self.shape[-1])
            content = tf.ensure_shape(content, self.shape)
        return content, example[label]

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {len(self.files):,} files)"

    def _all_records(self, file):
        """Return the records of one file, those to leave out among them."""
        import tensorflow as tf

        return tf.data.TFRecordDataset(tf.gather(self.files, file))

    def _interleave(self, files, cycle):
        """Return the records of these files, reading `cycle` of them in turns."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(files).interleave(
            self._good_records,
            cycle,
            num_parallel_calls=tf.data.AUTOTUNE,
            # Bitwise resume: which file is faster must not change the order.
            deterministic=True,
        )

    def _good_records(self, file):
        """Return the records of one file that are not to be left out."""
        import tensorflow as tf

        records, count = self._all_records(file), tf.gather(self.counts, file)
        if self.bad.size:
            start = tf.gather(self._starts, file)
            is_in_file = (self.positions() >= start) & (
                self.positions() < start + count
            )
            good = tf.boolean_mask(self.positions(), is_in_file)
            count = tf.size(good, tf.int64)
            # Stop after the last good record: reading a damaged end would raise an
            # error. `start - 1` gives an empty file where every record is bad.
            last = tf.reduce_max(tf.concat([good, [start - 1]], 0))
            records = (
                records.take(last + 1 - start)
                .enumerate(start)
                .filter(lambda *pair: tf.reduce_all(pair[0] != self.bad))
                .map(lambda _, record: record)
            )
        # A file with fewer records than described must be an error, not a short epoch:
        # every later mini-batch would hold other examples.
        return records.apply(tf.data.experimental.assert_cardinality(count))


def records(
    directory: str | os.PathLike[str] | None, bad_files: BadFiles = "error"
) -> Data:
    """Read a data set that `convert` has written.

    Args:
        directory: The folder that `convert` has written.
        bad_files: As in `image_folder`.

    Returns:
        `Data` with images as they were converted.

    Raises:
        ValueError: If the description or a file of records is missing, or differs from
            what was written.

    Example:
    ```python
    import numpy as np
    from bn_keras import data

    images = np.zeros((12, 8, 8, 3), "uint8")
    split = data.Arrays(images, np.arange(12) % 3)
    data.convert(data.Data("black", split, split, ("a", "b", "c")), "black")
    assert len(data.records("black").train) == 12
    ```
    """
    directory = check_folder(directory)
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text())
        splits = []
        for shards in (description["splits"][name] for name in ("train", "test")):
            for name, shard in shards.items():
                size = (directory / name).stat().st_size
                if size != shard["bytes"]:
                    raise ValueError(
                        f"{name} has {size} bytes instead of {shard['bytes']}"
                    )
            _check_counts(shards.values(), description["class_names"])
            counts = [shard["examples"] for shard in shards.values()]
            files = [directory / name for name in shards]
            splits.append(Records(files, counts, description["shape"]))
        train, test = splits
        data_name, class_names = description["name"], tuple(description["class_names"])
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory} must hold {DESCRIPTION} and the files of records that it "
            f"lists, as bn-keras data convert writes them. Received: {error}. Copy or "
            "convert them again."
        ) from None
    return records_data(data_name, train, test, class_names, bad_files)


def _check_counts(shards, class_names):
    """Raise a `ValueError` if the numbers of examples contradict one another."""
    if not all(isinstance(name, str) for name in class_names):
        raise ValueError("class names that are not strings")
    for shard in shards:
        counts = shard["examples_per_class"]
        if sum(counts.values()) != shard["examples"]:
            raise ValueError(f"{shard['examples']} examples, but {counts} by class")
        if any(not 0 <= int(label) < len(class_names) for label in counts):
            raise ValueError(f"labels {list(counts)} for {len(class_names)} classes")
    if not sum(shard["examples"] for shard in shards):
        raise ValueError("a split without examples")


def records_data(
    name: str,
    train: Records,
    test: Records,
    class_names: tuple[str, ...],
    bad_files: BadFiles = "error",
) -> Data:
    """Return a data set of records.

    Args:
        name: The name of the data set.
        train: The training records.
        test: The test records.
        class_names: The name of each class.
        bad_files: As in `image_folder`.
    """
    check_bad_files(bad_files)
    skipped, splits = [], [train, test]
    if bad_files == "skip":
        for index, split in enumerate(splits):
            if (unreadable := find_unreadable(split)).size:
                skipped += map(split.describe, unreadable)
                splits[index] = split.without(unreadable)
    return Data(name, splits[0], splits[1], class_names, tuple(skipped))
