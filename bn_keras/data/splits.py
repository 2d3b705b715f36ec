"""Examples of one purpose: in which order they come, how one is read, their batches.

Knows neither where examples lie nor which data set they are.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from bn_keras.data.bad_files import find_unreadable, unreadable_error
from bn_keras.data.orders import Shuffling
from bn_keras.images import pixels
from bn_keras.images.augmentation import augment
from bn_keras.images.preprocessing import Augmentation, Preprocessing


class Split(ABC):
    """Examples of one purpose: pictures with their labels.

    A subclass says how many there are (`len`), in which `order` they come, and how to
    `read` what the order names. Orders are functions of the seed and the epoch, so
    that a stream of examples may begin anywhere and still be the same.
    """

    # Height, width and channels of every picture; None for a side that varies.
    shape: tuple[int | None, int | None, int]

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def order(self, shuffling: Shuffling | None, epoch: Any) -> Any:
        """What `read` takes, for each example of an epoch, in that epoch's order.

        Args:
            shuffling: a `Shuffling`; None for the order in which they lie.
            epoch: int64 tensor, the number of the epoch.

        Returns:
            A `tf.data.Dataset` of `len(self)` references.
        """

    @abstractmethod
    def read(self, reference: Any) -> Any:
        """One example.

        Args:
            reference: an element of `order`.

        Returns:
            `(content, label)`: the picture, a tensor `(height, width, channels)` of
            numbers as `pictures.unit` takes them, or the bytes of its file; and its
            label, int64.
        """

    def name(self, position: int) -> str:
        """The example at that position of those that lie there, in a user's words."""
        return f"example {position}"

    def positions(self):
        """The positions of the examples, int64 `(len(self),)`, ascending."""
        return np.arange(len(self))

    def numbered(self, past_damage: bool = False):
        """Every example in the order in which they lie.

        Args:
            past_damage: whether to go on where references themselves are damaged.

        Returns:
            A `tf.data.Dataset` of `(position, reference)`.
        """
        import tensorflow as tf

        return self.order(None, tf.constant(0, tf.int64)).enumerate()

    def check(self):
        """Decode every example once.

        Raises:
            ValueError: for one that cannot be read; it names the file.
        """
        if (bad := find_unreadable(self)).size:
            raise unreadable_error(self, bad)

    def pictures(self):
        """Every picture in its own size, in the order in which they lie.

        Returns:
            A `tf.data.Dataset` of `(picture, label)`, the picture float32 `(height,
            width, channels)` in [0, 1].
        """
        import tensorflow as tf

        def picture(reference):
            content, label = self.read(reference)
            return pixels.decode_to_unit_range(content, self.shape[-1]), label

        return self.order(None, tf.constant(0, tf.int64)).map(
            picture, tf.data.AUTOTUNE, deterministic=True
        )

    def batches(
        self,
        batch_size: int,
        shuffling: Shuffling | None = None,
        preprocessing: Preprocessing | None = None,
        distortion: Augmentation | None = None,
        *,
        epochs: int | None = 1,
        first_epoch: int = 0,
        first: int = 0,
        part: tuple[int, int] = (0, 1),
    ):
        """Mini-batches `(images, labels)` as a model takes them.

        The stream runs on from one epoch to the next: every mini-batch but the very
        last is full. Mini-batch `i` holds the examples `i * batch_size` and following,
        whatever `first` is, bitwise.

        Args:
            batch_size: examples a mini-batch, over all parts.
            shuffling: None keeps the order.
            preprocessing: how a picture becomes an input; None for its own size and
                values in [0, 1].
            distortion: random crops, mirrors and colours; None for none.
            epochs: passes over the examples; None for no end.
            first_epoch: number of the first epoch, which decides on its order.
            first: mini-batches to leave out at the beginning.
            part: `(index, parts)`: of each mini-batch only that part, for one of
                several machines.

        Returns:
            A `tf.data.Dataset`.

        Raises:
            ValueError: where the pictures have several sizes and `preprocessing` none,
                or a mini-batch cannot be divided into the parts.
        """
        import tensorflow as tf

        if not len(self):
            raise ValueError("Expected one example at least. Received: none")
        index, parts = part
        if batch_size % parts:
            raise ValueError(
                f"`batch_size` must be divisible by the {parts} machines. Received: "
                f"batch_size={batch_size}"
            )
        wanted = preprocessing or Preprocessing()
        fitted = wanted.resolve((None, *(wanted.size or self.shape[:2]), self.shape[-1]))
        if fitted.size is None:
            raise ValueError(
                "The pictures have sizes of their own. Expected a preprocessing with "
                "the model's size. Received: none; give one (--image-size)"
            )
        last = np.iinfo(np.int64).max if epochs is None else first_epoch + epochs
        # Whole epochs are left out without making their orders.
        past, rest = divmod(first * batch_size, len(self))
        references = tf.data.Dataset.range(first_epoch + past, last).flat_map(
            lambda epoch: self.order(shuffling, epoch)
        )
        references = references.enumerate(past * len(self)).skip(rest)
        # Keras takes the end of a data set of unknown length for a mistake.
        left = tf.data.INFINITE_CARDINALITY
        if epochs is not None:
            left = max(0, epochs * len(self) - first * batch_size)
        references = references.apply(tf.data.experimental.assert_cardinality(left))
        share = batch_size // parts
        if parts > 1:
            references = references.filter(
                lambda *pair: pair[0] % batch_size // share == index
            )
        if distortion is None and self.reads_batches_for(fitted):
            return (
                references.map(lambda _, reference: reference)
                .batch(share)
                .map(
                    lambda many: _input(self.read(many), fitted),
                    tf.data.AUTOTUNE,
                    deterministic=True,
                )
                .prefetch(tf.data.AUTOTUNE)
            )
        # Every example has random numbers of its own, wherever the stream begins.
        seed = tf.constant(0 if shuffling is None else shuffling.seed, tf.int64)
        start = first_epoch * len(self)
        return (
            references.map(
                lambda number, reference: _input(
                    self.read(reference),
                    fitted,
                    distortion,
                    tf.stack([seed, start + number]),
                ),
                tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(share)
            .prefetch(tf.data.AUTOTUNE)
        )

    def reads_batches_for(self, preprocessing: Preprocessing) -> bool:
        """Whether `read` takes many references, and no picture needs a resize."""
        return False


def _input(example, preprocessing, distortion=None, seed=None):
    content, label = example
    if distortion is None:
        return pixels.preprocess(content, preprocessing), label
    return augment(content, preprocessing, distortion, seed), label


@dataclass(frozen=True)
class Data:
    """A data set: its name, its two splits, its class names.

    `skipped` names the bad files that were left out.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    @property
    def shape(self):
        """Height, width and channels of every picture; None for a side that varies."""
        return self.train.shape
