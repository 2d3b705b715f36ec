"""Examples in memory."""

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bn_keras.data.splits import Split
from bn_keras.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    import tensorflow as tf


class Arrays(Split):
    """Examples in memory.

    Args:
        images: `(examples, height, width, channels)`, float32 in [0, 1] or uint8.
        labels: int64 `(examples,)`, indices of the class names.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:  # noqa: D102
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.images.shape, self.images.dtype)).encode())
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def hold_out(self, every: int) -> "tuple[Arrays, Arrays]":  # noqa: D102
        held = self._every(self.labels, every)
        others = np.delete(np.arange(len(self)), held)
        return (
            Arrays(self.images[others], self.labels[others]),
            Arrays(self.images[held], self.labels[held]),
        )

    @cached_property
    def _tensors(self) -> "tuple[tf.Tensor, tf.Tensor]":
        import tensorflow as tf

        # init_scope: `read` first runs while a tf.data function is traced, and a tensor
        # of that graph could not be used in the next one. Not on a GPU, whose memory is
        # for the model.
        with tf.init_scope(), tf.device("cpu"):
            return tf.constant(self.images), tf.constant(self.labels)

    def read(  # noqa: D102 (documented in Split)
        self, reference: "tf.Tensor"
    ) -> "tuple[tf.Tensor, tf.Tensor]":
        import tensorflow as tf

        images, labels = self._tensors
        return tf.gather(images, reference), tf.gather(labels, reference)

    def can_read_batches(self, preprocessing: Preprocessing) -> bool:  # noqa: D102
        # `read` gathers any number of examples, but a resize takes them one by one.
        return preprocessing.resized_size == self.shape[:2]
