"""Example inputs to check an export with, and to warm up a server with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import tree

from bn_keras.export.contract import Contract, TensorSpec
from bn_keras.export.decoding import IMAGE_FEATURE
from bn_keras.images.preprocessing import is_image_shape

_WORDS = ("a", "bc", "def", "a bc", "")


def draw_samples(contract: Contract, count: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Return random inputs for a model.

    Images are random pixels after preprocessing. Other floats are drawn from the normal
    distribution. Integers and strings are drawn from the values that the contract
    knows, otherwise they are 0 or 1, and short words. Unknown sizes are 32.

    Args:
        contract: The contract of the model.
        count: Batch size, unless the model has a fixed one.
        seed: Seed of NumPy's generator.

    Returns:
        An array for each input.
    """
    generator = np.random.default_rng(seed)
    samples = []
    for name, spec in contract.inputs.items():
        shape = _sample_shape(contract, spec, count)
        values = contract.values.get(name)
        if contract.preprocessing is not None:
            factor, offset = (
                np.asarray(x, np.float32)
                for x in (contract.preprocessing.scale, contract.preprocessing.offset)
            )
            array = generator.integers(0, 256, shape) * factor + offset
        elif values is not None:
            array = np.array(values)[generator.integers(0, len(values), shape)]
        elif "float" in spec.dtype:
            array = generator.normal(size=shape)
        elif spec.dtype == "string":
            array = np.array(_WORDS)[generator.integers(0, len(_WORDS), shape)]
        elif spec.dtype == "uint8" and is_image_shape(spec.shape):
            array = generator.integers(0, 256, shape)
        else:
            array = generator.integers(0, 2, shape)
        samples.append(_as_input(array, spec))
    return samples


def flatten_samples(samples: Any, contract: Contract) -> list[np.ndarray]:
    """Return the caller's samples as a flat list of arrays.

    Args:
        samples: Arrays in the structure that the model takes, or a `tf.data.Dataset`,
            whose first batch is used, without its targets.
        contract: The contract of the model.

    Raises:
        ValueError: If the model does not take these samples.
    """
    specs = list(contract.inputs.values())
    if hasattr(samples, "element_spec"):
        samples = next(iter(samples), ())
        # `(inputs, targets)`, unless these are several inputs.
        if isinstance(samples, tuple) and (
            len(tree.flatten(samples)) != len(specs) or len(samples) == 1
        ):
            samples = samples[0] if samples else ()
    arrays = tree.map_structure(np.asarray, samples)
    flat = tree.flatten(arrays)
    has_structure = len(flat) == len(specs)
    if has_structure and isinstance(contract.structure, dict):
        has_structure = isinstance(arrays, dict) and set(arrays) == set(
            contract.structure
        )
    if has_structure and all(
        array.ndim == len(spec.shape)
        and len(array) == len(flat[0]) > 0
        and all(
            expected in (None, size)
            for size, expected in zip(array.shape, spec.shape, strict=True)
        )
        for array, spec in zip(flat, specs, strict=True)
    ):
        try:
            return [_as_input(x, spec) for x, spec in zip(flat, specs, strict=True)]
        except (TypeError, ValueError):
            pass  # numbers are expected, and other values were received
    expected = {
        name: (spec.shape, spec.dtype) for name, spec in contract.inputs.items()
    }
    received = [(array.shape, array.dtype.name) for array in flat]
    raise ValueError(
        "`samples` must be arrays in the structure, shapes and types that the model "
        f"takes, {expected}, with at least one example. Received: arrays of shapes and "
        f"types {received}"
    )


def draw_pixels(contract: Contract, count: int, seed: int = 1) -> np.ndarray:
    """Return random uint8 images of the model's size."""
    (spec,) = contract.inputs.values()
    shape = _sample_shape(contract, spec, count)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def draw_image_files(contract: Contract, count: int, seed: int = 2) -> list[bytes]:
    """Return random PNG files, every second one larger than the model's images.

    Args:
        contract: The contract of the model.
        count: Number of files, unless the model has a fixed batch size.
        seed: Seed of NumPy's generator.
    """
    import tensorflow as tf

    assert contract.preprocessing is not None
    assert contract.preprocessing.size is not None
    assert contract.preprocessing.channels is not None
    height, width = contract.preprocessing.size
    channels = contract.preprocessing.channels
    generator = np.random.default_rng(seed)
    files = []
    for index in range(contract.batch_size or count):
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
    if spec.shape and spec.shape[0] is None:
        shape[0] = contract.batch_size or count
    if contract.preprocessing is not None and contract.preprocessing.size:
        shape[1:3] = contract.preprocessing.size
    return shape


def _as_input(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Return an array with the NumPy type that stands for an input's type."""
    if spec.dtype == "string":
        if not all(isinstance(x, str | bytes) for x in array.flat):
            raise TypeError("not strings")
        # An array of strings would lose zero bytes at their ends.
        texts = [x.encode() if isinstance(x, str) else bytes(x) for x in array.flat]
        result = np.empty(len(texts), object)
        result[:] = texts
        return result.reshape(array.shape)
    if spec.dtype == "bfloat16":  # NumPy has none of its own
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    if array.dtype.kind == "c" and "complex" not in spec.dtype:
        raise TypeError("not real numbers")
    result = array.astype(spec.dtype)
    if "float" not in spec.dtype and not np.array_equal(result, array):
        raise ValueError("the type does not hold these values")
    return result
