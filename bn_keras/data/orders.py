"""The order of the examples in each epoch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

# Examples that stay together where whole shards are shuffled and the data set has no
# shards: about as many as a shard of ImageNet holds when there are 1,024 of them.
SHARD = 1024


@dataclass(frozen=True)
class Shuffling:
    """A different order of the examples in each epoch, determined by a seed.

    Args:
        seed: The seed of all orders.
        within_shards: Whether examples are shuffled one by one. If `False`, only whole
            shards change places and the examples of a shard stay in sequence.

    Example:
    ```python
    from bn_keras import data

    train = data.digits().train
    batches = train.batches(32, data.Shuffling(seed=1), epochs=2)
    images, labels = next(iter(batches))
    assert images.shape == (32, 8, 8, 1)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.2.1 (shuffle training examples more thoroughly).
    """

    seed: int
    within_shards: bool = True


def permutation(
    count: int, shuffling: Shuffling | None, epoch: "tf.Tensor"
) -> "tf.Tensor":
    """Return the order of one epoch of examples that can be read one by one.

    Args:
        count: The number of examples.
        shuffling: A `Shuffling`, or `None` to keep their order.
        epoch: The number of the epoch, an int64 scalar tensor.

    Returns:
        The indices from 0 to `count - 1`, an int64 tensor `(count,)`.
    """
    import tensorflow as tf

    if shuffling is None:
        return tf.range(tf.constant(count, tf.int64))
    seed = tf.cast(shuffling.seed, tf.int64)
    # Stateless: the order depends on these two numbers alone, not on how many random
    # numbers were drawn before. So a resumed run sees the same examples.
    seed_of_epoch = tf.stack([seed, epoch])
    if shuffling.within_shards:
        return tf.random.experimental.stateless_shuffle(
            tf.range(tf.constant(count, tf.int64)), seed_of_epoch
        )
    # Assign the examples to shards by one fixed order: files lie sorted by class, and
    # shards cut from that would hold one class each. NumPy's generator is the same in
    # every epoch, as the members of a shard must be.
    shards = -(-count // SHARD)
    members = np.random.default_rng(shuffling.seed).permutation(count)
    # Fill the last shard up with -1 so that all are rows of one array.
    members = np.pad(members, (0, shards * SHARD - count), constant_values=-1)
    shuffled = tf.gather(
        tf.constant(members.reshape(shards, SHARD), tf.int64),
        tf.random.experimental.stateless_shuffle(tf.range(shards), seed_of_epoch),
    )
    shuffled = tf.reshape(shuffled, [-1])
    return tf.boolean_mask(shuffled, shuffled >= 0)
