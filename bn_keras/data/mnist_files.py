"""The MNIST digits, downloaded through Keras or read from their original files."""

import gzip
import math
import os
import zlib
from pathlib import Path

import keras
import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.bundled_digits import DIGIT_NAMES
from bn_keras.data.data_set import Data


def mnist(
    directory: str | os.PathLike[str] | None = None, binary: bool = False
) -> Data:
    """Read MNIST: 60,000 training and 10,000 test digits of 28x28 pixels.

    Args:
        directory: The folder of the four original IDX files, gzipped or not. `None`
            downloads them through Keras.
        binary: Whether to round the pixels to 0 and 1, as in section 4.1 of the paper.

    Returns:
        `Data` with float32 images `(examples, 28, 28, 1)` in [0, 1].

    Raises:
        ValueError: If a file is missing, unreadable, truncated, or not of MNIST.

    Reference:
        LeCun, Cortes & Burges, "The MNIST database of handwritten digits"; Ioffe &
        Szegedy 2015, section 4.1 (binary images).
    """
    if directory is None:
        try:
            pairs = keras.datasets.mnist.load_data()
        except Exception as error:  # Keras raises a bare Exception among others
            raise ValueError(
                f"Cannot download MNIST: {error}. Give the folder of its four files "
                "(--data-dir)."
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
                f"{labels.max(initial=0)}. Download the files again."
            )
        images = images[..., np.newaxis].astype("float32") / 255
        splits[name] = Arrays(
            np.round(images) if binary else images, labels.astype("int64")
        )
    train_size, test_size = (split.images.shape[1:3] for split in splits.values())
    if train_size != test_size:
        raise ValueError(
            f"MNIST must have images of one size. Received: {train_size} pixels for "
            f"training and {test_size} for testing. Download the files again."
        )
    return Data("mnist", **splits, class_names=DIGIT_NAMES)


def _read_idx(path: Path, rank: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes: magic number, size of each axis, values."""
    if not path.exists():
        path = path.with_name(path.name + ".gz")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent} must hold the IDX file {path.name[:-3]} or {path.name}. "
            "Received: neither. Download it there."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"Cannot read {path}, which must be a complete IDX file, plain or gzipped. "
            f"Received: {error}. Download it again."
        ) from None
    header = 4 + 4 * rank
    magic = bytes([0, 0, 8, rank])
    if content[:4] != magic:
        raise ValueError(
            f"{path} must begin with {magic.hex()}, as an IDX file of unsigned bytes "
            f"with {rank} axes does. Received: {content[:4].hex() or 'an empty file'}. "
            "Download it again."
        )
    if len(content) < header:
        raise ValueError(
            f"{path} must have {rank} sizes after its first 4 bytes, {4 * rank} bytes. "
            f"Received: {len(content) - 4} bytes. Download it again."
        )
    shape = np.frombuffer(content, ">i4", count=rank, offset=4).tolist()
    if min(shape) < 1:
        raise ValueError(
            f"{path} must have sizes of 1 or more. Received: "
            f"{' x '.join(map(str, shape))}. Download it again."
        )
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} must hold {' x '.join(map(str, shape))} values. Received: "
            f"{len(content) - header} values. Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
