"""Moments of the whole batch where each replica holds a part of it.

Knows `tf.distribute`; on JAX there is nothing to do, since an array that
`keras.distribution` shards is reduced over all of its shards.
"""

import keras

from bn_keras.layer.moments import Moments


def in_several_replicas():
    """Whether this runs in one of several replicas of a `tf.distribute` strategy."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


def merge_across_replicas(moments):
    """Merge the replicas' moments by count, mean and squared distances.

    With `n = sum n_i`: `mean = sum n_i mean_i / n`,
    `variance = sum n_i (variance_i + (mean_i - mean)**2) / n`, never
    `E[x**2] - E[x]**2`. Replicas may hold different numbers of values, or none.
    Gradients flow to every replica.

    Args:
        moments: this replica's `Moments`; `in_several_replicas()` holds.

    Returns:
        The `Moments` of all replicas together.

    Reference:
        Chan, Golub & LeVeque 1983.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()

    def total(value):
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    mean, variance = moments.mean, moments.variance
    # An array of the mean's shape: the gradient of all_reduce wants no scalars.
    own = tf.broadcast_to(tf.cast(moments.count, mean.dtype), tf.shape(mean))
    # The moments of an empty replica may be NaN; they weigh nothing, gradients neither.
    mean, variance = (tf.where(own > 0, value, 0) for value in (mean, variance))
    count = total(own)
    share = own / tf.maximum(count, 1)
    merged = total(mean * share)
    return Moments(count, merged, total((variance + tf.square(mean - merged)) * share))
