"""The CIFAR-10 photographs, downloaded through Keras or read from a folder.

Knows the original batches; no model and no training.
"""

import pickle
from pathlib import Path

import keras
import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.folders import check_folder, folder_data, list_splits
from bn_keras.data.splits import Data

CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SHAPE = (32, 32, 3)
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def cifar10(directory=None, bad_files="error"):
    """The CIFAR-10 photographs: 50,000 to train on, 10,000 to test on, 32x32 pixels.

    Args:
        directory: the original folder `cifar-10-batches-py` or the one around it, or a
            folder of pictures as `image_folder` takes it; None downloads through Keras.
        bad_files: as in `image_folder`.

    Returns:
        `Data` with uint8 images `(examples, 32, 32, 3)` in memory.

    Raises:
        ValueError: for a missing or damaged file, or a picture of another size.

    Reference:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    if directory is None:
        try:
            pairs = keras.datasets.cifar10.load_data()
        except Exception as error:  # Keras raises a plain one, and others below it
            raise ValueError(
                f"Cannot download CIFAR-10: {error}; give the folder of its files "
                "(--data-dir)"
            ) from error
        return _data(pairs)
    directory = check_folder(directory)
    for folder in (directory, directory / "cifar-10-batches-py"):
        if (folder / TRAIN_BATCHES[0]).is_file():
            train = [_read_batch(folder / name) for name in TRAIN_BATCHES]
            images, labels = map(np.concatenate, zip(*train, strict=True))
            return _data([(images, labels), _read_batch(folder / "test_batch")])
    try:
        splits = list_splits(directory)
    except ValueError as error:
        raise ValueError(
            "CIFAR-10 must be the batches of cifar-10-batches-py, or a folder of "
            "pictures for each class in train/ and test/; name another folder "
            f"(--data-dir). Received: {directory}. {error}"
        ) from error
    listed = folder_data("cifar10", *splits, bad_files, shape=SHAPE)
    if len(listed.class_names) != len(CLASS_NAMES):
        raise ValueError(
            f"CIFAR-10 has {len(CLASS_NAMES)} classes. Received: "
            f"{len(listed.class_names)} folders in {directory}; load other pictures as "
            "image_folder"
        )
    return Data(
        "cifar10",
        listed.train.loaded(),
        listed.test.loaded(),
        listed.class_names,
        listed.skipped,
    )


def _data(pairs):
    train, test = (
        Arrays(images, labels.ravel().astype("int64")) for images, labels in pairs
    )
    return Data("cifar10", train, test, CLASS_NAMES)


def _read_batch(path):
    """One original file: a pickled dict of pixels, red before green, and labels."""
    try:
        with Path(path).open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
        images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[b"labels"], np.int64)
        if len(images) != len(labels) or labels.min() < 0 or labels.max() > 9:
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"Cannot read {path}: {error}. Expected a file of the original "
            "cifar-10-batches-py; download it again"
        ) from None
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels


class _Unpickler(pickle.Unpickler):
    """Makes arrays and nothing else: a pickle may otherwise run any code."""

    _ARRAYS = frozenset({"_reconstruct", "ndarray", "dtype", "_frombuffer", "encode"})

    def find_class(self, module, name):
        if module.split(".")[0] in ("numpy", "_codecs") and name in self._ARRAYS:
            return super().find_class(module, name)
        raise ValueError(f"it holds {module}.{name}")
