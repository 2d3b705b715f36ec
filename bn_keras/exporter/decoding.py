"""Bytes of pictures to batches of pixels, inside a TensorFlow graph.

Knows JPEG, PNG and `Preprocessing`; no model.
"""

# The feature of a tf.Example that holds a picture, as in TensorFlow's image data sets.
IMAGE_FEATURE = "image/encoded"
# A picture may grow to this many times the wanted sides before it is cropped.
MOST_RESIZED = 16
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# A picture's index when there is no picture.
_NONE = -1


def decode(encoded, preprocessing):
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
        .filter(lambda *pair: _begins(pair[1], _JPEG) | _begins(pair[1], _PNG))
        .map(
            lambda index, content: (index, _pixels(content, preprocessing)),
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


def scale(pixels, preprocessing):
    """`pixels * scale + offset`, in float32.

    Args:
        pixels: numbers from 0 to 255, `(batch, height, width, channels)`.
        preprocessing: a `Preprocessing`.

    Returns:
        A float32 tensor of the same shape.
    """
    import tensorflow as tf

    factor = tf.constant(preprocessing.scale, tf.float32)
    return tf.cast(pixels, tf.float32) * factor + preprocessing.offset


def _begins(content, start):
    import tensorflow as tf

    return tf.equal(tf.strings.substr(content, 0, len(start)), start)


def _pixels(content, preprocessing):
    import tensorflow as tf

    channels = preprocessing.channels
    picture = tf.cond(
        _begins(content, _JPEG),
        # The decoder's own choice is faster and rounds worse.
        lambda: tf.io.decode_jpeg(content, channels, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(content, channels),
    )
    picture = tf.ensure_shape(picture, (None, None, channels))
    given = tf.cast(tf.shape(picture)[:2], tf.float64)
    covered = tf.constant(preprocessing.resized, tf.float64)
    ratio = tf.reduce_max(covered / given)
    size = tf.cast(tf.maximum(tf.round(given * ratio), covered), tf.int32)
    # A picture of 1 x 30,000 pixels, 100 bytes of PNG, would grow to 18 GB.
    longest = tf.constant(MOST_RESIZED * max(preprocessing.resized), tf.int32)
    with tf.control_dependencies([tf.debugging.assert_less_equal(size, longest)]):
        size = tf.identity(size)
    picture = tf.image.resize(picture, size, preprocessing.resize, antialias=True)
    # Cubic and Lanczos kernels overshoot.
    picture = tf.clip_by_value(tf.cast(picture, tf.float32), 0.0, 255.0)
    top, left = tf.unstack((size - preprocessing.size) // 2)
    height, width = preprocessing.size
    picture = picture[top : top + height, left : left + width]
    return tf.ensure_shape(picture, (height, width, channels))
