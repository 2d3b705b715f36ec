"""Decode batches of image files inside a TensorFlow graph."""

from typing import Any

from bn_keras.images.pixels import (
    JPEG,
    PNG,
    decode,
    resize_and_center_crop,
    starts_with,
)
from bn_keras.images.preprocessing import Preprocessing

# The feature of a `tf.train.Example` with an image file, as in TensorFlow's data sets.
IMAGE_FEATURE = "image/encoded"

# The index of an element that does not stand for an image.
_NO_IMAGE = -1


def decode_batch(encoded: Any, preprocessing: Preprocessing) -> Any:
    """Decode, resize and crop a batch of images.

    Gray and color images are converted to the number of channels that the model takes.
    Transparency is dropped. The orientation that a JPEG file may state is ignored. If
    an image cannot be decoded, running the graph raises an `InvalidArgumentError` that
    names its position in the batch.

    Args:
        encoded: A string tensor `(batch,)`, each element a whole JPEG or PNG file.
        preprocessing: A `Preprocessing` with size and channels.

    Returns:
        A float32 tensor `(batch, height, width, channels)` with values from 0 to 255.
    """
    import tensorflow as tf

    channels = preprocessing.channels
    assert preprocessing.size is not None
    assert channels is not None
    shape = (*preprocessing.size, channels)
    count = tf.size(encoded, tf.int64)
    # TensorFlow's decoders do not report which image of a batch is damaged, and a graph
    # cannot catch an error. But a `tf.data` pipeline can skip the elements that raise
    # one: an index that is missing at the end shows which image it was.
    images = (
        tf.data.Dataset.zip(
            tf.data.Dataset.range(count),
            tf.data.Dataset.from_tensor_slices(encoded),
        )
        # The decoders would also accept GIF and BMP files.
        .filter(lambda *pair: starts_with(pair[1], JPEG) | starts_with(pair[1], PNG))
        .map(
            lambda index, content: (
                index,
                resize_and_center_crop(decode(content, channels), preprocessing),
            ),
            num_parallel_calls=8,
            deterministic=True,
        )
        .ignore_errors()
        # `get_single_element` fails if no image is left. With one element more there
        # is always a batch.
        .concatenate(
            tf.data.Dataset.from_tensors(
                (tf.constant(_NO_IMAGE, tf.int64), tf.zeros(shape))
            )
        )
        .batch(count + 1)
    )
    # Without tuning and optimization the pipeline starts faster, in every request.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    indices, pixels = images.with_options(options).get_single_element()
    positions = tf.range(count)
    # Not `==`: outside of a `tf.function` it compares the tensor objects.
    is_decoded = tf.reduce_any(tf.equal(positions[:, None], indices[None, :]), axis=1)
    all_decoded = tf.debugging.Assert(
        tf.reduce_all(is_decoded),
        [
            "Expected JPEG or PNG files. Received: another content, or a damaged file, "
            "at these positions of the batch:",
            tf.boolean_mask(positions, tf.logical_not(is_decoded)),
        ],
        summarize=16,
    )
    with tf.control_dependencies([all_decoded]):
        # Drop the additional element, which is always the last one.
        return tf.reshape(pixels[:-1], (-1, *shape))
