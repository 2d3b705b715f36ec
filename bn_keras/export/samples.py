"""Inputs to prove an export with, and to warm a server with.

Knows shapes and types of a contract; no model.
"""

import numpy as np
from keras import tree

from bn_keras.export.decoding import IMAGE_FEATURE


def draw_samples(contract, count=4, seed=0):
    """Inputs of a model where the caller has none.

    Images are pixels at random, preprocessed; other floats are drawn from the normal
    distribution, integers and booleans are 0 and 1. Unknown sizes are 32.

    Args:
        contract: a `Contract`.
        count: examples in the batch, where the model does not set them.
        seed: of NumPy's generator.

    Returns:
        A list of arrays, one for each input.
    """
    draw = np.random.default_rng(seed)
    samples = []
    for spec in contract.inputs.values():
        shape = _known(contract, spec, count)
        if contract.preprocessing is not None:
            factor, offset = (
                np.float32(x)
                for x in (contract.preprocessing.scale, contract.preprocessing.offset)
            )
            array = draw.integers(0, 256, shape) * factor + offset
        elif "float" in spec.dtype:
            array = draw.normal(size=shape)
        else:
            array = draw.integers(0, 2, shape)
        samples.append(array.astype(_numpy(spec.dtype)))
    return samples


def fit_samples(samples, contract):
    """The caller's samples as a flat list of arrays.

    Raises:
        ValueError: for samples that are not what the model takes.
    """
    specs = list(contract.inputs.values())
    given = tree.map_structure(np.asarray, samples)
    flat = tree.flatten(given)
    same = len(flat) == len(specs)
    if same and isinstance(contract.structure, dict):
        same = isinstance(given, dict) and set(given) == set(contract.structure)
    fits = same and all(
        array.ndim == len(spec.shape)
        and len(array) == len(flat[0]) > 0
        and all(
            side in (None, n) for n, side in zip(array.shape, spec.shape, strict=True)
        )
        for array, spec in zip(flat, specs, strict=True)
    )
    if fits:
        return [
            np.asarray(array, _numpy(spec.dtype))
            for array, spec in zip(flat, specs, strict=True)
        ]
    expected = {name: spec.shape for name, spec in contract.inputs.items()}
    raise ValueError(
        f"`samples` must be arrays as the model takes them, {expected}, of at least "
        f"one example. Received: shapes {[array.shape for array in flat]}"
    )


def pixel_samples(contract, count, seed=1):
    """uint8 images of the model's size, at random."""
    (spec,) = contract.inputs.values()
    shape = _known(contract, spec, count)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture_samples(contract, count, seed=2):
    """PNG files, every second one of another size than the model takes."""
    import tensorflow as tf

    height, width = contract.preprocessing.size
    draw = np.random.default_rng(seed)
    files = []
    for position in range(count):
        size = (height, width) if position % 2 == 0 else (height + 3, 2 * width)
        picture = draw.integers(
            0, 256, (*size, contract.preprocessing.channels), np.uint8
        )
        files.append(tf.io.encode_png(picture).numpy())
    return files


def examples_of(files):
    """Serialized `tf.Example`s of pictures, as `classify` takes them."""
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


def _known(contract, spec, count):
    shape = [32 if side is None else side for side in spec.shape]
    if spec.shape[0] is None:
        shape[0] = count
    if contract.preprocessing is not None and contract.preprocessing.size:
        shape[1:3] = contract.preprocessing.size
    return shape


def _numpy(dtype):
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return dtype
