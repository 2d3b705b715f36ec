"""Find the examples that cannot be read, and name them in an error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from bn_keras.data.layouts import count_noun
from bn_keras.images import pixels

if TYPE_CHECKING:
    import tensorflow as tf

    from bn_keras.data.splits import Split

# What becomes of files that cannot be read.
BadFiles = Literal["error", "skip"]
# The number of characters of TensorFlow's own message that an error repeats.
REASON = 120
TOO_LONG = f"more than {pixels.MAX_ENLARGEMENT} times as long as wide"


def check_bad_files(bad_files: str) -> None:
    """Raise a `ValueError` if `bad_files` is not one of `BadFiles`."""
    if bad_files not in get_args(BadFiles):
        raise ValueError(
            f"`bad_files` must be one of {', '.join(get_args(BadFiles))}. "
            f"Received: bad_files={bad_files!r}"
        )


def read_and_decode(
    split: "Split", reference: "tf.Tensor"
) -> "tuple[tf.Tensor, tf.Tensor, tf.Tensor]":
    """Read an example and make sure that it is an image that can be resized.

    Args:
        split: The `Split` of the example.
        reference: An element of its `order`.

    Returns:
        `(content, label, pixel)`, the first two as `split.read` returns them. `pixel`
        is one value of the decoded image.

    Raises:
        tf.errors.OpError: If the file cannot be read or decoded, or the image is more
            than 16 times as long as wide.
    """
    import tensorflow as tf

    content, label = split.read(reference)
    image = content
    if content.dtype == tf.string:
        image = pixels.decode(content, split.shape[-1])
    sides = tf.shape(image)[:2]
    is_not_too_long = tf.debugging.assert_less_equal(
        tf.reduce_max(sides), pixels.MAX_ENLARGEMENT * tf.reduce_min(sides), TOO_LONG
    )
    with tf.control_dependencies([is_not_too_long]):
        # TensorFlow prunes a decoding whose result is unused, so one pixel is returned.
        return content, label, tf.identity(image[0, 0, 0])


def find_unreadable(
    split: "Split", positions: np.ndarray | None = None, threads: int | None = None
) -> np.ndarray:
    """Decode examples in parallel, to find those that cannot be read.

    Files that an earlier call has decoded, and that have not changed since, are not
    decoded again.

    Args:
        split: A `Split`.
        positions: The positions of the examples to decode. `None` is all, and files
            that are readable are remembered.
        threads: The number of examples decoded at the same time. `None` is as many as
            TensorFlow chooses.

    Returns:
        The positions of these examples, int64, ascending.
    """
    unchecked = split.unchecked() if positions is None else positions
    if not unchecked.size:
        return unchecked
    # The examples that fail, or whose record fails, are missing among the results.
    numbered = split.enumerate_references(skip_damaged=True)
    if unchecked.size < len(split.positions()):
        is_unchecked = np.zeros(int(split.positions().max()) + 1, bool)
        is_unchecked[unchecked] = True
        numbered = numbered.filter(lambda *pair: _gather(is_unchecked, pair[0]))
    readable = np.array(
        [
            position
            for position, _ in _decode_all(split, numbered, threads)
            .ignore_errors()
            .as_numpy_iterator()
        ],
        np.int64,
    )
    if positions is None:
        split.mark_checked(readable)
    return np.setdiff1d(unchecked, readable)


def unreadable_error(split: "Split", positions: np.ndarray) -> ValueError:
    """Return the error that says which examples cannot be read, and why.

    Args:
        split: A `Split`.
        positions: The positions of such examples, at least one.
    """
    import tensorflow as tf

    first = int(positions[0])
    # A reference that does not even come is that of a record that is not there.
    reason = "missing"
    try:
        numbered = split.enumerate_references()
        numbered = numbered.filter(lambda *pair: pair[0] == first)
        list(_decode_all(split, numbered).as_numpy_iterator())
    except tf.errors.OpError as error:
        # TensorFlow puts the node, the iterator and the path before the reason.
        message = re.split(r"}} |Iterator::\S+: |; ", error.message.split("\n")[0])[-1]
        reason = TOO_LONG if TOO_LONG in message else message[:REASON]
    others = len(positions) - 1
    and_others = f" and {count_noun(others, 'other')}" if others else ""
    return ValueError(
        f"Every image must be readable. Received: {split.describe(first)} "
        f"({reason}){and_others} of {len(split)}. Repair or remove the damaged files, "
        "or leave them out (--skip-bad-files)."
    )


def _gather(values: np.ndarray, index: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.gather(values, index)


def _decode_all(
    split: "Split", numbered: "tf.data.Dataset[Any]", threads: int | None = None
):
    """Return the position and a pixel of each `(position, reference)`."""
    import tensorflow as tf

    def decode(position, reference):
        return position, read_and_decode(split, reference)[2]

    return numbered.map(decode, threads or tf.data.AUTOTUNE)


@contextmanager
def report_bad_files(*splits: "Split") -> Iterator[None]:
    """Name the file in the error if reading an example fails inside the block.

    TensorFlow reports what is wrong with an image, but not which one it is. After such
    an error all examples are decoded once more to find it.

    Args:
        splits: The splits whose mini-batches the block reads, itself or through Keras.

    Raises:
        ValueError: Instead of TensorFlow's error, if an example cannot be read.

    Example:
    ```python
    from bn_keras import data

    digits = data.digits()
    with data.report_bad_files(digits.train, digits.test):
        images, labels = next(iter(digits.train.batches(32)))
    ```
    """
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.InvalidArgumentError,  # not an image
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.DataLossError,  # a damaged TFRecord file
        tf.errors.FailedPreconditionError,  # a folder, or fewer records than expected
    ) as error:
        for split in splits:
            if (unreadable := find_unreadable(split)).size:
                raise unreadable_error(split, unreadable) from error
        # The files are not the cause.
        raise
