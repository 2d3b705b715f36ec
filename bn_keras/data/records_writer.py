"""Write a data set as sharded TFRecord files."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bn_keras.atomic_files import atomic_write
from bn_keras.data.arrays import Arrays
from bn_keras.data.bad_files import (
    BadFiles,
    check_bad_files,
    read_and_decode,
    unreadable_error,
)
from bn_keras.data.data_set import Data
from bn_keras.data.files import Files
from bn_keras.data.records_reader import DESCRIPTION, records
from bn_keras.data.shards import FILENAME, IMAGE, LABEL
from bn_keras.data.splits import Split

# By default, a shard for every so many training examples, and at most so many shards.
# ImageNet becomes 1,024 shards of 1,251 images.
EXAMPLES, MAX_SHARDS = 1024, 1024


def convert(
    data: Data,
    directory: str | os.PathLike[str],
    shards: int | None = None,
    seed: int = 0,
    bad_files: BadFiles = "error",
    progress: Callable[[int], object] = lambda done: None,
) -> Data:
    """Write a data set as TFRecord files.

    Over a network file system, few large files that are read in sequence are faster
    than many small ones. On a local disk they are not: on one machine, records gave 777
    images a second and the same image files 1,001.

    The examples of each split are shuffled once and cut into shards, so that each shard
    holds all classes. Image files are stored unchanged; arrays are stored as PNG files.
    Every image is decoded once to check it. The folder is created when the conversion
    is complete.

    Args:
        data: A `Data` of `Files` or `Arrays`.
        directory: The folder to write. It must not exist, or be empty.
        shards: The number of shards of the training examples. The test examples get as
            many in proportion. `None` is one for every 1,024 examples, at most 1,024.
        seed: The seed of the order.
        bad_files: `"error"` stops at a file that cannot be read, `"skip"` leaves it
            out.
        progress: Called with the number of examples done so far, of all splits.

    Returns:
        The `Data` that `records(directory)` reads. Its `skipped` lists the files that
        were left out.

    Raises:
        ValueError: If the directory is not empty, `shards` is not from 1 to the number
            of training examples, a file cannot be read, or a PNG file would change the
            pixels.

    Example:
    ```python
    import numpy as np
    from bn_keras import data

    pixels = np.arange(12 * 8 * 8 * 3, dtype="uint8").reshape(12, 8, 8, 3)
    split = data.Arrays(pixels, np.arange(12) % 3)
    ramps = data.Data("ramps", split, split, ("a", "b", "c"))
    ramps_in_records = data.convert(ramps, "ramps", shards=4)
    assert len(ramps_in_records.train) == 12
    assert len(ramps_in_records.train.files) == 4
    ```
    """
    check_bad_files(bad_files)
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            "`directory` must not exist, or be an empty folder. "
            f"Received: directory={directory}. Name another one, or remove it."
        )
    splits = {"train": data.train, "test": data.test}
    if data.validation is not None:
        splits["validation"] = data.validation
    for split in splits.values():
        _check_convertible(split)
    if shards is None:
        shards = min(MAX_SHARDS, -(-len(data.train) // EXAMPLES))
    if not 1 <= shards <= len(data.train):
        raise ValueError(
            f"`shards` must be from 1 to {len(data.train)}, the number of training "
            f"examples. Received: shards={shards}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    done, skipped, shards_of_splits = 0, list(data.skipped), {}
    with atomic_write(directory) as temporary_path:
        temporary_path.mkdir()
        for name, split in splits.items():
            split_shards = -(-shards * len(split) // len(data.train))
            writer = _Writer(temporary_path, name, split, split_shards, seed)
            for count in writer.run(bad_files):
                progress(done + count)
            done += len(split)
            skipped += map(split.describe, writer.unreadable)
            shards_of_splits[name] = writer.shards
            _check_classes(name, writer.shards.values(), data.class_names)
        description = {
            "name": data.name,
            "class_names": data.class_names,
            "shape": data.shape,
            "seed": seed,
            "skipped": skipped,
            "splits": shards_of_splits,
        }
        text = json.dumps(description, indent=1) + "\n"
        (temporary_path / DESCRIPTION).write_text(text)
    written = records(directory)
    return replace(written, skipped=tuple(skipped), notes=data.notes)


def _check_classes(name, shards, class_names):
    """Raise a `ValueError` if all files of a class were left out."""
    labels = {label for shard in shards for label in shard["examples_per_class"]}
    if lost := [
        class_name
        for label, class_name in enumerate(class_names)
        if label not in labels
    ]:
        raise ValueError(
            f"Every class must have {name} images that can be read. Received: none for "
            f"{', '.join(lost[:5])}. Add images, or remove the class."
        )


def _check_convertible(split):
    if isinstance(split, Files):
        return
    if not isinstance(split, Arrays):
        raise ValueError(
            "`data` must have splits of Files or Arrays. Received: "
            f"{type(split).__name__}. Records need no conversion."
        )
    images = split.images
    if images.dtype != np.uint8 and not np.array_equal(
        (np.rint(images * 255).astype("uint8") / np.float32(255)), images
    ):
        raise ValueError(
            "`data` must have pixels of 8 bits, which a PNG file can hold exactly. "
            f"Received: {images.dtype} values that are not multiples of 1/255. Use the "
            "data set as it is."
        )


class _Writer:
    """Writes the shards of one split, one after the other."""

    def __init__(
        self, folder: Path, name: str, split: Split, shards: int, seed: int
    ) -> None:
        self.folder, self.split = folder, split
        self.order = np.random.default_rng(seed).permutation(len(split))
        # The index in that order at which each shard ends.
        self.ends = np.linspace(0, len(split), shards + 1).round().astype(int)[1:]
        self.names = [f"{name}-{i:05}-of-{shards:05}.tfrecord" for i in range(shards)]
        # What the description says of each shard, and the positions of bad examples.
        self.shards, self.unreadable = {}, []

    def run(self, bad_files: BadFiles) -> Iterator[int]:
        """Write everything, and yield the number of examples done after each one."""
        import tensorflow as tf

        contents = iter(self._contents().as_numpy_iterator())
        content = next(contents, None)
        start = 0
        for name, end in zip(self.names, self.ends.tolist(), strict=True):
            path, class_counts = self.folder / name, {}
            with tf.io.TFRecordWriter(str(path)) as file:
                for index in range(start, end):
                    # An unreadable example is missing from the stream: the next one
                    # that arrives has a larger index.
                    if content is None or content[0] != index:
                        self.unreadable.append(self.order[index])
                        if bad_files == "error":
                            raise unreadable_error(
                                self.split, np.array(self.unreadable)
                            )
                    else:
                        _, image, label, _ = content
                        file.write(self._example(self.order[index], image, label))
                        label = int(label)
                        class_counts[label] = class_counts.get(label, 0) + 1
                        content = next(contents, None)
                    yield index + 1
            self.shards[name] = {
                "examples": sum(class_counts.values()),
                "bytes": path.stat().st_size,
                "examples_per_class": dict(sorted(class_counts.items())),
            }
            start = end

    def _contents(self):
        """Return index, file content, label and a pixel of each readable example."""
        import tensorflow as tf

        def read(index, position):
            content, label, pixel = read_and_decode(self.split, position)
            if content.dtype.is_floating:
                content = tf.cast(tf.round(content * 255), tf.uint8)
            if content.dtype == tf.uint8:
                content = tf.io.encode_png(content)
            # The pixel is returned only so that TensorFlow does decode the image.
            return index, content, label, pixel

        return (
            tf.data.Dataset.from_tensor_slices(self.order.astype("int64"))
            .enumerate()
            .map(read, tf.data.AUTOTUNE, deterministic=True)
            .ignore_errors()
        )

    def _example(self, position, content, label):
        import tensorflow as tf

        def bytes_feature(value):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

        label = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)]))
        feature = {
            IMAGE: bytes_feature(content),
            LABEL: label,
            FILENAME: bytes_feature(self._filename(position)),
        }
        return tf.train.Example(
            features=tf.train.Features(feature=feature)
        ).SerializeToString()

    def _filename(self, position):
        if isinstance(self.split, Files):
            # The class folder and the file.
            return b"/".join(self.split.paths[position].split(b"/")[-2:])
        return b"%d.png" % position
