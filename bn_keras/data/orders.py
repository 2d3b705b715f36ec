"""The order of the examples in each epoch.

Knows numbers of examples; not what they are.
"""

from dataclasses import dataclass

import numpy as np

# Examples that "shuffled, but not within shards" keeps together where the data set has
# no shards of its own: about as many as a shard of ImageNet holds (1,024 shards).
SHARD = 1024


@dataclass(frozen=True)
class Shuffling:
    """A fresh order of the examples in each epoch, a function of the seed.

    Args:
        seed: of the orders.
        within_shards: whether examples are drawn one by one, or only whole shards
            change places and an example keeps its neighbours.

    Reference:
        Ioffe & Szegedy 2015, section 4.2.1 (shuffle more thoroughly).
    """

    seed: int
    within_shards: bool = True


def permutation(count, shuffling, epoch):
    """The order of one epoch of examples that can be read one by one.

    Args:
        count: number of examples.
        shuffling: a `Shuffling`, or None.
        epoch: int64 tensor.

    Returns:
        The indices from 0 to `count`, an int64 tensor `(count,)`.
    """
    import tensorflow as tf

    if shuffling is None:
        return tf.range(tf.constant(count, tf.int64))
    seed = tf.cast(shuffling.seed, tf.int64)
    if shuffling.within_shards:
        return tf.random.experimental.stateless_shuffle(
            tf.range(tf.constant(count, tf.int64)), tf.stack([seed, epoch])
        )
    # Shards of examples that stay together, cut from one order that never changes.
    shards = -(-count // SHARD)
    fixed = np.random.default_rng(shuffling.seed).permutation(count)
    fixed = np.pad(fixed, (0, shards * SHARD - count), constant_values=-1)
    moved = tf.gather(
        tf.constant(fixed.reshape(shards, SHARD), tf.int64),
        tf.random.experimental.stateless_shuffle(
            tf.range(shards), tf.stack([seed, epoch])
        ),
    )
    moved = tf.reshape(moved, [-1])
    return tf.boolean_mask(moved, moved >= 0)
