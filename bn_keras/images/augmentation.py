"""What chance does to a training picture: crops, mirrors, colours.

Knows `Augmentation` and its random numbers; no data set, no model.
"""

from functools import partial

import numpy as np

from bn_keras.images.pixels import (
    JPEG,
    decode_if_encoded,
    rescale,
    resize,
    starts_with,
    white_level,
)

# Weights of red, green and blue in grey, ITU-R BT.601.
GREY = (0.299, 0.587, 0.114)


def augment(content, preprocessing, distortion, seed):
    """What a model takes of a picture that chance has changed.

    Args:
        content: bytes of a file, or pixels: uint8, or float32 in [0, 1].
        preprocessing: a `Preprocessing` with size and channels.
        distortion: a `Augmentation`.
        seed: int64 `(2,)`.

    Returns:
        float32 `(*size, channels)`.
    """
    import tensorflow as tf

    # One seed for each decision, or they would depend on one another.
    seeds = tf.unstack(tf.random.split(seed, 3))
    part = _random_crop(content, preprocessing.channels, distortion, seeds[0])
    if distortion.mirror:
        part = tf.cond(
            tf.random.stateless_uniform((), seeds[1]) < 0.5,
            lambda now=part: tf.reverse(now, (1,)),
            lambda now=part: now,
        )
    picture = resize(part, preprocessing.size, preprocessing.resize)
    if distortion.photometric:
        picture = distort_colors(
            picture, distortion.photometric, white_level(part), seeds[2]
        )
    picture = tf.ensure_shape(picture, (*preprocessing.size, preprocessing.channels))
    return rescale(picture, preprocessing, white_level(part))


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
        picture = decode_if_encoded(content, channels)
        top, left, height, width = tf.unstack(box(tf.shape(picture)))
        return picture[top : top + height, left : left + width]

    picture = (
        tf.cond(starts_with(content, JPEG), part_of_file, part) if encoded else part()
    )
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


def distort_colors(picture, strength, largest, seed):
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
