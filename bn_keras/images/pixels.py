"""Pixels in TensorFlow graphs: decode, resize, crop and rescale images."""

from typing import Any

import numpy as np

from bn_keras.images.preprocessing import Preprocessing

# An image may become this many times as large as the target before it is cropped.
MAX_ENLARGEMENT = 16
# The first bytes of a file.
JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"


def decode(content: Any, channels: int) -> Any:
    """Decode a JPEG, PNG, BMP or WebP file, or the first image of a GIF file.

    Gray images become RGB, and RGB images gray, as `channels` requires. CMYK can become
    RGB only. Transparency is dropped, and 16 bits are reduced to 8. The orientation
    stored in a JPEG file is ignored. An animated WebP file is refused.

    Args:
        content: A string tensor `()`, the whole file.
        channels: 1 or 3.

    Returns:
        A uint8 tensor `(height, width, channels)`.
    """
    import tensorflow as tf

    def decode_jpeg():
        # The decoder's default method is faster but rounds less exactly.
        return tf.io.decode_jpeg(content, channels, dct_method="INTEGER_ACCURATE")

    def decode_png_or_other():
        return tf.cond(
            starts_with(content, PNG),
            lambda: tf.io.decode_png(content, channels),
            lambda: _decode_other(content, channels),
        )

    image = tf.cond(starts_with(content, JPEG), decode_jpeg, decode_png_or_other)
    return tf.ensure_shape(image, (None, None, channels))


def _decode_other(content, channels):
    import tensorflow as tf

    # TensorFlow reads the palette indices of a BMP file as gray values. That is right
    # only if the palette is the identity, so any other palette is refused. The bit
    # depth is at offset 28 of the file, the palette of 256 colors at offset 54; zeros
    # are appended so that `substr` finds these offsets in a file that is too short.
    header = tf.strings.substr(content, 0, 1078) + tf.constant(bytes(1078))
    has_palette = starts_with(content, b"BM") & (
        tf.strings.substr(header, 28, 2) == b"\x08\x00"
    )
    gray_palette = b"".join(bytes((gray, gray, gray, 0)) for gray in range(256))
    supported = ~has_palette | (tf.strings.substr(header, 54, 1024) == gray_palette)
    is_webp = tf.equal(tf.strings.substr(header, 8, 4), b"WEBP")
    # TensorFlow 2.21 writes past the end of its memory when it decodes an animated WebP
    # file, which ends the process. The flags are at offset 20, behind the first chunk.
    flags = tf.io.decode_raw(tf.strings.substr(header, 20, 1), tf.uint8)[0]
    is_extended = tf.equal(tf.strings.substr(header, 12, 4), b"VP8X")
    is_animated = is_webp & is_extended & (flags & 2 > 0)
    with tf.control_dependencies(
        # These texts are part of every exported graph: changing them changes its bytes.
        [
            tf.debugging.Assert(supported, ["a BMP file with a palette of colors"]),
            tf.debugging.Assert(~is_animated, ["an animated WebP file"]),
        ]
    ):
        # `decode_image` decodes GIF and BMP files in color only, and refuses a WebP
        # file with transparency.
        image = tf.cond(
            is_webp,
            lambda: tf.io.decode_webp(content, 0)[0, :, :, :3],
            lambda: tf.io.decode_image(content, 3, expand_animations=False),
        )
    return tf.image.rgb_to_grayscale(image) if channels == 1 else image


def starts_with(content: Any, prefix: bytes) -> Any:
    """Return whether strings start with `prefix`, as a bool tensor.

    Args:
        content: A string tensor of any shape.
        prefix: The bytes to compare with.
    """
    import tensorflow as tf

    return tf.equal(tf.strings.substr(content, 0, len(prefix)), prefix)


