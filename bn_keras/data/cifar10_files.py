"""The CIFAR-10 photographs, downloaded through Keras or read from a folder."""

import os
import pickle
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.bad_files import BadFiles
from bn_keras.data.data_set import Data
from bn_keras.data.folders import check_folder, describe_ignored, folder_data
from bn_keras.data.layouts import find_layout

CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SHAPE = (32, 32, 3)
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def cifar10(
    directory: str | os.PathLike[str] | None = None, bad_files: BadFiles = "error"
) -> Data:
    """Read CIFAR-10: 50,000 training and 10,000 test photographs of 32x32 pixels.

    Args:
        directory: The original folder `cifar-10-batches-py`, its parent, or a folder
            of images as for `image_folder`. `None` downloads through Keras.
        bad_files: As in `image_folder`.

    Returns:
        `Data` with uint8 images `(examples, 32, 32, 3)` in memory.

    Raises:
        ValueError: If a file is missing or damaged, or an image has another size.

    Reference:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    if directory is None:
        try:
            pairs = keras.datasets.cifar10.load_data()
        except Exception as error:  # Keras raises a bare Exception among others
            raise ValueError(
                f"Cannot download CIFAR-10: {error}. Give the folder of its files "
                "(--data-dir)."
            ) from error
        return _arrays_data(pairs)
    directory = check_folder(directory)
    for folder in (directory, directory / "cifar-10-batches-py"):
        if (folder / TRAIN_BATCHES[0]).is_file():
            train = [_read_batch(folder / name) for name in TRAIN_BATCHES]
            images, labels = map(np.concatenate, zip(*train, strict=True))
            return _arrays_data([(images, labels), _read_batch(folder / "test_batch")])
    try:
        layout = find_layout(directory)
    except ValueError as error:
        raise ValueError(
            "`directory` must hold the batches of cifar-10-batches-py, or a folder of "
            f"images for each class in train/ and test/. Received: {directory}. Name "
            f"another folder (--data-dir). {error}"
        ) from error
    files = folder_data(
        "cifar10",
        layout.train,
        layout.test,
        bad_files,
        shape=SHAPE,
        validation=layout.validation,
        root=layout.root,
        notes=(*layout.notes, *describe_ignored(layout.ignored)),
    )
    if len(files.class_names) != len(CLASS_NAMES):
        raise ValueError(
            f"CIFAR-10 must have {len(CLASS_NAMES)} classes. Received: "
            f"{len(files.class_names)} folders in {directory}. Load other images as "
            "image_folder (--data)."
        )
    splits = {
        name: split.load_arrays()
        for name in ("train", "test", "validation")
        if (split := getattr(files, name)) is not None
    }
    return replace(files, **splits)


def _arrays_data(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Data:
    train, test = (
        Arrays(images, labels.ravel().astype("int64")) for images, labels in pairs
    )
    return Data("cifar10", train, test, CLASS_NAMES)


def _read_batch(path):
    """Read an original file: a pickled dict of pixels and labels."""
    try:
        with Path(path).open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
        images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[b"labels"], np.int64)
        if len(images) != len(labels) or labels.min() < 0 or labels.max() > 9:
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"Cannot read {path}, which must be a file of the original "
            f"cifar-10-batches-py. Received: {error}. Download it again."
        ) from None
    # The file has all red values of an image, then all green ones, then all blue ones.
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels


class _Unpickler(pickle.Unpickler):
    """Unpickles arrays and nothing else, as any other class could run code."""

    _ARRAYS = frozenset({"_reconstruct", "ndarray", "dtype", "_frombuffer", "encode"})

    def find_class(self, module, name):
        if module.split(".")[0] in ("numpy", "_codecs") and name in self._ARRAYS:
            return super().find_class(module, name)
        raise ValueError(f"a pickle of {module}.{name}")
