"""Image data sets, split into training and test examples.

Knows where examples come from; no model and no training.
"""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np


class Split(NamedTuple):
    """Examples of one purpose.

    Args:
        images: float32 `(examples, height, width, channels)` in [0, 1].
        labels: int64 `(examples,)`, indices of the class names.
    """

    images: np.ndarray
    labels: np.ndarray

    def batches(self, batch_size, seed=None):
        """The examples as a `tf.data.Dataset` of `(images, labels)` mini-batches.

        Args:
            batch_size: examples a mini-batch; the last one may be smaller.
            seed: None keeps the order; an int shuffles, anew at each iteration.

        Returns:
            A `tf.data.Dataset`.
        """
        import tensorflow as tf

        dataset = tf.data.Dataset.from_tensor_slices(tuple(self))
        if seed is not None:
            dataset = dataset.shuffle(len(self.labels), seed=seed)
        return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


@dataclass(frozen=True)
class Data:
    """A data set: its name, its two splits, its class names."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def input_shape(self):
        """Shape of one image, `(height, width, channels)`."""
        return self.train.images.shape[1:]


DIGIT_NAMES = tuple("0123456789")


def digits():
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

    Always the same split: each fifth example is a test example (360), the others are
    training examples (1,437).

    Returns:
        `Data` with images `(examples, 8, 8, 1)`.

    Example:
    ```python
    from bn_keras import data

    digits = data.digits()
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    ```

    Reference:
        Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits".
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = (bundle.images[..., np.newaxis] / 16).astype("float32")
    labels = bundle.target.astype("int64")
    test = np.arange(len(labels)) % 5 == 0
    return Data(
        "digits",
        Split(images[~test], labels[~test]),
        Split(images[test], labels[test]),
        DIGIT_NAMES,
    )


def mnist(directory=None, binary=False):
    """The MNIST digits: 60,000 training and 10,000 test images of 28x28 pixels.

    Args:
        directory: folder of the four original IDX files, gzipped or not; None downloads
            them through Keras.
        binary: round the pixels to 0 and 1, as section 4.1 of the paper has them.

    Returns:
        `Data` with images `(examples, 28, 28, 1)`.

    Raises:
        ValueError: for a missing, unreadable, truncated or foreign file.

    Reference:
        LeCun, Cortes & Burges, "The MNIST database of handwritten digits".
    """
    if directory is None:
        try:
            pairs = keras.datasets.mnist.load_data()
        except Exception as error:  # Keras raises a plain one, and others below it
            raise ValueError(
                f"Cannot download MNIST: {error}; give the folder of its four files "
                "(--data-dir)"
            ) from error
    else:
        pairs = [
            (
                _read_idx(Path(directory) / f"{name}-images-idx3-ubyte", rank=3),
                _read_idx(Path(directory) / f"{name}-labels-idx1-ubyte", rank=1),
            )
            for name in ("train", "t10k")
        ]
    splits = {}
    for name, (images, labels) in zip(("train", "test"), pairs, strict=True):
        if len(images) != len(labels) or not len(labels) or labels.max() > 9:
            raise ValueError(
                "MNIST must have one label from 0 to 9 for each image. Received: "
                f"{len(images)} images and {len(labels)} labels, the largest "
                f"{labels.max(initial=0)}; download the files again"
            )
        images = images[..., np.newaxis].astype("float32") / 255
        splits[name] = Split(
            np.round(images) if binary else images, labels.astype("int64")
        )
    train, test = (split.images.shape[1:3] for split in splits.values())
    if train != test:
        raise ValueError(
            f"MNIST must have images of one size. Received: {train} pixels to train "
            f"on and {test} to test on; download the files again"
        )
    return Data("mnist", **splits, class_names=DIGIT_NAMES)


def _read_idx(path, rank):
    """An IDX file of unsigned bytes: magic, one size for each axis, the values."""
    if not path.exists():
        path = path.with_name(path.name + ".gz")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise ValueError(
            f"Expected the IDX file {path.name[:-3]} or {path.name} in {path.parent}. "
            "Received: neither; download it there"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"Cannot read {path}: {error}. Expected a whole gzip or plain IDX file; "
            "download it again"
        ) from None
    header = 4 + 4 * rank
    magic = bytes([0, 0, 8, rank])
    if content[:4] != magic:
        raise ValueError(
            f"{path} must begin as an IDX file of unsigned bytes and {rank} axes does, "
            f"with {magic.hex()}. Received: {content[:4].hex() or 'an empty file'}; "
            "download it again"
        )
    if len(content) < header:
        raise ValueError(
            f"{path} must have {rank} sizes after its first 4 bytes, {4 * rank} bytes. "
            f"Received: {len(content) - 4} bytes; download it again"
        )
    shape = np.frombuffer(content, ">i4", count=rank, offset=4).tolist()
    if min(shape) < 1:
        raise ValueError(
            f"{path} must have sizes of 1 or more. Received: "
            f"{' x '.join(map(str, shape))}; download it again"
        )
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} must hold {' x '.join(map(str, shape))} values. Received: "
            f"{len(content) - header} bytes of them; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


DATA = {"digits": digits, "mnist": mnist}


def load(name, directory=None):
    """The data set of that name.

    Args:
        name: a key of `DATA`.
        directory: folder of its files, for those that have any.

    Raises:
        ValueError: for an unknown name, or a directory that the set does not take.
    """
    if name not in DATA:
        raise ValueError(
            f"The data set must be one of {', '.join(DATA)}. Received: {name!r}"
        )
    if directory is None:
        return DATA[name]()
    if name == "digits":
        raise ValueError(
            "The data set 'digits' is bundled and takes no directory. "
            f"Received: {directory}"
        )
    return DATA[name](directory)
