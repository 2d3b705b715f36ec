"""Bytes of pictures to batches of pixels, inside a TensorFlow graph.

Knows JPEG, PNG and `Preprocessing`; no model.
"""

from bn_keras.images.pixels import (
    JPEG,
    PNG,
    decode,
    resize_and_center_crop,
    starts_with,
)

# The feature of a tf.Example that holds a picture, as in TensorFlow's image data sets.
IMAGE_FEATURE = "image/encoded"

# A picture's index when there is no picture.
_NONE = -1


def decode_batch(encoded, preprocessing):
    """Decode, resize and crop a batch of pictures.

    Grey and colour become what the model takes, transparency is dropped, an
    orientation noted in a JPEG file is not looked at. A picture that cannot be decoded
    is an `InvalidArgumentError` that names its position in the batch.

    Args:
        encoded: string tensor `(batch,)`, each a whole JPEG or PNG file.
        preprocessing: a `Preprocessing` with size and channels.

    Returns:
        float32 `(batch, height, width, channels)`, from 0 to 255.
    """
    import tensorflow as tf

    height, width = preprocessing.size
    shape = (height, width, preprocessing.channels)
    count = tf.size(encoded, tf.int64)
    # TensorFlow's decoders fail without saying for which picture, and a graph cannot
    # catch an error, but a tf.data pipeline can leave out what fails.
    pictures = (
        tf.data.Dataset.zip(
            tf.data.Dataset.range(count),
            tf.data.Dataset.from_tensor_slices(encoded),
        )
        # The decoders would read GIF and BMP too.
        .filter(lambda *pair: starts_with(pair[1], JPEG) | starts_with(pair[1], PNG))
        .map(
            lambda index, content: (
                index,
                resize_and_center_crop(
                    decode(content, preprocessing.channels), preprocessing
                ),
            ),
            num_parallel_calls=8,
            deterministic=True,
        )
        .ignore_errors()
        # One more, for a batch is never empty then.
        .concatenate(
            tf.data.Dataset.from_tensors(
                (tf.constant(_NONE, tf.int64), tf.zeros(shape))
            )
        )
        .batch(count + 1)
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    indices, pixels = pictures.with_options(options).get_single_element()
    every = tf.range(count)
    # Not `==`: in a plain graph it compares the tensor objects.
    read = tf.reduce_any(tf.equal(every[:, None], indices[None, :]), axis=1)
    readable = tf.debugging.Assert(
        tf.reduce_all(read),
        [
            "Expected JPEG or PNG files. Received: another content, or a damaged file, "
            "at these positions of the batch:",
            tf.boolean_mask(every, tf.logical_not(read)),
        ],
        summarize=16,
    )
    with tf.control_dependencies([readable]):
        return tf.reshape(pixels[:-1], (-1, *shape))
