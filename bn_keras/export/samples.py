"""Example inputs to check an export with, and to warm up a server with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import tree

from bn_keras.export.contract import Contract, TensorSpec
from bn_keras.export.decoding import IMAGE_FEATURE


def draw_samples(contract: Contract, count: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Return random inputs for a model.

    Images are random pixels after preprocessing. Other floats are drawn from the normal
    distribution; integers and booleans are 0 or 1. Unknown sizes are 32.

    Args:
        contract: The contract of the model.
        count: Batch size, unless the model has a fixed one.
        seed: Seed of NumPy's generator.

    Returns:
        An array for each input.
    """
    generator = np.random.default_rng(seed)
    samples = []
    for spec in contract.inputs.values():
        shape = _sample_shape(contract, spec, count)
        if contract.preprocessing is not None:
            factor, offset = (
                np.asarray(x, np.float32)
                for x in (contract.preprocessing.scale, contract.preprocessing.offset)
            )
            array = generator.integers(0, 256, shape) * factor + offset
        elif "float" in spec.dtype:
            array = generator.normal(size=shape)
        else:
            array = generator.integers(0, 2, shape)
        samples.append(array.astype(_numpy_dtype(spec.dtype)))
    return samples


def flatten_samples(samples: Any, contract: Contract) -> list[np.ndarray]:
    """Return the caller's samples as a flat list of arrays.

    Raises:
        ValueError: If the model does not take these samples.
    """
    specs = list(contract.inputs.values())
    arrays = tree.map_structure(np.asarray, samples)
    flat = tree.flatten(arrays)
    has_structure = len(flat) == len(specs)
    if has_structure and isinstance(contract.structure, dict):
        has_structure = isinstance(arrays, dict) and set(arrays) == set(
            contract.structure
        )
    is_valid = has_structure and all(
        array.ndim == len(spec.shape)
        and len(array) == len(flat[0]) > 0
        and all(
            expected in (None, size)
            for size, expected in zip(array.shape, spec.shape, strict=True)
        )
        for array, spec in zip(flat, specs, strict=True)
    )
    if is_valid:
        return [
            np.asarray(array, _numpy_dtype(spec.dtype))
            for array, spec in zip(flat, specs, strict=True)
        ]
    expected = {name: spec.shape for name, spec in contract.inputs.items()}
    raise ValueError(
        "`samples` must be arrays in the structure and shapes that the model takes, "
        f"{expected}, with at least one example. Received: arrays of shapes "
        f"{[array.shape for array in flat]}"
    )


def draw_pixels(contract: Contract, count: int, seed: int = 1) -> np.ndarray:
    """Return random uint8 images of the model's size."""
    (spec,) = contract.inputs.values()
    shape = _sample_shape(contract, spec, count)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def draw_image_files(contract: Contract, count: int, seed: int = 2) -> list[bytes]:
    """Return random PNG files, every second one larger than the model's images."""
    import tensorflow as tf

    assert contract.preprocessing is not None
    assert contract.preprocessing.size is not None
    assert contract.preprocessing.channels is not None
    height, width = contract.preprocessing.size
    channels = contract.preprocessing.channels
    generator = np.random.default_rng(seed)
    files = []
    for index in range(count):
        sides = (height, width) if index % 2 == 0 else (height + 3, 2 * width)
        image = generator.integers(0, 256, (*sides, channels), np.uint8)
        files.append(tf.io.encode_png(image).numpy())
    return files


def encode_examples(files: Sequence[bytes]) -> list[bytes]:
    """Return a serialized `tf.train.Example` for each file, as `classify` takes it."""
    import tensorflow as tf

    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    IMAGE_FEATURE: tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[file])
                    )
                }
            )
        ).SerializeToString(deterministic=True)
        for file in files
    ]


def _sample_shape(contract: Contract, spec: TensorSpec, count: int) -> list[int]:
    shape = [32 if size is None else size for size in spec.shape]
    if spec.shape[0] is None:
        shape[0] = count
    if contract.preprocessing is not None and contract.preprocessing.size:
        shape[1:3] = contract.preprocessing.size
    return shape


def _numpy_dtype(dtype: str) -> Any:
    # NumPy has no bfloat16 of its own.
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return dtype
