"""Picture files in one folder for each class.

Knows names of files and folders; pixels only through `pictures`.
"""

import os
from functools import cached_property
from pathlib import Path

import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.bad_files import find_unreadable, reading
from bn_keras.data.orders import permutation
from bn_keras.data.splits import Data, Split
from bn_keras.images import pixels

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".bmp", b".gif")
TEST_FOLDERS = ("val", "validation", "test")
# Without folders of their own, of each class every tenth picture is a test picture.
TEST_SHARE = 10
BAD_FILES = ("error", "skip")


class Files(Split):
    """Pictures in files, read and decoded when their turn comes.

    Args:
        paths: of each file, bytes, as names of files need not be UTF-8.
        labels: of each file, an index of the class names.
        shape: `(height, width, channels)` if all must have it.
    """

    def __init__(self, paths, labels, shape=(None, None, 3)):
        self.paths = np.array(paths, object)
        self.labels = np.array(labels, np.int64)
        self.shape = shape

    def __len__(self):
        return len(self.paths)

    def name(self, position):  # noqa: D102 (as Split has it)
        return readable_name(self.paths[position])

    def without(self, positions):
        """The same split, the files at those positions left out."""
        return Files(
            np.delete(self.paths, positions),
            np.delete(self.labels, positions),
            self.shape,
        )

    @cached_property
    def _tensors(self):
        import tensorflow as tf

        with tf.init_scope(), tf.device("cpu"):
            return tf.constant(self.paths), tf.constant(self.labels)

    def order(self, shuffling, epoch):  # noqa: D102
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(
            permutation(len(self), shuffling, epoch)
        )

    def read(self, reference):  # noqa: D102
        import tensorflow as tf

        paths, labels = self._tensors
        content = tf.io.read_file(paths[reference])
        if None not in self.shape:
            content = pixels.decode(content, self.shape[-1])
            content = tf.ensure_shape(content, self.shape)
        return content, labels[reference]

    def loaded(self):
        """The same pictures, which must have one size, as uint8 `Arrays`."""
        import tensorflow as tf

        references = self.order(None, tf.constant(0, tf.int64))
        contents = references.map(lambda index: self.read(index)[0], tf.data.AUTOTUNE)
        with reading(self):
            images = np.concatenate(list(contents.batch(1024).as_numpy_iterator()))
        return Arrays(images, self.labels)


def image_folder(directory, bad_files="error"):
    """Pictures (JPEG, PNG, BMP, GIF) in one folder for each class.

    Either `train/<class>/` and one of `val/<class>/`, `validation/<class>/` and
    `test/<class>/`, the first of them that is there; or `<class>/` alone: then the
    first picture of each class, the eleventh and so on, sorted by name, are the test
    pictures. Hidden files and other extensions are passed over.

    Args:
        directory: the folder.
        bad_files: `"error"` names a file that cannot be read when its turn comes;
            `"skip"` decodes all of them now and leaves such files out.

    Returns:
        `Data` with pictures of any size; classes are sorted by name.

    Raises:
        ValueError: if there are no classes, no pictures, an empty class, or other
            classes in training than in validation.

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
        images, labels = next(iter(tones.train.pictures().batch(2)))

    assert tones.class_names == ("black", "white")
    assert np.array(images).shape == (2, 6, 8, 3)
    ```
    """
    directory = check_folder(directory)
    return folder_data(directory.resolve().name, *list_splits(directory), bad_files)


def check_folder(directory):
    """The folder as a path.

    Raises:
        ValueError: if it is none.
    """
    if directory is None or not Path(directory).is_dir():
        found = "a file, " if directory and Path(directory).exists() else ""
        raise ValueError(
            "`directory` must be a folder that exists (--data-dir). "
            f"Received: {found}{directory}"
        )
    return Path(directory)


