"""Pixels in TensorFlow graphs: decode, resize, crop, mirror, distort, scale.

Knows `Preprocessing` and `Distortion`; no data set, no model.
"""

from functools import partial

import numpy as np

# A picture may grow to this many times the wanted sides before it is cropped.
MOST_RESIZED = 16
JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
# Weights of red, green and blue in grey, ITU-R BT.601.
GREY = (0.299, 0.587, 0.114)


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
            begins(content, PNG),
            lambda: tf.io.decode_png(content, channels),
            lambda: _decode_other(content, channels),
        )

    picture = tf.cond(begins(content, JPEG), jpeg, png_or_other)
    return tf.ensure_shape(picture, (None, None, channels))


def _decode_other(content, channels):
    import tensorflow as tf

    # TensorFlow takes BMP's indices of a palette for grey values.
    start = tf.strings.substr(content, 0, 1078) + tf.constant(bytes(1078))
    indices = begins(content, b"BM") & (tf.strings.substr(start, 28, 2) == b"\x08\x00")
    greys = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    known = ~indices | (tf.strings.substr(start, 54, 1024) == greys)
    with tf.control_dependencies(
        [tf.debugging.Assert(known, ["a BMP file with a palette of colours"])]
    ):
        # Only in colour are GIF and BMP decoded.
        picture = tf.io.decode_image(content, 3, expand_animations=False)
    return tf.image.rgb_to_grayscale(picture) if channels == 1 else picture


def begins(content, start):
    """Whether the bytes begin so: a bool tensor of the shape of `content`."""
    import tensorflow as tf

    return tf.equal(tf.strings.substr(content, 0, len(start)), start)


def cover(picture, preprocessing):
    """Resize a picture until it just covers the wanted pixels, and cut out the middle.

    Args:
        picture: `(height, width, channels)`, uint8, or float32 of any range.
        preprocessing: a `Preprocessing` with a size.

    Returns:
        float32 `(*size, channels)`, in the range of the picture.
    """
    import tensorflow as tf

    height, width = preprocessing.size
    covered = preprocessing.resized
    if tuple(picture.shape[:2]) != covered:
        given = tf.cast(tf.shape(picture)[:2], tf.float64)
        least = tf.constant(covered, tf.float64)
        ratio = tf.reduce_max(least / given)
        size = tf.cast(tf.maximum(tf.round(given * ratio), least), tf.int32)
        # A picture of 1 x 30,000 pixels, 100 bytes of PNG, would grow to 18 GB.
        longest = tf.constant(MOST_RESIZED * max(covered), tf.int32)
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
    return tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, white(picture))


def white(picture):
    """The largest value that a picture of that type holds: 255 or 1."""
    return 1.0 if picture.dtype.is_floating else 255.0


def scale(pixels, preprocessing, largest=255.0):
    """`pixels * scale + offset`, in float32.

    Args:
        pixels: numbers `(..., channels)`.
        preprocessing: a `Preprocessing`; its scale is that of pixels up to 255.
        largest: what white is in `pixels`.

    Returns:
        A float32 tensor of the same shape.
    """
    import tensorflow as tf

    factor = np.asarray(preprocessing.scale) * (255.0 / largest)
    return tf.cast(pixels, tf.float32) * tf.constant(factor, tf.float32) + tf.constant(
        preprocessing.offset, tf.float32
    )


def unit(content, channels):
    """A picture as numbers from 0 to 1.

    Args:
        content: bytes of a file, or pixels: uint8, or float32 in [0, 1].
        channels: 1 or 3, of a file.

    Returns:
        float32 `(..., height, width, channels)`.
    """
    import tensorflow as tf

    picture = _pixels(content, channels)
    if picture.dtype.is_floating:
        return picture
    return tf.cast(picture, tf.float32) / 255


def model_input(content, preprocessing, distortion=None, seed=None):
    """What a model takes of one picture.

    Args:
        content: bytes of a file, or pixels: uint8, or float32 in [0, 1]; a batch of
            pixels where nothing is to be resized and nothing distorted.
        preprocessing: a `Preprocessing` with size and channels.
        distortion: a `Distortion`, or None for the middle of the picture.
        seed: int64 `(2,)`; with a distortion.

    Returns:
        float32 `(*size, channels)`.
    """
    import tensorflow as tf

    if distortion is None:
        pixels = picture = _pixels(content, preprocessing.channels)
        if picture.shape[-3:-1] != preprocessing.size or (
            preprocessing.resized != preprocessing.size
        ):
            picture = cover(pixels, preprocessing)
    else:
        pixels, picture = _distorted(content, preprocessing, distortion, seed)
    picture = tf.ensure_shape(
        picture, (*picture.shape[:-3], *preprocessing.size, preprocessing.channels)
    )
    return scale(picture, preprocessing, white(pixels))


