"""Write a data set as sharded TFRecord files.

Knows `tf.Example` and where its files go; not how they are read again.
"""

import json
from pathlib import Path

import numpy as np

from bn_keras.atomic_files import atomic_write
from bn_keras.data.arrays import Arrays
from bn_keras.data.bad_files import read_whole, unreadable_error
from bn_keras.data.folders import Files, check_bad_files
from bn_keras.data.shards import DESCRIPTION, FILENAME, IMAGE, LABEL, records
from bn_keras.data.splits import Data

# Examples in a shard, and shards, where nothing else is asked for; of ImageNet 1,024
# shards of 1,251 pictures.
EXAMPLES, MOST_SHARDS = 1024, 1024


def convert(
    data, directory, shards=None, seed=0, bad_files="error", progress=lambda done: None
):
    """Write a data set as TFRecord files, which are read much faster than many files.

    The examples of each split are put in a random order and cut into shards, so that
    each shard holds all classes. Files keep their bytes, pixels become PNG. Every
    picture is decoded once. The folder appears at the end, whole.

    Args:
        data: a `Data` of files or arrays.
        directory: where to write; nothing, or an empty folder.
        shards: of the training examples, the test examples have as many in proportion;
            None for one each 1,024 examples, at most 1,024.
        seed: of the order.
        bad_files: `"error"` stops at a file that cannot be read, `"skip"` leaves it
            out.
        progress: called with the number of examples done, of both splits.

    Returns:
        The `Data` that `records(directory)` reads; `skipped` names what was left out.

    Raises:
        ValueError: if the directory is not empty, `shards` is not from 1 to the number
            of training examples, a file cannot be read, or pixels would change.

    Example:
    ```python
    import numpy as np
    from bn_keras import data

    pixels = np.arange(12 * 8 * 8 * 3, dtype="uint8").reshape(12, 8, 8, 3)
    split = data.Arrays(pixels, np.arange(12) % 3)
    made = data.Data("made", split, split, ("a", "b", "c"))
    written = data.convert(made, "records", shards=4)
    assert len(written.train) == 12 and len(written.train.files) == 4
    ```
    """
    check_bad_files(bad_files)
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            "`directory` must not exist, or be an empty folder. "
            f"Received: directory={directory}; choose another, or remove it"
        )
    splits = {"train": data.train, "test": data.test}
    for split in splits.values():
        _check_convertible(split)
    if shards is None:
        shards = min(MOST_SHARDS, -(-len(data.train) // EXAMPLES))
    if not 1 <= shards <= len(data.train):
        raise ValueError(
            f"`shards` must be from 1 to {len(data.train)}, the number of training "
            f"examples. Received: shards={shards}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    done, skipped, described = 0, list(data.skipped), {}
    with atomic_write(directory) as temporary_path:
        temporary_path.mkdir()
        for name, split in splits.items():
            parts = -(-shards * len(split) // len(data.train))
            writer = _Writer(temporary_path, name, split, parts, seed)
            for count in writer.run(bad_files):
                progress(done + count)
            done += len(split)
            skipped += map(split.name, writer.bad)
            described[name] = writer.shards
            _check_classes(name, writer.shards.values(), data.class_names)
        description = {
            "name": data.name,
            "class_names": data.class_names,
            "shape": data.shape,
            "seed": seed,
            "skipped": skipped,
            "splits": described,
        }
        text = json.dumps(description, indent=1) + "\n"
        (temporary_path / DESCRIPTION).write_text(text)
    written = records(directory)
    return Data(
        data.name, written.train, written.test, written.class_names, tuple(skipped)
    )


def _check_classes(name, shards, class_names):
    """Refuse to lose a class with its bad files."""
    written = {label for shard in shards for label in shard["examples_per_class"]}
    if lost := [
        class_name
        for label, class_name in enumerate(class_names)
        if label not in written
    ]:
        raise ValueError(
            f"Every class must have {name} pictures that can be read. Received: none "
            f"for {', '.join(lost[:5])}; add pictures, or remove the class"
        )


def _check_convertible(split):
    if isinstance(split, Files):
        return
    if not isinstance(split, Arrays):
        raise ValueError(
            f"`data` must be of files or arrays. Received: {type(split).__name__}; "
            "records need no conversion"
        )
    images = split.images
    if images.dtype != np.uint8 and not np.array_equal(
        (np.rint(images * 255).astype("uint8") / np.float32(255)), images
    ):
        raise ValueError(
            "`data` must have pixels of 8 bits, or a PNG would change them. Received: "
            f"{images.dtype} between their steps; use the data set as it is"
        )


class _Writer:
    """The shards of one split, written one after the other."""

    def __init__(self, folder, name, split, parts, seed):
        self.folder, self.split = folder, split
        self.order = np.random.default_rng(seed).permutation(len(split))
        # Where each shard ends in that order.
        self.ends = np.linspace(0, len(split), parts + 1).round().astype(int)[1:]
        self.names = [f"{name}-{i:05}-of-{parts:05}.tfrecord" for i in range(parts)]
        self.shards, self.bad = {}, []

    def run(self, bad_files):
        """Write everything; yields how many examples have had their turn."""
        import tensorflow as tf

        contents = iter(self._contents().as_numpy_iterator())
        following = next(contents, None)
        start = 0
        for name, end in zip(self.names, self.ends.tolist(), strict=True):
            path, classes = self.folder / name, {}
            with tf.io.TFRecordWriter(str(path)) as file:
                for turn in range(start, end):
                    if following is None or following[0] != turn:
                        self.bad.append(self.order[turn])
                        if bad_files == "error":
                            raise unreadable_error(self.split, self.bad)
                    else:
                        _, content, label, _ = following
                        file.write(self._example(self.order[turn], content, label))
                        classes[int(label)] = classes.get(int(label), 0) + 1
                        following = next(contents, None)
                    yield turn + 1
            self.shards[name] = {
                "examples": sum(classes.values()),
                "bytes": path.stat().st_size,
                "examples_per_class": dict(sorted(classes.items())),
            }
            start = end

    def _contents(self):
        """Of each example that can be read: turn, bytes, label and a pixel."""
        import tensorflow as tf

        def content(turn, position):
            content, label, pixel = read_whole(self.split, position)
            if content.dtype.is_floating:
                content = tf.cast(tf.round(content * 255), tf.uint8)
            if content.dtype == tf.uint8:
                content = tf.io.encode_png(content)
            return turn, content, label, pixel

        return (
            tf.data.Dataset.from_tensor_slices(self.order.astype("int64"))
            .enumerate()
            .map(content, tf.data.AUTOTUNE, deterministic=True)
            .ignore_errors()
        )

    def _example(self, position, content, label):
        import tensorflow as tf

        def strings(value):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

        number = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)]))
        feature = {
            IMAGE: strings(content),
            LABEL: number,
            FILENAME: strings(self._filename(position)),
        }
        return tf.train.Example(
            features=tf.train.Features(feature=feature)
        ).SerializeToString()

    def _filename(self, position):
        if isinstance(self.split, Files):
            return b"/".join(self.split.paths[position].split(b"/")[-2:])
        return b"%d.png" % position
