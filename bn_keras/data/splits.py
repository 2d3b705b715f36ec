"""The examples of one purpose, training or test: their order and their mini-batches."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bn_keras.data.bad_files import find_unreadable, unreadable_error
from bn_keras.data.orders import Shuffling, permutation
from bn_keras.html_tables import html_table
from bn_keras.images import pixels
from bn_keras.images.augmentation import augment
from bn_keras.images.preprocessing import Augmentation, Preprocessing

if TYPE_CHECKING:
    import tensorflow as tf

# More class names than these are not shown in full.
_CLASSES_SHOWN = 12


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
        # Whole epochs are left out before their orders are computed. Of the first epoch
        # that remains, only references are skipped: nothing is read or decoded.
        epochs_skipped, rest = divmod(first_batch * batch_size, len(self))
        references = tf.data.Dataset.range(
            first_epoch + epochs_skipped, last_epoch
        ).flat_map(lambda epoch: self.order(shuffling, epoch))
        # Number the examples as the whole stream does, wherever this one begins.
        references = references.enumerate(epochs_skipped * len(self)).skip(rest)
        # flat_map makes the length unknown, and Keras warns at the end of such a stream
        # that it "ran out of data".
        remaining = tf.data.INFINITE_CARDINALITY
        if epochs is not None:
            remaining = max(0, epochs * len(self) - first_batch * batch_size)
        references = references.apply(
            tf.data.experimental.assert_cardinality(remaining)
        )
        part_size = batch_size // parts
        if parts > 1:
            references = references.filter(
                lambda *pair: pair[0] % batch_size // part_size == index
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
        return f"{type(self).__name__}({len(self):,} examples, {_shape(self.shape)})"


def _preprocess(example, preprocessing, augmentation=None, seed=None):
    content, label = example
    if augmentation is None:
        return pixels.preprocess(content, preprocessing), label
    return augment(content, preprocessing, augmentation, seed), label


def _shape(shape):
    """Return a shape as text, `?` for a side that varies."""
    return " x ".join("?" if side is None else str(side) for side in shape)


@dataclass(frozen=True, repr=False)
class Data:
    """A data set.

    Args:
        name: The name of the data set.
        train: The training examples.
        test: The test examples.
        class_names: The name of each class, in the order of the labels.
        skipped: The bad files that were left out.

    Example:
    ```python
    from bn_keras import data

    digits = data.digits()
    assert len(digits.train) == 1437
    assert digits.class_names[3] == "3"
    ```
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of every image; `None` for a side that varies."""
        return self.train.shape

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped):,} skipped" if self.skipped else ""
        return (
            f"Data({self.name!r}, train={self.train!r}, test={self.test!r}, "
            f"{len(self.class_names):,} classes{skipped})"
        )

    def _repr_html_(self) -> str:
        names = ", ".join(self.class_names[:_CLASSES_SHOWN])
        if len(self.class_names) > _CLASSES_SHOWN:
            names += ", ..."
        rows = [
            ("train", f"{len(self.train):,} examples"),
            ("test", f"{len(self.test):,} examples"),
            ("image", _shape(self.shape)),
            ("classes", f"{len(self.class_names):,}: {names}"),
        ]
        if self.skipped:
            rows.append(("bad files skipped", f"{len(self.skipped):,}"))
        return html_table(rows, caption=self.name)
