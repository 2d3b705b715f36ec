"""Turn what a caller calibrates with into inputs of the model."""

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from keras import tree

from bn_keras.export.contract import Contract
from bn_keras.export.decoding import decode_batch
from bn_keras.images.pixels import JPEG, PNG, rescale
from bn_keras.images.preprocessing import Preprocessing

# Of a folder with more images, this many are used, evenly spread.
IMAGES = 512
_BATCH = 16


def load_calibration(source: Any, contract: Contract) -> Any:
    """Return what `bn_keras.quantization.quantize` takes.

    Args:
        source: That itself; the path of a folder of images or of an `.npy` file; or a
            function from the preprocessing to any of these. Arrays in `uint8`, also
            in lists and dictionaries, are pixels of a model that takes float images,
            and preprocessed.
        contract: The contract of the export.

    Raises:
        ValueError: If a folder has no images, the model does not take images, or
            pixels are integers other than `uint8`.
        OSError: If a file cannot be read.
    """
    if isinstance(source, Callable) and contract.preprocessing is not None:
        source = source(contract.preprocessing)
    if isinstance(source, str | PathLike):
        path = Path(source)
        source = _read_folder(path, contract) if path.is_dir() else _read_array(path)
    preprocessing = contract.preprocessing
    if preprocessing is None:
        return source
    if hasattr(source, "shape") or isinstance(source, dict | list | tuple):
        return _preprocess(source, preprocessing)

    examples: Any = source

    def batches() -> Iterator[np.ndarray]:
        for batch in examples:
            has_targets = isinstance(batch, tuple)
            yield _preprocess(batch[0] if has_targets else batch, preprocessing)

    return batches() if hasattr(source, "__iter__") else source


def _preprocess(images: Any, preprocessing: Preprocessing) -> Any:
    """Return images in the same structure, those in `uint8` rescaled."""

    def preprocess(pixels: Any) -> Any:
        if not len(getattr(pixels, "shape", ())):
            return pixels
        pixels = np.asarray(pixels)
        if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8:
            raise ValueError(
                "`calibration` must hold pixels in uint8, or floating-point inputs of "
                f"the model. Received: an array of type {pixels.dtype}. Convert it"
            )
        if pixels.dtype != np.uint8 or not len(pixels):
            return pixels
        return np.concatenate(
            [
                rescale(pixels[i : i + _BATCH], preprocessing).numpy()
                for i in range(0, len(pixels), _BATCH)
            ]
        )

    return tree.map_structure(preprocess, images)


def _read_array(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        try:
            array = np.load(file)
        except (ValueError, EOFError):
            raise ValueError(
                "`calibration` must be a folder of images or an .npy file of numbers. "
                f"Received: {path}, which is neither. Save an array with `numpy.save`"
            ) from None
    if not isinstance(array, np.ndarray):
        raise ValueError(
            "`calibration` must be a folder of images or an .npy file. Received: "
            f"{path}, with several arrays. Save one array with `numpy.save`"
        )
    return array


def _read_folder(folder: Path, contract: Contract) -> Iterator[np.ndarray]:
    import tensorflow as tf

    preprocessing = contract.preprocessing
    if preprocessing is None or preprocessing.size is None:
        raise ValueError(
            "`calibration` may be a folder of images for a model that takes images of "
            f"one size. Received: {folder}. Pass arrays with the model's inputs"
        )
    files = [file for file in sorted(folder.rglob("*")) if _is_image(file)]
    if not files:
        raise ValueError(
            "`calibration` must be a folder with JPEG or PNG files. Received: "
            f"{folder}, which has none. Choose another one"
        )
    chosen = np.linspace(0, len(files) - 1, min(len(files), IMAGES)).round().astype(int)
    for start in range(0, len(chosen), _BATCH):
        names = [files[index] for index in chosen[start : start + _BATCH]]
        contents = tf.constant([file.read_bytes() for file in names])
        try:
            pixels = decode_batch(contents, preprocessing)
        except tf.errors.InvalidArgumentError:
            raise ValueError(
                "`calibration` must be a folder of JPEG or PNG files. Received: a "
                f"damaged one among {names[0]} to {names[-1]}. Remove it"
            ) from None
        yield rescale(pixels, preprocessing).numpy()


def _is_image(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(8).startswith((JPEG, PNG))
