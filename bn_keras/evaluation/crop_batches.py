"""The crops of all pictures, one after the other, in batches of one size.

Knows pixels and where crops lie; no model.
"""

from bn_keras.images import pixels
from bn_keras.images.crops import locate_crops

# Batches that are ready while the model is at work.
AHEAD = 2


def batches_of_crops(split, preprocessing, crops, batch_size):
    """The inputs of a model: one or several of each picture, in order.

    Args:
        split: a `bn_keras.data.Split`.
        preprocessing: a `Preprocessing`; with a square size for more than one crop.
        crops: 1, 10 or 144.
        batch_size: crops a batch; the crops of one picture may lie in several.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, with the label of each crop.
    """
    import tensorflow as tf

    if crops == 1:
        return split.batches(batch_size, preprocessing=preprocessing)

    def crops_of(picture, label):
        return cut(picture, preprocessing, crops), tf.repeat(label, crops)

    return (
        split.pictures()
        .map(crops_of, tf.data.AUTOTUNE, deterministic=True)
        .rebatch(batch_size)
        .prefetch(AHEAD)
    )


def cut(picture, preprocessing, crops):
    """All crops of one picture as inputs of a model.

    Args:
        picture: float32 `(height, width, channels)` in [0, 1].
        preprocessing: a `Preprocessing` with a square size.
        crops: 10 or 144.

    Returns:
        float32 `(crops, *size, channels)`.
    """
    import tensorflow as tf

    size, channels = preprocessing.size, picture.shape[-1]
    height, width = tf.unstack(tf.shape(picture)[:2])
    held = tf.debugging.assert_less_equal(
        tf.maximum(height, width), pixels.MAX_ENLARGEMENT * tf.minimum(height, width)
    )
    with tf.control_dependencies([held]):
        picture = tf.identity(picture)
    resized, scaled, plain = {}, {}, []
    for crop in locate_crops(height, width, size[0], crops):
        if crop.mirrored:
            continue
        if crop.shorter not in resized:
            view = pixels.resize(picture, crop.resized, preprocessing.resize)
            resized[crop.shorter] = view
            scaled[crop.shorter] = pixels.rescale(view, preprocessing, 1.0)
        top, left, *box = crop.box
        whole = tuple(box) != size
        part = tf.slice(
            (resized if whole else scaled)[crop.shorter],
            (top, left, 0),
            (*box, channels),
        )
        if whole:
            part = pixels.resize(part, size, preprocessing.resize)
            part = pixels.rescale(part, preprocessing, 1.0)
        plain.append(part)
    images = tf.stack(plain)
    return tf.concat([images, tf.reverse(images, [2])], 0)
