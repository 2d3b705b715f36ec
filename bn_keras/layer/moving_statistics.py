"""The averages that follow the moments of mini-batches."""

from typing import Any

from keras import ops

from bn_keras.layer.moments import Array, Moments, masked_mean, unbiased_variance
from bn_keras.layer.replicas import in_several_replicas

AVERAGINGS = ("moving", "cumulative", "debiased")


def update_weight(averaging: str, momentum: float, updates: Any) -> Any:
    """Return the weight of the newest value in an average of `updates` earlier ones.

    `"cumulative"`: `1 / (updates + 1)`, so that all values have the same weight.
    `"debiased"`: `(1 - momentum) / (1 - momentum**(updates + 1))`, the moving average
    as if it had started at the first value.
    In a plain moving average the weight is always `1 - momentum`.

    Args:
        averaging: `"cumulative"` or `"debiased"`.
        momentum: The weight of the past, in [0, 1]. At 1 both averages are the same.
        updates: The number of values averaged so far: a number or an array.

    Returns:
        The weight, of the shape of `updates`.

    Reference:
        Kingma & Ba 2015, "Adam", section 3.
    """
    if averaging == "cumulative" or momentum == 1:
        return 1 / (updates + 1)
    return (1 - momentum) / (1 - momentum ** (updates + 1))


def update_average(average: Array, value: Array, weight: Any) -> Array:
    """Return `(1 - weight) * average + weight * value`, exact at weights 0 and 1.

    Args:
        average: The old average, an array.
        value: The new value, an array of the same shape.
        weight: The weight of the new value, in [0, 1]. It broadcasts to the others.
    """
    return average + (value - average) * weight


def update_moving_statistics(layer: Any, moments: Moments) -> None:
    """Average the moments of a batch into a layer's moving statistics, by channel.

    Channels with fewer than two values, or with moments that are not finite, keep their
    statistics.

    Args:
        layer: A built `BatchNormalization`.
        moments: The moments of the batch, of the shape that broadcasts to the inputs;
            with virtual batches, of shape `(virtual batches, ...)`.

    Reference:
        Ioffe & Szegedy 2015, section 3.1; Hoffer et al. 2017 for virtual batches.
    """
    count, mean, variance = moments
    # Assignments under `tf.distribute` are collective: if one replica, with too small a
    # share of the batch, returned here, the others would wait for it.
    if isinstance(count, int) and count < 2 and not in_several_replicas():
        return
    population = unbiased_variance(variance, count) if layer.unbiased else variance
    # If the mean is not finite, neither is the variance.
    usable = ops.isfinite(population)
    if not isinstance(count, int) or count < 2:
        usable = ops.logical_and(usable, count >= 2)
    if layer.virtual_batch_size is not None:
        # All virtual batches together count as one update.
        mean, population = (
            masked_mean(values, usable) for values in (mean, population)
        )
        usable = ops.any(usable, axis=0)
    usable = ops.reshape(usable, layer.moving_mean.shape)

    def average_into(variable, value, weight):
        value = ops.cast(ops.reshape(value, variable.shape), variable.dtype)
        old = ops.convert_to_tensor(variable)
        # `where` also keeps a NaN of an unusable channel out of the product.
        change = ops.where(usable, (value - old) * weight, 0)
        new = old + change  # read before the assignment changes it
        variable.assign_add(change)
        return new

    weight = 1 - layer.momentum
    if layer.averaging != "moving":
        updates = ops.convert_to_tensor(layer.updates)
        weight = update_weight(layer.averaging, layer.momentum, updates)
        layer.updates.assign(updates + ops.cast(usable, updates.dtype))
    average_into(layer.moving_mean, mean, weight)
    if not layer.renorm:
        average_into(layer.moving_variance, population, weight)
        return
    stddev = ops.sqrt(variance + layer.epsilon)
    average_into(layer.renorm_mean, mean, 1 - layer.renorm_momentum)
    average_into(layer.renorm_stddev, stddev, 1 - layer.renorm_momentum)
    # With renormalization, as in Keras, the standard deviation is averaged, and the
    # variance is computed from it: weight 1 replaces the old value.
    stddev = average_into(
        layer.moving_stddev, ops.sqrt(population + layer.epsilon), weight
    )
    variance = ops.maximum(ops.square(stddev) - layer.epsilon, 0)
    average_into(layer.moving_variance, variance, 1)
