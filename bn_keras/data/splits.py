"""The examples of one purpose, training or test: their order and their mini-batches."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from bn_keras.data.bad_files import find_unreadable, unreadable_error
from bn_keras.data.orders import Shuffling, permutation
from bn_keras.images import pixels
from bn_keras.images.augmentation import augment
from bn_keras.images.preprocessing import Augmentation, Preprocessing

if TYPE_CHECKING:
    import tensorflow as tf


class Split(ABC):
    """The examples of one purpose, training or test: images with their labels.

    A subclass defines how many there are (`len`) and how to `read` one of them, and
    if it cannot read them in any order, in which `order` they come. An order is a
    function of the seed and the epoch only, so that a stream of examples can begin
    anywhere and stay the same.
    """

    # Height, width and channels of every image; None for a side that varies.
    shape: tuple[int | None, int | None, int]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    def order(
        self, shuffling: Shuffling | None, epoch: "tf.Tensor"
    ) -> "tf.data.Dataset[Any]":
        """Return a reference to each example, in the order of one epoch.

        Args:
            shuffling: A `Shuffling`, or `None` for the order in which they are stored.
            epoch: The number of the epoch, an int64 scalar tensor.

        Returns:
            A `tf.data.Dataset` of `len(self)` references, which `read` accepts: the
            position of each example, if a subclass does not redefine this.
        """
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(
            permutation(len(self), shuffling, epoch)
        )

    def number_references(
        self,
        shuffling: Shuffling | None,
        batch_size: int,
        first_epoch: int,
        last_epoch: int,
        first_batch: int,
        part: tuple[int, int],
    ) -> "tf.data.Dataset[Any]":
        """Return the references of a stream of mini-batches, each with its number.

        Args:
            shuffling: As in `batches`.
            batch_size: As in `batches`.
            first_epoch: As in `batches`.
            last_epoch: The number of the epoch before which the stream ends.
            first_batch: As in `batches`.
            part: As in `batches`. Some examples of other parts may be returned too.

        Returns:
            A `tf.data.Dataset` of `(number, reference)` in ascending order. Numbers
            count from the first example of `first_epoch`.
        """
        import tensorflow as tf

        # Whole epochs are left out before their orders are computed. Of the first epoch
        # that remains, only references are skipped: nothing is read or decoded.
        epochs_skipped, rest = divmod(first_batch * batch_size, len(self))
        references = tf.data.Dataset.range(
            first_epoch + epochs_skipped, last_epoch
        ).flat_map(lambda epoch: self.order(shuffling, epoch))
        # Number the examples as the whole stream does, wherever this one begins.
        return references.enumerate(epochs_skipped * len(self)).skip(rest)

    @abstractmethod
    def read(self, reference: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        """Read one example.

        Args:
            reference: An element of `order`.

        Returns:
            `(content, label)`. The content is an image `(height, width, channels)`,
            uint8 or float32 in [0, 1], or the bytes of its file; the label is int64.
        """

    def describe(self, position: int) -> str:
        """Return the text that identifies the stored example at a position."""
        return f"example {position}"

    def fingerprint(self) -> str:
        """Return a text that tells the examples from others, or "" for unknown."""
        return ""

    def hold_out(self, every: int) -> "tuple[Split, Split]":
        """Divide the split: the first of every so many examples of a class is held out.

        Args:
            every: 10 holds out a tenth of each class.

        Returns:
            `(others, held_out)`.

        Raises:
            ValueError: If the examples can only be read one after the other.
        """
        raise ValueError(
            "The data set must have validation examples, from which an epoch is "
            f"chosen. Received: {self!r}, of which none can be held out. Add a folder "
            "val beside train and test, and convert it."
        )

    @staticmethod
    def _every(labels: np.ndarray, every: int) -> np.ndarray:
        """Return the positions of the first of every so many examples of a class."""
        chosen = [np.flatnonzero(labels == label)[::every] for label in set(labels)]
        return np.sort(np.concatenate(chosen))

    def unchecked(self) -> np.ndarray:
        """Return the positions of the examples that may not be readable."""
        return self.positions()

    def mark_checked(self, positions: np.ndarray) -> None:  # noqa: B027 (optional)
        """Remember that the examples at these positions are readable."""

    def positions(self) -> np.ndarray:
        """Return the positions of the examples, int64 `(len(self),)`, ascending."""
        return np.arange(len(self))

    def enumerate_references(
        self, skip_damaged: bool = False
    ) -> "tf.data.Dataset[Any]":
        """Return every example in the order in which they are stored.

        Args:
            skip_damaged: Whether to continue after references that are damaged.

        Returns:
            A `tf.data.Dataset` of `(position, reference)`.
        """
        import tensorflow as tf

        return self.order(None, tf.constant(0, tf.int64)).enumerate()

    def check(self) -> None:
        """Decode every example once.

        Raises:
            ValueError: If an example cannot be read. The text names its file.
        """
        if (unreadable := find_unreadable(self)).size:
            raise unreadable_error(self, unreadable)

    def original_images(self) -> "tf.data.Dataset[Any]":
        """Return every image in its original size, in the order of storage.

        Returns:
            A `tf.data.Dataset` of `(image, label)`, the image float32 `(height, width,
            channels)` in [0, 1].
        """
        import tensorflow as tf

        def decode(reference):
            content, label = self.read(reference)
            return pixels.decode_to_unit_range(content, self.shape[-1]), label

        return self.order(None, tf.constant(0, tf.int64)).map(
            decode, tf.data.AUTOTUNE, deterministic=True
        )

    def batches(
        self,
        batch_size: int,
        shuffling: Shuffling | None = None,
        preprocessing: Preprocessing | None = None,
        augmentation: Augmentation | None = None,
        *,
        epochs: int | None = 1,
        first_epoch: int = 0,
        first_batch: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> "tf.data.Dataset[Any]":
        """Return mini-batches `(images, labels)` as a model takes them.

        The stream continues from one epoch to the next: every mini-batch but the very
        last is full. Mini-batch `i` is bitwise the same wherever the stream begins.

        Args:
            batch_size: The number of examples in a mini-batch, over all parts.
            shuffling: A `Shuffling`, or `None` to keep the order of storage.
            preprocessing: How an image becomes an input of the model. `None` keeps its
                size and scales its values to [0, 1].
            augmentation: Random crops, mirroring and colors, or `None`.
            epochs: The number of passes over the examples. `None` never ends.
            first_epoch: The number of the first epoch, which determines its order.
            first_batch: The number of mini-batches to leave out at the beginning.
            part: `(index, parts)`. Only this part of each mini-batch is returned, for
                one of several machines.

        Returns:
            A `tf.data.Dataset` of `(images, labels)`: float32 `(batch, height, width,
            channels)` and int64 `(batch,)`.

        Raises:
            ValueError: If the images have different sizes and `preprocessing` has none,
                or a mini-batch cannot be divided into the parts.

        Example:
        ```python
        from bn_keras import data

        digits = data.digits()
        for images, labels in digits.test.batches(100).take(1):
            assert images.shape == (100, 8, 8, 1)
        ```
        """
        import tensorflow as tf

        if not len(self):
            raise ValueError(
                "The split must have at least one example. Received: 0 examples"
            )
        index, parts = part
        if batch_size % parts:
            raise ValueError(
                f"`batch_size` must be divisible by the {parts} machines. Received: "
                f"batch_size={batch_size}"
            )
        preprocessing = preprocessing or Preprocessing()
        size = preprocessing.size or self.shape[:2]
        preprocessing = preprocessing.resolve((None, *size, self.shape[-1]))
        if preprocessing.size is None:
            raise ValueError(
                "`preprocessing` must have a size, as the images have different sizes. "
                "Received: no size. Set the size of the model's input (--image-size)."
            )
        last_epoch = np.iinfo(np.int64).max if epochs is None else first_epoch + epochs
        references = self.number_references(
            shuffling, batch_size, first_epoch, last_epoch, first_batch, part
        )
        part_size = batch_size // parts
        if parts > 1:
            references = references.filter(
                lambda *pair: pair[0] % batch_size // part_size == index
            )
        # flat_map makes the length unknown, and Keras warns at the end of such a stream
        # that it "ran out of data".
        remaining = tf.data.INFINITE_CARDINALITY
        if epochs is not None:
            full, rest = divmod(epochs * len(self), batch_size)
            rest = min(max(rest - index * part_size, 0), part_size)
            remaining = max(0, (full - first_batch) * part_size + rest)
        references = references.apply(
            tf.data.experimental.assert_cardinality(remaining)
        )
        if augmentation is None and self.can_read_batches(preprocessing):
            # One call a mini-batch instead of one an example: much faster for arrays.
            return (
                references.map(lambda _, reference: reference)
                .batch(part_size)
                .map(
                    lambda batch: _preprocess(self.read(batch), preprocessing),
                    tf.data.AUTOTUNE,
                    deterministic=True,
                )
                .prefetch(tf.data.AUTOTUNE)
            )
        # The random numbers of an example depend on the seed and on its number in the
        # whole stream, not on where this stream begins or on other examples.
        seed = tf.constant(0 if shuffling is None else shuffling.seed, tf.int64)
        number_of_first = first_epoch * len(self)
        return (
            references.map(
                lambda number, reference: _preprocess(
                    self.read(reference),
                    preprocessing,
                    augmentation,
                    tf.stack([seed, number_of_first + number]),
                ),
                tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(part_size)
            .prefetch(tf.data.AUTOTUNE)
        )

    def can_read_batches(self, preprocessing: Preprocessing) -> bool:
        """Return whether `read` takes many references and no image is resized."""
        return False

    def __repr__(self) -> str:
        shape = describe_shape(self.shape)
        return f"{type(self).__name__}({len(self):,} examples, {shape})"


def _preprocess(example, preprocessing, augmentation=None, seed=None):
    content, label = example
    if augmentation is None:
        return pixels.preprocess(content, preprocessing), label
    return augment(content, preprocessing, augmentation, seed), label


def describe_shape(shape: tuple[int | None, ...]) -> str:
    """Return a shape as text, `?` for a side that varies."""
    return " x ".join("?" if side is None else str(side) for side in shape)
