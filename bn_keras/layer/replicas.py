"""The moments of a batch that is spread over the replicas of `tf.distribute`.

On JAX there is nothing to do: an array that `keras.distribution` shards is reduced over
all of its shards.
"""

import keras

from bn_keras.layer.moments import Array, Moments


def in_several_replicas() -> bool:
    """Return whether the caller runs in one of several `tf.distribute` replicas."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    # There is no replica context inside `merge_call` and in cross-replica code.
    return context is not None and context.num_replicas_in_sync > 1


def sum_across_replicas(value: Array) -> Array:
    """Return the sum of a tensor over all replicas; gradients flow to each of them.

    Args:
        value: A tensor with at least one axis. Only valid if `in_several_replicas()`.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def merge_across_replicas(moments: Moments) -> Moments:
    """Merge the moments of all replicas, as if their batches were one.

    With `n = sum n_i`:

    `mean = sum n_i mean_i / n`,
    `variance = sum n_i (variance_i + (mean_i - mean)**2) / n`.

    Unlike `E[x**2] - E[x]**2` this does not cancel where the mean is large. Replicas
    may have different numbers of values, or no values. Gradients flow to every replica.

    Args:
        moments: The moments of this replica. Only valid if `in_several_replicas()`.

    Returns:
        The `Moments` of all replicas together, the same in each.

    Reference:
        Chan, Golub & LeVeque 1983.
    """
    import tensorflow as tf

    total = sum_across_replicas
    mean, variance = moments.mean, moments.variance
    # `all_reduce` has no gradient for scalars, so the count gets the mean's shape.
    own_count = tf.broadcast_to(tf.cast(moments.count, mean.dtype), tf.shape(mean))
    # The moments of an empty replica may be NaN, and 0 * NaN is NaN. `where` keeps them
    # out of the sums and out of their gradients.
    mean, variance = (tf.where(own_count > 0, value, 0) for value in (mean, variance))
    count = total(own_count)
    share = own_count / tf.maximum(count, 1)
    merged_mean = total(mean * share)
    squared_distance = tf.square(mean - merged_mean)
    return Moments(count, merged_mean, total((variance + squared_distance) * share))
