"""Random changes of training images: crops, mirroring and photometric distortion."""

from functools import partial
from typing import Any

import numpy as np

from bn_keras.images.pixels import (
    JPEG,
    decode_if_encoded,
    rescale,
    resize,
    starts_with,
    white_level,
)
from bn_keras.images.preprocessing import Augmentation, Preprocessing

# The weights of red, green and blue in gray, ITU-R BT.601.
GRAY_WEIGHTS = (0.299, 0.587, 0.114)


def augment(
    content: Any, preprocessing: Preprocessing, augmentation: Augmentation, seed: Any
) -> Any:
    """Return the input of a model for a randomly changed image.

    Args:
        content: The bytes of a file, or pixels: uint8, or float32 in [0, 1].
        preprocessing: A `Preprocessing` with size and channels.
        augmentation: The random changes.
        seed: An int64 tensor `(2,)`. Equal seeds give equal changes.

    Returns:
        A float32 tensor `(*size, channels)`.
    """
    import tensorflow as tf

    assert preprocessing.size is not None
    # One seed for each decision; otherwise they would depend on one another.
    crop_seed, mirror_seed, photometric_seed = tf.unstack(tf.random.split(seed, 3))
    crop = _random_crop(content, preprocessing.channels, augmentation, crop_seed)
    if augmentation.mirror:
        crop = tf.cond(
            tf.random.stateless_uniform((), mirror_seed) < 0.5,
            lambda unmirrored=crop: tf.reverse(unmirrored, (1,)),
            lambda unmirrored=crop: unmirrored,
        )
    image = resize(crop, preprocessing.size, preprocessing.resize)
    if augmentation.photometric:
        image = distort_photometrically(
            image, augmentation.photometric, white_level(crop), photometric_seed
        )
    image = tf.ensure_shape(image, (*preprocessing.size, preprocessing.channels))
    return rescale(image, preprocessing, white_level(crop))


def _random_crop(content, channels, augmentation, seed):
    """Crop a part of random area and aspect ratio."""
    import tensorflow as tf

    def box(shape):
        return _random_box(shape, augmentation, seed)

    def crop_jpeg():
        # Decodes only what is inside the box.
        return tf.image.decode_and_crop_jpeg(
            content,
            box(tf.io.extract_jpeg_shape(content)),
            channels,
            dct_method="INTEGER_ACCURATE",
        )

    def crop():
        image = decode_if_encoded(content, channels)
        top, left, height, width = tf.unstack(box(tf.shape(image)))
        return image[top : top + height, left : left + width]

    if content.dtype != tf.string:
        return tf.ensure_shape(crop(), (None, None, channels))
    image = tf.cond(starts_with(content, JPEG), crop_jpeg, crop)
    return tf.ensure_shape(image, (None, None, channels))


def _random_box(shape, augmentation, seed):
    """Return the `(top, left, height, width)` of a random part, int32 `(4,)`.

    The share of the area is drawn uniformly, as in GoogLeNet's paper, and so is the
    logarithm of the aspect ratio. `tf.image.stateless_sample_distorted_bounding_box`
    draws the height uniformly, which favors small parts. A side that would be longer
    than that of the image is cut to it.
    """
    import tensorflow as tf

    area, aspect, top, left = tf.unstack(tf.random.stateless_uniform((4,), seed))
    sides = tf.cast(shape[:2], tf.float32)
    min_area, max_area = augmentation.area
    area = (min_area + (max_area - min_area) * area) * tf.reduce_prod(sides)
    low, high = np.log(augmentation.aspect)
    aspect = tf.exp(low + (high - low) * aspect)  # width / height
    size = tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)])
    size = tf.clip_by_value(tf.round(size), 1.0, sides)
    # + 1, so that every offset is equally likely, including the last one.
    offset = tf.floor(tf.stack([top, left]) * (sides - size + 1))
    return tf.cast(tf.concat([offset, size], 0), tf.int32)


def distort_photometrically(
    image: Any, strength: float, white: float, seed: Any
) -> Any:
    """Change the brightness, contrast and color of an image, in random order.

    Each change is a mixture `f * image + (1 - f) * other`, where `f` is drawn uniformly
    from `1 - strength / 2` to `1 + strength / 2`, and `other` is black (brightness),
    the mean gray of the image (contrast), or the image in gray (color).

    Args:
        image: A float32 tensor `(height, width, channels)`.
        strength: The strength of the changes, from 0 to 2. Howard uses 1.
        white: The value of white in `image`.
        seed: An int64 tensor `(2,)`.

    Returns:
        A tensor of the same shape, with values from 0 to `white`.

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
    channels = image.shape[-1]
    gray_weights = tf.constant(GRAY_WEIGHTS if channels == 3 else (1.0,))

    def change_brightness(image, factor):
        return factor * image

    def change_contrast(image, factor):
        mean = tf.reduce_sum(tf.reduce_mean(image, (0, 1)) * gray_weights)
        return factor * image + (1 - factor) * mean

    def change_color(image, factor):
        # As one matrix product: a sum over three channels is slow.
        mixture = factor * tf.eye(channels) + (1 - factor) * gray_weights[:, None]
        return tf.tensordot(image, mixture, 1)

    changes = (change_brightness, change_contrast, change_color)
    # The order is a tensor, so each turn must be able to make every change.
    for change_index in tf.unstack(order):
        factor = factors[change_index]
        branches = [partial(change, image, factor) for change in changes]
        image = tf.clip_by_value(tf.switch_case(change_index, branches), 0.0, white)
    return image
