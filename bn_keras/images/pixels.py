"""Pixels in TensorFlow graphs: decode, resize, crop, scale.

Knows `Preprocessing`; no chance, no data set, no model.
"""

import numpy as np

# A picture may grow to this many times the wanted sides before it is cropped.
MAX_ENLARGEMENT = 16
JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"


def decode(content, channels):
    """Decode one JPEG, PNG or BMP file, or the first picture of a GIF file.

    Grey and colour become what is asked for, CMYK becomes colour and never grey,
    transparency is dropped, 16 bits are cut to 8, an orientation noted in a JPEG file
    is not looked at.

    Args:
        content: string tensor `()`, the whole file.
        channels: 1 or 3.

    Returns:
        uint8 `(height, width, channels)`.
    """
    import tensorflow as tf

    def jpeg():
        # The decoder's own choice is faster and rounds worse.
        return tf.io.decode_jpeg(content, channels, dct_method="INTEGER_ACCURATE")

    def png_or_other():
        return tf.cond(
            starts_with(content, PNG),
            lambda: tf.io.decode_png(content, channels),
            lambda: _decode_other(content, channels),
        )

    picture = tf.cond(starts_with(content, JPEG), jpeg, png_or_other)
    return tf.ensure_shape(picture, (None, None, channels))


def _decode_other(content, channels):
    import tensorflow as tf

    # TensorFlow takes BMP's indices of a palette for grey values.
    start = tf.strings.substr(content, 0, 1078) + tf.constant(bytes(1078))
    indices = starts_with(content, b"BM") & (
        tf.strings.substr(start, 28, 2) == b"\x08\x00"
    )
    greys = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    known = ~indices | (tf.strings.substr(start, 54, 1024) == greys)
    with tf.control_dependencies(
        [tf.debugging.Assert(known, ["a BMP file with a palette of colours"])]
    ):
        # Only in colour are GIF and BMP decoded.
        picture = tf.io.decode_image(content, 3, expand_animations=False)
    return tf.image.rgb_to_grayscale(picture) if channels == 1 else picture


def starts_with(content, start):
    """Whether the bytes begin so: a bool tensor of the shape of `content`."""
    import tensorflow as tf

    return tf.equal(tf.strings.substr(content, 0, len(start)), start)


def resize_and_center_crop(picture, preprocessing):
    """Resize a picture until it just covers the wanted pixels, and cut out the middle.

    Args:
        picture: `(height, width, channels)`, uint8, or float32 in [0, 1].
        preprocessing: a `Preprocessing` with a size.

    Returns:
        float32 `(*size, channels)`, in the range of the picture.
    """
    import tensorflow as tf

    height, width = preprocessing.size
    covered = preprocessing.resized_size
    if tuple(picture.shape[:2]) != covered:
        given = tf.cast(tf.shape(picture)[:2], tf.float64)
        least = tf.constant(covered, tf.float64)
        ratio = tf.reduce_max(least / given)
        size = tf.cast(tf.maximum(tf.round(given * ratio), least), tf.int32)
        # A picture of 1 x 30,000 pixels, 100 bytes of PNG, would grow to 18 GB.
        longest = tf.constant(MAX_ENLARGEMENT * max(covered), tf.int32)
        with tf.control_dependencies([tf.debugging.assert_less_equal(size, longest)]):
            size = tf.identity(size)
        picture = resize(picture, size, preprocessing.resize)
    size = tf.shape(picture)[:2]
    top, left = tf.unstack((size - preprocessing.size) // 2)
    picture = tf.cast(picture, tf.float32)[top : top + height, left : left + width]
    return tf.ensure_shape(picture, (height, width, picture.shape[-1]))


def resize(picture, size, method="bilinear"):
    """The picture at another size, antialiased, never beyond its range.

    Args:
        picture: `(height, width, channels)`, uint8, or float32 in [0, 1].
        size: `(height, width)`.
        method: one of `preprocessing.RESIZES`.

    Returns:
        float32 `(*size, channels)`.
    """
    import tensorflow as tf

    resized = tf.image.resize(picture, size, method, antialias=True)
    # Cubic and Lanczos kernels overshoot.
    return tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, white_level(picture))


def white_level(picture):
    """The largest value that a picture of that type holds: 255 or 1."""
    return 1.0 if picture.dtype.is_floating else 255.0


def rescale(values, preprocessing, largest=255.0):
    """`values * scale + offset`, in float32.

    Args:
        values: numbers `(..., channels)`.
        preprocessing: a `Preprocessing`; its scale is that of pixels up to 255.
        largest: what white is in `values`.

    Returns:
        A float32 tensor of the same shape.
    """
    import tensorflow as tf

    factor = np.asarray(preprocessing.scale) * (255.0 / largest)
    return tf.cast(values, tf.float32) * tf.constant(factor, tf.float32) + tf.constant(
        preprocessing.offset, tf.float32
    )


def decode_to_unit_range(content, channels):
    """A picture as numbers from 0 to 1.

    Args:
        content: bytes of a file, or pixels: uint8, or float32 in [0, 1].
        channels: 1 or 3, of a file.

    Returns:
        float32 `(..., height, width, channels)`.
    """
    import tensorflow as tf

    picture = decode_if_encoded(content, channels)
    if picture.dtype.is_floating:
        return picture
    return tf.cast(picture, tf.float32) / 255


def preprocess(content, preprocessing):
    """What a model takes of the middle of a picture.

    Args:
        content: bytes of a file, or pixels: uint8, or float32 in [0, 1]; a batch of
            pixels where nothing is to be resized.
        preprocessing: a `Preprocessing` with size and channels.

    Returns:
        float32 `(*size, channels)`.
    """
    import tensorflow as tf

    given = picture = decode_if_encoded(content, preprocessing.channels)
    if picture.shape[-3:-1] != preprocessing.size or (
        preprocessing.resized_size != preprocessing.size
    ):
        picture = resize_and_center_crop(picture, preprocessing)
    picture = tf.ensure_shape(
        picture, (*picture.shape[:-3], *preprocessing.size, preprocessing.channels)
    )
    return rescale(picture, preprocessing, white_level(given))


def decode_if_encoded(content, channels):
    """The pixels of a file, or `content` where it is pixels already."""
    import tensorflow as tf

    return decode(content, channels) if content.dtype == tf.string else content
