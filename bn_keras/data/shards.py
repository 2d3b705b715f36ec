"""Pictures in sharded TFRecord files, as `convert` writes them.

Knows `tf.Example` and the description beside the shards; not how they are written.
"""

import json
import os
from pathlib import Path

import numpy as np

from bn_keras.data.bad_files import find_unreadable
from bn_keras.data.folders import check_bad_files, check_folder
from bn_keras.data.splits import Data, Split
from bn_keras.images import pixels

DESCRIPTION = "dataset.json"
# Names as in TensorFlow's image data sets.
IMAGE, LABEL, FILENAME = "image/encoded", "image/class/label", "image/filename"
# Files read at the same time, and records that change places among one another; two
# times as many are in memory, of ImageNet half a gigabyte.
CYCLE, BUFFER = 16, 2048


class Records(Split):
    """Pictures in TFRecord files.

    Shuffled, an epoch reads the files in random order, `CYCLE` of them in turns, and
    mixes each `BUFFER` records. So much is read in sequence and nearly nothing kept;
    that neighbours come from all classes is up to who wrote the files.

    Args:
        files: paths.
        counts: of each file, the number of its records.
        shape: `(height, width, channels)`; sides are None where they vary.
        features: names of the picture's file and of the label in each `tf.Example`.
        bad: positions of records to leave out, counted over all files.
    """

    def __init__(self, files, counts, shape, features=(IMAGE, LABEL), bad=()):
        self.files = [str(path) for path in files]
        self.counts = np.array(counts, np.int64)
        self.shape = tuple(shape)
        self.features = features
        self.bad = np.array(bad, np.int64)
        # The position of each file's first record.
        self._starts = np.cumsum(self.counts) - self.counts
        for path in self.files:
            if not Path(path).is_file():
                raise ValueError(
                    f"Expected {len(self.files)} files of records. Received: no file "
                    f"{path}; copy or convert them again"
                )

    def __len__(self):
        return int(self.counts.sum()) - len(self.bad)

    def name(self, position):  # noqa: D102 (as Split has it)
        file = int(np.searchsorted(self._starts, position, "right")) - 1
        return f"record {position - self._starts[file]} of {self.files[file]}"

    def positions(self):  # noqa: D102
        return np.delete(np.arange(self.counts.sum()), self.bad)

    def without(self, positions):
        """The same split, the records at those positions left out."""
        bad = np.union1d(self.bad, positions)
        return Records(self.files, self.counts, self.shape, self.features, bad)

    def numbered(self, past_damage=False):  # noqa: D102
        import tensorflow as tf

        files = np.arange(len(self.files))
        if past_damage:
            # A file that cannot be opened would fail without end.
            there = [os.access(path, os.R_OK) for path in self.files]
            files = files[there]

        def numbered_records(file):
            records = self._records(file)
            if past_damage:
                records = records.ignore_errors()
            return records.enumerate(tf.gather(self._starts, file))

        return tf.data.Dataset.from_tensor_slices(files).interleave(
            numbered_records,
            cycle_length=CYCLE if past_damage else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def order(self, shuffling, epoch):  # noqa: D102
        import tensorflow as tf

        files = tf.range(len(self.files), dtype=tf.int64)
        if shuffling is None:
            return self._in_turns(files, 1)
        seed = tf.stack([tf.cast(shuffling.seed, tf.int64), epoch])
        seeds = tf.unstack(tf.random.split(seed))
        files = tf.random.experimental.stateless_shuffle(files, seeds[0])
        if not shuffling.within_shards:
            return self._in_turns(files, 1)

        # Not tf.data's shuffle(), whose order depends on TensorFlow's global seed too.
        def mix(*numbered):
            number, block = numbered
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(block)), tf.random.fold_in(seeds[1], number)
            )
            return tf.data.Dataset.from_tensor_slices(tf.gather(block, order))

        blocks = self._in_turns(files, CYCLE).batch(BUFFER).prefetch(1)
        return blocks.enumerate().flat_map(mix)

    def read(self, reference):  # noqa: D102
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

    def _records(self, file):
        import tensorflow as tf

        return tf.data.TFRecordDataset(tf.gather(self.files, file))

    def _in_turns(self, files, cycle):
        """The records of these files, of so many of them in turns."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(files).interleave(
            self._wanted, cycle, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def _wanted(self, file):
        """The records of one file that are not to be left out."""
        import tensorflow as tf

        records, count = self._records(file), tf.gather(self.counts, file)
        if self.bad.size:
            first = tf.gather(self._starts, file)
            inside = (self.positions() >= first) & (self.positions() < first + count)
            wanted = tf.boolean_mask(self.positions(), inside)
            count = tf.size(wanted, tf.int64)
            # A damaged end is not even read.
            last = tf.reduce_max(tf.concat([wanted, [first - 1]], 0))
            records = (
                records.take(last + 1 - first)
                .enumerate(first)
                .filter(lambda *pair: tf.reduce_all(pair[0] != self.bad))
                .map(lambda _, record: record)
            )
        return records.apply(tf.data.experimental.assert_cardinality(count))


def records(directory, bad_files="error"):
    """A data set that `convert` wrote.

    Args:
        directory: its folder.
        bad_files: as in `image_folder`.

    Returns:
        `Data` with pictures as they were converted.

    Raises:
        ValueError: for a description or a file of records that is missing or not as
            it was written.
    """
    directory = check_folder(directory)
    path = directory / DESCRIPTION
    try:
        described = json.loads(path.read_text())
        splits = []
        for split in (described["splits"][name] for name in ("train", "test")):
            for name, shard in split.items():
                size = (directory / name).stat().st_size
                if size != shard["bytes"]:
                    raise ValueError(f"{name} of {size} bytes, not {shard['bytes']}")
            _check_counts(split.values(), described["class_names"])
            counts = [shard["examples"] for shard in split.values()]
            files = [directory / name for name in split]
            splits.append(Records(files, counts, described["shape"]))
        train, test = splits
        _height, _width, _channels = described["shape"]
        name, names = described["name"], tuple(described["class_names"])
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory} must hold {DESCRIPTION} and the files of records that it "
            f"names, as bn-keras data convert writes them. Received: {error}; copy or "
            "convert them again"
        ) from None
    return records_data(name, train, test, names, bad_files)


def _check_counts(shards, class_names):
    """Refuse numbers of examples that contradict one another."""
    if not all(isinstance(name, str) for name in class_names):
        raise ValueError("class names that are no texts")
    for shard in shards:
        counts = shard["examples_per_class"]
        if sum(counts.values()) != shard["examples"]:
            raise ValueError(f"{shard['examples']} examples of classes {counts}")
        if any(not 0 <= int(label) < len(class_names) for label in counts):
            raise ValueError(f"classes {counts} of {len(class_names)} names")
    if not sum(shard["examples"] for shard in shards):
        raise ValueError("a split without examples")


def records_data(name, train, test, class_names, bad_files="error"):
    """A data set of records, without those that cannot be read where that is asked.

    Args:
        name: of the data set.
        train: `Records`.
        test: `Records`.
        class_names: a tuple.
        bad_files: as in `image_folder`.
    """
    check_bad_files(bad_files)
    skipped, splits = [], [train, test]
    if bad_files == "skip":
        for index, split in enumerate(splits):
            if (bad := find_unreadable(split)).size:
                skipped += map(split.name, bad)
                splits[index] = split.without(bad)
    return Data(name, splits[0], splits[1], class_names, tuple(skipped))
