"""Image files in one folder for each class."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.bad_files import (
    BadFiles,
    check_bad_files,
    find_unreadable,
    report_bad_files,
)
from bn_keras.data.splits import Data, Split
from bn_keras.images import pixels

if TYPE_CHECKING:
    import tensorflow as tf

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".bmp", b".gif")
TEST_FOLDERS = ("val", "validation", "test")
# Without a folder of test images, every tenth image of each class is a test image.
TEST_EVERY = 10
# More names than these are counted in an error, not listed.
_NAMES_SHOWN = 5


class Files(Split):
    """Image files, each of them read and decoded when it is needed.

    Args:
        paths: The path of each file, kept as bytes: a file name need not be UTF-8.
        labels: The label of each file, an index of the class names.
        shape: `(height, width, channels)`, with `None` for a side that varies.
    """

    def __init__(
        self,
        paths: Sequence[bytes | str | os.PathLike[str]] | np.ndarray,
        labels: Sequence[int] | np.ndarray,
        shape: tuple[int | None, int | None, int] = (None, None, 3),
    ) -> None:
        self.paths = np.array([os.fsencode(path) for path in paths], object)
        self.labels = np.array(labels, np.int64)
        self.shape = shape

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, position: int) -> str:  # noqa: D102 (documented in Split)
        return readable_name(self.paths[position])

    def without(self, positions: np.ndarray) -> "Files":
        """Return the same split without the files at these positions."""
        return Files(
            np.delete(self.paths, positions),
            np.delete(self.labels, positions),
            self.shape,
        )

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


def image_folder(
    directory: str | os.PathLike[str] | None, bad_files: BadFiles = "error"
) -> Data:
    """Read images (JPEG, PNG, BMP, GIF) from one folder for each class.

    The folder holds either `train/<class>/` and one of `val/<class>/`,
    `validation/<class>/` and `test/<class>/`, of which the first that exists is used;
    or `<class>/` alone. Then the first image of each class, the eleventh and so on,
    sorted by name, are the test images. Hidden files and other extensions are ignored.

    Args:
        directory: The folder.
        bad_files: `"error"` raises an error that names a file when it cannot be read.
            `"skip"` decodes all files now and leaves out those that cannot be read.

    Returns:
        `Data` with images of any size. The classes are sorted by name.

    Raises:
        ValueError: If there are no classes or no images, if a class is empty, or if
            training and validation have different classes.

    Example:
    ```python
    import pathlib, tempfile
    import numpy as np
    from PIL import Image
    from bn_keras import data

    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            for name in ("black", "white"):
                path = pathlib.Path(folder) / split / name
                path.mkdir(parents=True)
                Image.new("RGB", (8, 6), name).save(path / "plain.png")
        tones = data.image_folder(folder)
        images, labels = next(iter(tones.train.original_images().batch(2)))

    assert tones.class_names == ("black", "white")
    assert np.array(images).shape == (2, 6, 8, 3)
    ```
    """
    directory = check_folder(directory)
    return folder_data(directory.resolve().name, *list_splits(directory), bad_files)


def check_folder(directory: str | os.PathLike[str] | None) -> Path:
    """Return the folder as a path.

    Raises:
        ValueError: If it is not a folder that exists.
    """
    if directory is None or not Path(directory).is_dir():
        kind = "a file, " if directory and Path(directory).exists() else ""
        raise ValueError(
            f"`directory` must be a folder that exists. Received: {kind}{directory}. "
            "Give the folder of the data set (--data-dir)."
        )
    return Path(directory)


def list_splits(
    directory: Path,
) -> tuple[dict[bytes, list[bytes]], dict[bytes, list[bytes]]]:
    """Return the training and the test files, each a dict from class to paths.

    Raises:
        ValueError: As in `image_folder`.
    """
    train_folder = directory / "train"
    if train_folder.is_dir():
        for name in TEST_FOLDERS:
            if (directory / name).is_dir():
                return list_classes(train_folder), list_classes(directory / name)
        raise ValueError(
            f"`directory` must have a folder {', '.join(TEST_FOLDERS[:-1])} or "
            f"{TEST_FOLDERS[-1]} beside train. Received: {directory} without one. "
            "Put the test images into such a folder."
        )
    classes = list_classes(directory)
    for name, paths in classes.items():
        if len(paths) < 2:
            raise ValueError(
                "Each class must have at least 2 images, one for training and one for "
                f"testing. Received: {len(paths)} in {readable_name(name)} of "
                f"{directory}. Add images."
            )
    train, test = {}, {}
    for name, paths in classes.items():
        test[name] = paths[::TEST_EVERY]
        train[name] = [p for i, p in enumerate(paths) if i % TEST_EVERY]
    return train, test


def list_classes(folder: Path) -> dict[bytes, list[bytes]]:
    """List the images of each class.

    Args:
        folder: The folder that holds a folder for each class.

    Returns:
        A dict from the class to the paths of its images, all bytes, both sorted.

    Raises:
        ValueError: If there is no class folder, or one of them has no image.
    """
    names = sorted(
        entry.name
        for entry in os.scandir(os.fsencode(folder))
        if entry.is_dir() and not entry.name.startswith(b".")
    )
    if not names:
        raise ValueError(
            f"{folder} must have one folder of images for each class. Received: a "
            "folder without folders. Add them, or name another one (--data-dir)."
        )
    classes = {name: list_images(os.fsencode(folder) + b"/" + name) for name in names}
    empty = [readable_name(name) for name, paths in classes.items() if not paths]
    if empty:
        raise ValueError(
            f"Every class in {folder} must have images (.jpg, .jpeg, .png, .bmp or "
            f".gif files). Received: {_list_some(empty)} without images. Add images, "
            "or remove the folder."
        )
    return classes


def list_images(folder: bytes) -> list[bytes]:
    """Return the sorted paths of the images in a folder."""
    return sorted(
        entry.path
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(EXTENSIONS)
        and not entry.name.startswith(b".")
        and not entry.is_dir()
    )


def folder_data(
    name: str,
    train: Mapping[bytes, Sequence[bytes]],
    test: Mapping[bytes, Sequence[bytes]],
    bad_files: BadFiles = "error",
    class_names: Mapping[str, str] | None = None,
    shape: tuple[int | None, int | None, int] = (None, None, 3),
) -> Data:
    """Return a data set of image files.

    Args:
        name: The name of the data set.
        train: Dict from the class to the paths of its training images, all bytes.
        test: The same for the test images.
        bad_files: As in `image_folder`.
        class_names: Dict from the class to the name that users see. `None` keeps the
            names of the folders.
        shape: As in `Files`.

    Raises:
        ValueError: If training and test classes differ, or a class has no file that
            can be read.
    """
    check_bad_files(bad_files)
    for has, lacks, purpose in ((train, test, "validation"), (test, train, "training")):
        if missing := sorted(has.keys() - lacks.keys()):
            raise ValueError(
                "Training and validation must have the same classes. Received: "
                f"{_list_some(list(map(readable_name, missing)))} without {purpose} "
                "images. Add images, or remove the class."
            )
    classes = sorted(train)
    splits, skipped = [], []
    for listing in (train, test):
        labels = [i for i, key in enumerate(classes) for _ in listing[key]]
        split = Files([p for key in classes for p in listing[key]], labels, shape)
        if bad_files == "skip" and (unreadable := find_unreadable(split)).size:
            skipped += map(split.describe, unreadable)
            split = split.without(unreadable)
            for label in set(range(len(classes))).difference(split.labels.tolist()):
                raise ValueError(
                    "Every class must have images that can be read. Received: "
                    f"{readable_name(classes[label])}, all of whose files are damaged, "
                    f"among them {skipped[-1]}. Repair them, or remove the class."
                )
        splits.append(split)
    names = [readable_name(key) for key in classes]
    if class_names:
        names = [class_names.get(name, name) for name in names]
    return Data(name, splits[0], splits[1], tuple(names), tuple(skipped))


def readable_name(name: bytes) -> str:
    """Return the bytes of a file name as text that can be printed."""
    return name.decode("utf-8", "backslashreplace")


def _list_some(names: Sequence[str]) -> str:
    """Return the first names, and how many others there are."""
    others = len(names) - _NAMES_SHOWN
    listed = ", ".join(names[:_NAMES_SHOWN])
    return f"{listed} and {others} more" if others > 0 else listed
