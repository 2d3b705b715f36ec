"""The layout that TensorFlow's fused kernels take."""

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

from keras import ops

from bn_keras.layer.moments import Array

# On CPUs the kernels take 2.5 to 5 times as long per value if this does not divide the
# number of channels (`python -m benchmarks.layer --kernels`).
CHANNEL_MULTIPLE = 4


class FusedLayout:
    """How a tensor is seen as `(batch, positions, 1, channels)`, and back.

    If `CHANNEL_MULTIPLE` does not divide the channels, several positions may count as
    one position of more channels: they are folded. The moments of the folds are then to
    be merged.

    Args:
        inputs: A tensor `(batch, ...)`.
        axes: The axes over which moments are computed, in ascending order.
        fold: Whether positions may be folded.
        across_examples: Whether positions of two examples may be folded together,
            which depends on the size of the batch.
    """

    def __init__(
        self,
        inputs: Array,
        axes: Sequence[int],
        fold: bool,
        across_examples: bool = True,
    ) -> None:
        sizes: Any = ops.shape(inputs)  # ints where they are known
        kept = [axis for axis in range(len(sizes)) if axis not in axes]
        self.order = [*axes, *kept]
        self.reduced = len(axes)
        self.static_shape = inputs.shape
        self.sizes = [sizes[axis] for axis in self.order]
        self.weight_shape = [1 if a in axes else n for a, n in enumerate(sizes)]
        self.channels: Any = prod(self.sizes[self.reduced :])
        self.folds, self.in_examples = 1, True
        if fold:
            self._choose_folds(across_examples)

    def _choose_folds(self, across_examples: bool) -> None:
        known = [n for n in self.sizes[self.reduced :] if isinstance(n, int)]
        folds = CHANNEL_MULTIPLE // gcd(CHANNEL_MULTIPLE, prod(known))
        batch, *positions = self.sizes[: self.reduced]
        if not all(isinstance(size, int) for size in positions):
            return
        if prod(positions) % folds == 0:
            self.folds = folds
        elif (
            across_examples
            and isinstance(batch, int)
            and prod(positions) * batch % folds == 0
        ):
            self.folds, self.in_examples = folds, False  # positions of two examples

    def has_slow_channels(self) -> bool:
        """Return whether folding does not help: positions do not fit, or one channel.

        Vector instructions sum a single channel as fast by the formula.
        """
        sizes = self.sizes[self.reduced :]
        known = prod(n for n in sizes if isinstance(n, int))
        has_one = all(isinstance(n, int) and n == 1 for n in sizes)
        return has_one or bool(self.folds * known % CHANNEL_MULTIPLE)

    def _is_packed(self) -> bool:
        return self.folds == 1 and self.reduced == 3 and len(self.sizes) == 4

    def pack(self, values: Array) -> Array:
        """Return a tensor of the inputs' shape as the kernels take it."""
        import tensorflow as tf

        if self.order != sorted(self.order):
            values = tf.transpose(values, self.order)
        if self._is_packed():
            return values
        # The kernels are slower on (m, 1, 1, channels) than on a batch of positions, so
        # the batch stays the first axis.
        shape = [self.sizes[0], -1] if self.in_examples else [-1, 1]
        if self.reduced == 1 and self.in_examples:
            shape = [-1, 1]  # also for an empty batch
        return tf.reshape(values, [*shape, 1, self.folds * self.channels])

    def unpack(self, values: Array) -> Array:
        """Return a tensor of the inputs' shape: the inverse of `pack`."""
        import tensorflow as tf

        if self._is_packed() and self.order == sorted(self.order):
            return values
        values = tf.reshape(values, self.sizes)
        if self.order != sorted(self.order):
            inverse = [self.order.index(axis) for axis in range(len(self.order))]
            values = tf.transpose(values, inverse)
        # A reshape to a dynamic shape forgets what is known statically.
        return tf.ensure_shape(values, self.static_shape)

    def pack_weight(self, weight: Array) -> Array:
        """Return a weight of the kernels: one value for each channel and fold."""
        import tensorflow as tf

        weight = tf.reshape(weight, [self.channels])
        return weight if self.folds == 1 else tf.tile(weight, [self.folds])

    def unpack_weight(self, weight: Array) -> Array:
        """Return a weight that broadcasts to the inputs, from one value a channel."""
        import tensorflow as tf

        return tf.reshape(weight, self.weight_shape)

    def split_folds(self, weight: Array) -> Array:
        """Return a weight of the kernels as `(folds, channels)`."""
        import tensorflow as tf

        return tf.reshape(weight, [self.folds, self.channels])