def _pixels(content, channels):
    import tensorflow as tf

    return decode(content, channels) if content.dtype == tf.string else content


def _distorted(content, preprocessing, distortion, seed):
    import tensorflow as tf

    # One seed for each decision, or they would depend on one another.
    seeds = tf.unstack(tf.random.split(seed, 6))
    pixels = _random_crop(content, preprocessing.channels, distortion, seeds[0])
    if distortion.mirror:
        pixels = tf.cond(
            tf.random.stateless_uniform((), seeds[1]) < 0.5,
            lambda now=pixels: tf.reverse(now, (1,)),
            lambda now=pixels: now,
        )
    picture = resize(pixels, preprocessing.size, preprocessing.resize)
    if distortion.photometric:
        picture = distort_colours(
            picture, distortion.photometric, white(pixels), seeds[2]
        )
    return pixels, picture


def _random_crop(content, channels, distortion, seed):
    """A part of random area and aspect; of a JPEG file only that part is decoded."""
    import tensorflow as tf

    encoded = content.dtype == tf.string

    def box(shape):
        return _random_box(shape, distortion, seed)

    def part_of_file():
        return tf.image.decode_and_crop_jpeg(
            content,
            box(tf.io.extract_jpeg_shape(content)),
            channels,
            dct_method="INTEGER_ACCURATE",
        )

    def part():
        picture = _pixels(content, channels)
        top, left, height, width = tf.unstack(box(tf.shape(picture)))
        return picture[top : top + height, left : left + width]

    picture = tf.cond(begins(content, JPEG), part_of_file, part) if encoded else part()
    return tf.ensure_shape(picture, (None, None, channels))


def _random_box(shape, distortion, seed):
    """`(top, left, height, width)` of a random part, int32 `(4,)`.

    The share of the area is drawn evenly, as GoogLeNet has it, and the logarithm of
    the aspect ratio; `tf.image.stateless_sample_distorted_bounding_box` draws the
    height evenly, which favours small parts. A part that is too long for the picture
    is as long as the picture.
    """
    import tensorflow as tf

    area, aspect, top, left = tf.unstack(tf.random.stateless_uniform((4,), seed))
    sides = tf.cast(shape[:2], tf.float32)
    least, largest = distortion.area
    area = (least + (largest - least) * area) * tf.reduce_prod(sides)
    low, high = np.log(distortion.aspect)
    aspect = tf.exp(low + (high - low) * aspect)  # width / height
    size = tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)])
    size = tf.clip_by_value(tf.round(size), 1.0, sides)
    begin = tf.floor(tf.stack([top, left]) * (sides - size + 1))
    return tf.cast(tf.concat([begin, size], 0), tf.int32)


def distort_colours(picture, strength, largest, seed):
    """Change brightness, contrast and colour, in random order.

    Each becomes a mixture `f * picture + (1 - f) * other`, `f` drawn evenly between
    `1 - strength / 2` and `1 + strength / 2`; `other` is black, the mean grey, or the
    grey picture.

    Args:
        picture: float32 `(height, width, channels)`.
        strength: 0 to 2; 1 is Howard's.
        largest: what white is in `picture`.
        seed: int64 `(2,)`.

    Returns:
        The picture, within 0 and `largest`.

    Reference:
        Howard 2013, "Some Improvements on Deep Convolutional Neural Network Based Image
        Classification", section 2.2.
    """
    import tensorflow as tf

    order_seed, factor_seed = tf.unstack(tf.random.split(seed))
    factors = tf.random.stateless_uniform(
        (3,), factor_seed, 1 - strength / 2, 1 + strength / 2
    )
    order = tf.random.experimental.stateless_shuffle(tf.range(3), order_seed)
    channels = picture.shape[-1]
    grey = tf.constant(GREY if channels == 3 else (1.0,))

    def brightness(picture, factor):
        return factor * picture

    def contrast(picture, factor):
        mean = tf.reduce_sum(tf.reduce_mean(picture, (0, 1)) * grey)
        return factor * picture + (1 - factor) * mean

    def colour(picture, factor):
        # One product of matrices: a sum over three channels is slow.
        mixture = factor * tf.eye(channels) + (1 - factor) * grey[:, None]
        return tf.tensordot(picture, mixture, 1)

    changes = (brightness, contrast, colour)
    for turn in tf.unstack(order):
        cases = [partial(change, picture, factors[turn]) for change in changes]
        picture = tf.clip_by_value(tf.switch_case(turn, cases), 0.0, largest)
    return picture
