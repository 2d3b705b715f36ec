"""The crops of all images, one after the other, in batches of one size."""

from typing import TYPE_CHECKING, Any

from bn_keras.data import Split
from bn_keras.images import pixels
from bn_keras.images.crops import locate_crops
from bn_keras.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    import tensorflow as tf

# The number of batches that are prepared while the model computes.
PREFETCHED = 2


def crop_batches(
    split: Split, preprocessing: Preprocessing, crops: int, batch_size: int
) -> "tf.data.Dataset[Any]":
    """Return the inputs of a model: one or several crops of each image, in order.

    Args:
        split: A `Split`.
        preprocessing: A `Preprocessing`, with a square size for more than one crop.
        crops: The number of crops of an image: 1, 10 or 144.
        batch_size: The number of crops in a batch. The crops of one image may be in
            several batches.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, with a label for each crop.
    """
    import tensorflow as tf

    if crops == 1:
        return split.batches(batch_size, preprocessing=preprocessing)

    def extract(image, label):
        return extract_crops(image, preprocessing, crops), tf.repeat(label, crops)

    return (
        split.original_images()
        .map(extract, tf.data.AUTOTUNE, deterministic=True)
        .rebatch(batch_size)
        .prefetch(PREFETCHED)
    )


def extract_crops(
    image: "tf.Tensor", preprocessing: Preprocessing, crops: int
) -> "tf.Tensor":
    """Return all crops of one image as inputs of a model.

    Args:
        image: float32 `(height, width, channels)` in [0, 1].
        preprocessing: A `Preprocessing` with a square size.
        crops: The number of crops, 10 or 144.

    Returns:
        float32 `(crops, *size, channels)`.
    """
    import tensorflow as tf

    size, channels = preprocessing.size, image.shape[-1]
    height, width = tf.unstack(tf.shape(image)[:2])
    is_not_too_long = tf.debugging.assert_less_equal(
        tf.maximum(height, width), pixels.MAX_ENLARGEMENT * tf.minimum(height, width)
    )
    with tf.control_dependencies([is_not_too_long]):
        image = tf.identity(image)
    # By the length of the shorter side: many crops share one resized image.
    resized, rescaled, images = {}, {}, []
    for crop in locate_crops(height, width, size[0], crops):
        if crop.mirrored:  # the second half, added at the end
            continue
        if crop.shorter_side not in resized:
            view = pixels.resize(image, crop.resized_size, preprocessing.resize)
            resized[crop.shorter_side] = view
            rescaled[crop.shorter_side] = pixels.rescale(view, preprocessing, 1.0)
        top, left, *box = crop.box
        # A box of another size than the input is resized once more. This must happen
        # before its values are rescaled: a bicubic resize clips them to [0, 1].
        needs_resize = tuple(box) != size
        part = tf.slice(
            (resized if needs_resize else rescaled)[crop.shorter_side],
            (top, left, 0),
            (*box, channels),
        )
        if needs_resize:
            part = pixels.resize(part, size, preprocessing.resize)
            part = pixels.rescale(part, preprocessing, 1.0)
        images.append(part)
    images = tf.stack(images)
    return tf.concat([images, tf.reverse(images, [2])], 0)