def resize_and_center_crop(image: Any, preprocessing: Preprocessing) -> Any:
    """Resize an image so that it just covers the target size, and crop its center.

    Args:
        image: A tensor `(height, width, channels)`, uint8, or float32 in [0, 1].
        preprocessing: A `Preprocessing` with a size.

    Returns:
        A float32 tensor `(*size, channels)`, in the range of the image.
    """
    import tensorflow as tf

    covered_size = preprocessing.resized_size
    assert preprocessing.size is not None
    assert covered_size is not None
    height, width = preprocessing.size
    if tuple(image.shape[:2]) != covered_size:
        # In float64: a side of float32 may round to one pixel too many or too few.
        sides = tf.cast(tf.shape(image)[:2], tf.float64)
        min_sides = tf.constant(covered_size, tf.float64)
        ratio = tf.reduce_max(min_sides / sides)  # one for both: keeps the aspect ratio
        size = tf.cast(tf.maximum(tf.round(sides * ratio), min_sides), tf.int32)
        # An image of 1 x 30,000 pixels, 100 bytes of PNG, would become 18 GB.
        max_side = tf.constant(MAX_ENLARGEMENT * max(covered_size), tf.int32)
        with tf.control_dependencies([tf.debugging.assert_less_equal(size, max_side)]):
            size = tf.identity(size)
        image = resize(image, size, preprocessing.resize)
    size = tf.shape(image)[:2]
    top, left = tf.unstack((size - preprocessing.size) // 2)
    image = tf.cast(image, tf.float32)[top : top + height, left : left + width]
    return tf.ensure_shape(image, (height, width, image.shape[-1]))


def resize(image: Any, size: Any, method: str = "bilinear") -> Any:
    """Resize an image with antialiasing; the values stay within its range.

    Args:
        image: A tensor `(height, width, channels)`, uint8, or float32 in [0, 1].
        size: `(height, width)`, integers or an integer tensor `(2,)`.
        method: One of `bn_keras.images.preprocessing.RESIZES`.

    Returns:
        A float32 tensor `(*size, channels)`.
    """
    import tensorflow as tf

    resized = tf.image.resize(image, size, method, antialias=True)
    # Cubic and Lanczos kernels overshoot.
    return tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, white_level(image))


def white_level(image: Any) -> float:
    """Return the value of white in images of this data type: 255 or 1."""
    return 1.0 if image.dtype.is_floating else 255.0


def rescale(values: Any, preprocessing: Preprocessing, white: float = 255.0) -> Any:
    """Return `values * scale + offset` in float32.

    Args:
        values: Numbers `(..., channels)`.
        preprocessing: A `Preprocessing`, whose scale is meant for values up to 255.
        white: The value of white in `values`.

    Returns:
        A float32 tensor of the same shape.
    """
    import tensorflow as tf

    # In float64, so that the factor is rounded only once.
    factor = np.asarray(preprocessing.scale) * (255.0 / white)
    return tf.cast(values, tf.float32) * tf.constant(factor, tf.float32) + tf.constant(
        preprocessing.offset, tf.float32
    )


def decode_to_unit_range(content: Any, channels: int) -> Any:
    """Return an image with values from 0 to 1.

    Args:
        content: The bytes of a file, or pixels: uint8, or float32 in [0, 1].
        channels: 1 or 3, the number of channels to decode a file to.

    Returns:
        A float32 tensor `(..., height, width, channels)`.
    """
    import tensorflow as tf

    image = decode_if_encoded(content, channels)
    if image.dtype.is_floating:
        return image
    return tf.cast(image, tf.float32) / 255


def preprocess(content: Any, preprocessing: Preprocessing) -> Any:
    """Return the input of a model for an image: its center, resized and rescaled.

    Args:
        content: The bytes of a file, or pixels: uint8, or float32 in [0, 1]. A batch of
            pixels if they have the size of the model.
        preprocessing: A `Preprocessing` with size and channels.

    Returns:
        A float32 tensor `(*size, channels)`, or a batch of them.
    """
    import tensorflow as tf

    assert preprocessing.size is not None
    assert preprocessing.channels is not None
    original = image = decode_if_encoded(content, preprocessing.channels)
    if image.shape[-3:-1] != preprocessing.size or (
        preprocessing.resized_size != preprocessing.size
    ):
        image = resize_and_center_crop(image, preprocessing)
    image = tf.ensure_shape(
        image, (*image.shape[:-3], *preprocessing.size, preprocessing.channels)
    )
    return rescale(image, preprocessing, white_level(original))


def decode_if_encoded(content: Any, channels: int) -> Any:
    """Return the pixels of a file, or `content` itself if it already is pixels."""
    import tensorflow as tf

    return decode(content, channels) if content.dtype == tf.string else content
