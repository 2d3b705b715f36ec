"""Examples in memory.

Knows NumPy arrays; no file.
"""

from functools import cached_property

from bn_keras.data.orders import permutation
from bn_keras.data.splits import Split


class Arrays(Split):
    """Examples in memory.

    Args:
        images: `(examples, height, width, channels)`, float32 in [0, 1] or uint8.
        labels: int64 `(examples,)`, indices of the class names.
    """

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.shape = images.shape[1:]

    def __len__(self):
        return len(self.labels)

    @cached_property
    def _tensors(self):
        import tensorflow as tf

        with tf.init_scope(), tf.device("cpu"):
            return tf.constant(self.images), tf.constant(self.labels)

    def order(self, shuffling, epoch):  # noqa: D102 (as Split has it)
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(
            permutation(len(self), shuffling, epoch)
        )

    def read(self, reference):  # noqa: D102
        import tensorflow as tf

        images, labels = self._tensors
        return tf.gather(images, reference), tf.gather(labels, reference)

    def reads_batches_for(self, preprocessing):  # noqa: D102
        return preprocessing.resized_size == self.shape[:2]
