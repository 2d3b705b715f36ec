"""Images in sharded TFRecord files."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bn_keras.data.orders import Shuffling
from bn_keras.data.splits import Split
from bn_keras.images import pixels

if TYPE_CHECKING:
    import tensorflow as tf

# The names of TensorFlow's own image data sets.
IMAGE, LABEL, FILENAME = "image/encoded", "image/class/label", "image/filename"
# The largest number of files read at the same time, and the number of records that are
# shuffled. Twice as many records are in memory: half a gigabyte of ImageNet.
READERS, BUFFER = 16, 2048


class Records(Split):
    """Images in TFRecord files.

    A shuffled epoch puts the files in random order and divides them among up to
    `READERS` readers. Each reads its files in sequence and shuffles its records block
    by block, which keeps little in memory. A mini-batch has as many examples of one
    reader as of any other, so that each of several machines needs only some of the
    readers. Whoever writes the files must mix the classes, as `convert` does.

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
        # The position of each file's first record, and the number of good ones.
        self._starts = np.cumsum(self.counts) - self.counts
        bad_files = np.searchsorted(self._starts, self.bad, "right") - 1
        self._good_counts = self.counts - np.bincount(bad_files, None, len(self.counts))
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

    def fingerprint(self) -> str:  # noqa: D102
        facts = [
            [(Path(path).name, Path(path).stat().st_size) for path in self.files],
            self.counts.tolist(),
            self.bad.tolist(),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

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
            cycle_length=READERS if skip_damaged else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def order(  # noqa: D102
        self, shuffling: Shuffling | None, epoch: "tf.Tensor"
    ) -> "tf.data.Dataset[Any]":
        return self._read_section(shuffling, epoch, 0, len(self), BUFFER)

    def number_references(  # noqa: D102
        self,
        shuffling: Shuffling | None,
        batch_size: int,
        first_epoch: int,
        last_epoch: int,
        first_batch: int,
        part: tuple[int, int],
    ) -> "tf.data.Dataset[Any]":
        import tensorflow as tf

        readers, block = 1, 1
        if shuffling is not None and shuffling.within_shards:
            # Each reader has the same number of examples in a mini-batch. It does not
            # depend on the number of machines: neither do the mini-batches.
            counts = range(1, min(READERS, len(self.files)) + 1)
            readers = max(count for count in counts if batch_size % count == 0)
            block = -(-BUFFER // readers)
        share = batch_size // readers

        def count_before(reader, number):
            """Count the examples of the earlier readers before one of the stream."""
            rest = tf.minimum(number % batch_size, reader * share)
            return number // batch_size * reader * share + rest

        first_number = first_batch * batch_size
        epochs_skipped = first_number // len(self)

        def read_stream(reader):
            number = tf.constant(epochs_skipped * len(self), tf.int64)
            earlier = count_before(reader + 1, number) - count_before(reader, number)
            skipped = first_batch * share - earlier

            def read_epoch(epoch):
                number = (epoch - first_epoch) * len(self)
                start, stop = (
                    count_before(index, number + len(self))
                    - count_before(index, number)
                    for index in (reader, reader + 1)
                )
                if_first = tf.cast(epoch == first_epoch + epochs_skipped, tf.int64)
                # Whole blocks that were used are not read once more.
                start += if_first * (skipped // block * block)
                return self._read_section(shuffling, epoch, start, stop, block)

            epochs = tf.data.Dataset.range(first_epoch + epochs_skipped, last_epoch)
            records = epochs.flat_map(read_epoch).skip(skipped % block)
            return records.enumerate(first_batch * share).map(
                lambda index, record: (
                    index // share * batch_size + reader * share + index % share,
                    record,
                )
            )

        index, parts = part
        part_size = batch_size // parts
        needed = np.arange(
            index * part_size // share, -(-(index + 1) * part_size // share)
        )
        return tf.data.Dataset.from_tensor_slices(needed).interleave(
            read_stream,
            len(needed),
            share,
            num_parallel_calls=tf.data.AUTOTUNE,
            # Bitwise resume: which reader is faster must not change the order.
            deterministic=True,
        )

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

    def _read_section(self, shuffling, epoch, start, stop, block):
        """Return the records of an epoch between two positions, shuffled in blocks.

        Args:
            shuffling: A `Shuffling`, or `None`.
            epoch: The number of the epoch, an int64 scalar tensor.
            start: The first position in the sequence of the epoch's files.
            stop: The position at which the section ends.
            block: The number of records that are shuffled among one another.
        """
        import tensorflow as tf

        files = tf.range(len(self.files), dtype=tf.int64)
        if shuffling is None:
            return self._read_files(files, start, stop)
        seed = tf.stack([tf.cast(shuffling.seed, tf.int64), epoch])
        # Two independent seeds: one for the order of files, one for that of records.
        file_seed, record_seed = tf.unstack(tf.random.split(seed))
        files = tf.random.experimental.stateless_shuffle(files, file_seed)
        records = self._read_files(files, start, stop)
        if not shuffling.within_shards:
            return records

        # tf.data's own shuffle() also depends on TensorFlow's global seed, and keeps a
        # state that a resumed run would not have. So shuffle block by block, each block
        # by a seed of its own.
        def shuffle_block(*numbered):
            number, records = numbered
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(records)),
                tf.random.fold_in(record_seed, start + number * block),
            )
            return tf.data.Dataset.from_tensor_slices(tf.gather(records, order))

        # The next block is read while this one is used.
        return records.batch(block).prefetch(1).enumerate().flat_map(shuffle_block)

    def _read_files(self, files, start, stop):
        """Return the records of these files from one position to another."""
        import tensorflow as tf

        counts = tf.gather(self._good_counts, files)
        positions = tf.cumsum(counts, exclusive=True)
        first, last = (
            tf.clip_by_value(position - positions, 0, counts)
            for position in (start, stop)
        )
        # A file of which the last record is read is read to its end: more records than
        # described are an error.
        taken = tf.where(last == counts, np.int64(-1), last - first)

        def read_file(*facts):
            file, first, taken = facts
            return self._good_records(file).skip(first).take(taken)

        is_read = first < last
        facts = [tf.boolean_mask(values, is_read) for values in (files, first, taken)]
        return tf.data.Dataset.from_tensor_slices(tuple(facts)).flat_map(read_file)

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
