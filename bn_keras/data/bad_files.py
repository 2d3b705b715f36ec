"""Which examples cannot be read, and what a user is told of them.

Knows TensorFlow's errors; not where examples lie: a `Split` numbers, reads and names
them.
"""

import re
from contextlib import contextmanager

import numpy as np

from bn_keras.images import pixels

# Characters of TensorFlow's own words that a message about a bad file repeats.
REASON = 120
TOO_LONG = f"more than {pixels.MAX_ENLARGEMENT} times as long as wide"


def read_whole(split, reference):
    """Read an example and make sure that it is a picture.

    One more than 16 times as long as wide is none: no model's input holds it.

    Args:
        split: a `bn_keras.data.Split`.
        reference: an element of its `order`.

    Returns:
        `(content, label, pixel)`, the first two as `split.read` gives them; or
        TensorFlow's error. TensorFlow leaves out a decoding of which no pixel is used.
    """
    import tensorflow as tf

    content, label = split.read(reference)
    picture = content
    if content.dtype == tf.string:
        picture = pixels.decode(content, split.shape[-1])
    sides = tf.shape(picture)[:2]
    held = tf.debugging.assert_less_equal(
        tf.reduce_max(sides), pixels.MAX_ENLARGEMENT * tf.reduce_min(sides), TOO_LONG
    )
    with tf.control_dependencies([held]):
        return content, label, tf.identity(picture[0, 0, 0])


def find_unreadable(split):
    """Decode every example once, in parallel.

    Args:
        split: a `bn_keras.data.Split`.

    Returns:
        The positions of the examples that cannot be read, int64, ascending.
    """
    fine = _read_all(split, split.numbered(past_damage=True)).ignore_errors()
    found = np.array([position for position, _ in fine.as_numpy_iterator()], np.int64)
    return np.setdiff1d(split.positions(), found)


def unreadable_error(split, positions):
    """The `ValueError` that says which examples cannot be read, and why.

    Args:
        split: a `bn_keras.data.Split`.
        positions: of one such example or more.
    """
    import tensorflow as tf

    first = int(positions[0])
    reason = "missing"
    try:
        one = split.numbered().filter(lambda position, _: position == first)
        list(_read_all(split, one).as_numpy_iterator())
    except tf.errors.OpError as error:
        # Before stands in which node, in which iterator and for which path.
        said = re.split(r"}} |Iterator::\S+: |; ", error.message.split("\n")[0])[-1]
        reason = TOO_LONG if TOO_LONG in said else said[:REASON]
    others = f" and {len(positions) - 1} others" if len(positions) > 1 else ""
    return ValueError(
        f"Expected pictures that can be read. Received: {split.name(first)} "
        f"({reason}){others} of {len(split)}; mend or remove what is damaged, or leave "
        "it out (--skip-bad-files)"
    )


def _read_all(split, numbered):
    """Of each example that `numbered` gives, its position and a pixel."""
    import tensorflow as tf

    def pixel(position, reference):
        return position, read_whole(split, reference)[2]

    return numbered.map(pixel, tf.data.AUTOTUNE)


@contextmanager
def reading(*splits):
    """Name the bad file where reading examples fails inside the block.

    TensorFlow says what is wrong with a picture, but not which one it is. So all of
    them are decoded once more.

    Args:
        splits: whose batches the block reads, by itself or through Keras.

    Raises:
        ValueError: in place of TensorFlow's error, where an example cannot be read.

    Example:
    ```python
    from bn_keras import data

    digits = data.digits()
    with data.reading(digits.train, digits.test):
        images, labels = next(iter(digits.train.batches(32)))
    ```
    """
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.InvalidArgumentError,  # not a picture
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.DataLossError,  # a damaged TFRecord file
        tf.errors.FailedPreconditionError,  # a folder, or fewer records than expected
    ) as failure:
        for split in splits:
            if (bad := find_unreadable(split)).size:
                raise unreadable_error(split, bad) from failure
        raise