def list_splits(directory):
    """Training and test files, each a dict from class to paths, as `image_folder` has.

    Raises:
        ValueError: as `image_folder` has it.
    """
    train = directory / "train"
    if train.is_dir():
        for name in TEST_FOLDERS:
            if (directory / name).is_dir():
                return list_classes(train), list_classes(directory / name)
        raise ValueError(
            f"Expected one of {', '.join(TEST_FOLDERS)} beside train. "
            f"Received: {directory}; give the test pictures a folder"
        )
    classes = list_classes(directory)
    for name, paths in classes.items():
        if len(paths) < 2:
            raise ValueError(
                "Each class must have 2 pictures or more, to train on and to test on. "
                f"Received: {len(paths)} in {readable_name(name)} of {directory}"
            )
    train, test = {}, {}
    for name, paths in classes.items():
        test[name] = paths[::TEST_SHARE]
        train[name] = [p for i, p in enumerate(paths) if i % TEST_SHARE]
    return train, test


def list_classes(folder):
    """The pictures of each class folder.

    Args:
        folder: path of the folder that holds them.

    Returns:
        A dict from name to paths, all bytes, both sorted.

    Raises:
        ValueError: if there are no class folders, or no picture in one of them.
    """
    names = sorted(
        entry.name
        for entry in os.scandir(os.fsencode(folder))
        if entry.is_dir() and not entry.name.startswith(b".")
    )
    if not names:
        raise ValueError(
            f"{folder} must hold one folder of pictures for each class. "
            "Received: a folder without folders"
        )
    classes = {name: list_pictures(os.fsencode(folder) + b"/" + name) for name in names}
    empty = [readable_name(name) for name, paths in classes.items() if not paths]
    if empty:
        raise ValueError(
            f"Every class in {folder} must have pictures (.jpg, .jpeg, .png, .bmp or "
            f".gif files). Received: none in {_some(empty)}; add pictures, or remove "
            "the folder"
        )
    return classes


def list_pictures(folder: bytes):
    """Paths of the pictures that lie in a folder, bytes, sorted."""
    return sorted(
        entry.path
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(EXTENSIONS)
        and not entry.name.startswith(b".")
        and not entry.is_dir()
    )


def folder_data(
    name, train, test, bad_files="error", class_names=None, shape=(None, None, 3)
):
    """A data set of files.

    Args:
        name: of the data set.
        train: dict from class to paths, all bytes.
        test: the same.
        bad_files: as in `image_folder`.
        class_names: dict from class to the name that users see; None for its own.
        shape: as in `Files`.

    Raises:
        ValueError: if training and test classes differ, or a class has no file that
            can be read.
    """
    check_bad_files(bad_files)
    for has, lacks, purpose in ((train, test, "validation"), (test, train, "training")):
        if missing := sorted(has.keys() - lacks.keys()):
            raise ValueError(
                "Training and validation must have the same classes. Received: no "
                f"{purpose} pictures for {_some(list(map(readable_name, missing)))}"
            )
    classes = sorted(train)
    splits, skipped = [], []
    for listing in (train, test):
        labels = [i for i, key in enumerate(classes) for _ in listing[key]]
        split = Files([p for key in classes for p in listing[key]], labels, shape)
        if bad_files == "skip" and (bad := find_unreadable(split)).size:
            skipped += map(split.name, bad)
            split = split.without(bad)
            for gone in set(range(len(classes))).difference(split.labels.tolist()):
                raise ValueError(
                    "Every class must have pictures that can be read. Received: "
                    f"{readable_name(classes[gone])}, all of whose files are damaged, "
                    f"among them {skipped[-1]}"
                )
        splits.append(split)
    names = [readable_name(key) for key in classes]
    if class_names:
        names = [class_names.get(name, name) for name in names]
    return Data(name, splits[0], splits[1], tuple(names), tuple(skipped))


def check_bad_files(bad_files):
    """Raise a `ValueError` for what is none of `BAD_FILES`."""
    if bad_files not in BAD_FILES:
        raise ValueError(
            f"`bad_files` must be one of {', '.join(BAD_FILES)}. "
            f"Received: bad_files={bad_files!r}"
        )


def readable_name(name):
    """The name of a file, bytes, as text that can be printed."""
    return name.decode("utf-8", "backslashreplace")


def _some(names):
    """The first five."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
