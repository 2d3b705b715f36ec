"""The averages that follow the moments of mini-batches."""

from typing import Any, NamedTuple

from keras import ops

from bn_keras.layer.moments import Array, Moments, unbiased_variance
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


class BatchStatistics(NamedTuple):
    """What a mini-batch adds to the moving statistics.

    Args:
        mean: The mean of the batch.
        variance: The variance that normalized it.
        population: The variance to average: the unbiased one, if the layer asks for it.
        usable: Whether a channel had two values or more, and finite moments. None if no
            channel had: nothing is to be updated.
    """

    mean: Array
    variance: Array
    population: Array
    usable: Array


def batch_statistics(layer: Any, moments: Moments) -> BatchStatistics:
    """Return what the moments of a batch add to a layer's moving statistics."""
    count, mean, variance = moments
    population = unbiased_variance(variance, count) if layer.unbiased else variance
    # If the mean is not finite, neither is the variance.
    usable = ops.isfinite(population)
    if not isinstance(count, int):
        usable = ops.logical_and(usable, count >= 2)
    elif count < 2:
        # Assignments under `tf.distribute` are collective: if one replica, with too
        # small a share of the batch, left them out, the others would wait for it.
        usable = ops.zeros_like(usable) if in_several_replicas() else None
    return BatchStatistics(mean, variance, population, usable)


def update_moving_statistics(layer: Any, statistics: BatchStatistics) -> None:
    """Average the statistics of a batch into a layer's moving ones, by channel.

    Channels with fewer than two values, or with moments that are not finite, keep their
    statistics.

    Args:
        layer: A built `BatchNormalization`.
        statistics: Those of the batch, of a shape that broadcasts to the inputs.

    Reference:
        Ioffe & Szegedy 2015, section 3.1.
    """
    mean, variance, population, usable = statistics
    if usable is None:
        return
    usable = ops.reshape(usable, layer.moving_mean.shape)

    def average_into(variable, value, weight):
        value = ops.cast(ops.reshape(value, variable.shape), variable.dtype)
        old = ops.convert_to_tensor(variable)
        # `where` also keeps a NaN of an unusable channel out of the product.
        new = old + ops.where(usable, (value - old) * weight, 0)
        variable.assign(new)
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
