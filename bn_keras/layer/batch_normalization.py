"""The batch-normalization layer.

Knows Keras' layer conventions and when to use which moments; the arithmetic is in
`statistics` and `kernels`.
"""

from typing import Any

import keras
from keras import ops

from bn_keras.layer.axes import (
    expand_mask,
    reshape_for_broadcast,
    resolve_channel_axes,
    standardize_axis,
)
from bn_keras.layer.kernels import normalize, normalize_batch
from bn_keras.layer.moments import (
    batch_moments,
    masked_mean,
    unbiased_variance,
    update_weight,
)
from bn_keras.layer.renormalization import renorm_corrections, standardize_clipping
from bn_keras.layer.replicas import in_several_replicas, merge_across_replicas

AVERAGINGS = ("moving", "cumulative", "debiased")


@keras.saving.register_keras_serializable(package="bn_keras")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization with exact statistics; every argument of Keras' layer.

    In training mode each channel is normalized by the moments of the mini-batch,

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`,

    and the population statistics follow as moving averages,

    `moving_mean = momentum * moving_mean + (1 - momentum) * mean`,
    `moving_variance = momentum * moving_variance
    + (1 - momentum) * variance * m / (m - 1)`,

    where m counts the (unmasked) values behind each mean. In inference mode the moving
    statistics take the place of the batch's.

    A channel's moving statistics stay as they are where a mini-batch has fewer than two
    values for it (an empty or all-masked batch, one example), and where its moments are
    not finite: a batch with NaN or infinity shows in the outputs and in the loss, and
    leaves the population statistics usable. With one value per channel the outputs are
    `beta`.

    Statistics are kept and computed in float32 at least, whatever the dtype policy.

    Args:
        axis: the axis, or the axes, that keep statistics of their own: usually the
            channels. An int gives convolutional normalization on feature maps and
            per-activation normalization on `(batch, features)`; several axes, such as
            `(1, 2, 3)`, give per-activation normalization of a feature map. Weights
            have the shape of these axes, in ascending order.
        momentum: weight of the past in the moving averages, in [0, 1].
        epsilon: added to the variance inside the root.
        center: learn an offset `beta`.
        scale: learn a factor `gamma`.
        beta_initializer, gamma_initializer, moving_mean_initializer,
            moving_variance_initializer: initializers, as in Keras.
        beta_regularizer, gamma_regularizer: regularizers, as in Keras.
        beta_constraint, gamma_constraint: constraints, as in Keras.
        renorm, renorm_clipping, renorm_momentum: batch renormalization, as in Keras.
        synchronized: normalize by the moments of all replicas' batches together, under
            any `tf.distribute` strategy. On JAX this is always so for arrays that
            `keras.distribution` shards. Unsynchronized, the
            statistics that are saved are the mean over the replicas of each one's: each
            replica's batch counts as a mini-batch of Algorithm 2.
        unbiased: what the population estimate receives is the unbiased variance,
            `m / (m - 1)` of the biased one, as in the paper. False stores the biased
            one, as Keras' layer does. The batch itself is always normalized by the
            biased variance.
        averaging: `"moving"`; `"cumulative"`, all mini-batches with equal weight (what
            `momentum=None` means elsewhere); `"debiased"`, the moving average without
            the weight of the initial values. The last two keep one more weight, the
            number of updates of each channel.
        virtual_batch_size: normalize ghost batches of this many examples, each by its
            own moments; it must divide every batch, the last one too (where the size is
            known only at run time, the backend's reshape says so). The population
            statistics receive the mean of the ghost batches' (Hoffer et al. 2017). Not
            with `renorm` or `synchronized`.
        frozen_statistics: normalize by the moving statistics in training too, and never
            update them, while `gamma` and `beta` train. Keras' `fit` overrides a
            `training=False` given where a Functional model calls a layer; this
            attribute stays, and may be set at any time before `compile`. With
            `trainable=False` nothing trains.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: `(batch, ...)`, any rank from 1 up.
        training: True uses the batch's moments and updates the moving ones, if the
            layer is `trainable`.
        mask: optional boolean tensor of the inputs' shape without the last axis, or
            broadcastable to the inputs' shape: False positions do not count in the
            moments. They are normalized like all others, and the mask is passed on.

    Raises:
        ValueError: for an axis out of range, repeated, or of unknown or zero size, a
            negative `epsilon`, a `momentum` outside [0, 1], an unknown `averaging`, a
            `virtual_batch_size` that does not divide the batch, a mask of another rank.

    Example:
    ```python
    import numpy as np
    from bn_keras import BatchNormalization

    layer = BatchNormalization(momentum=0.0)
    outputs = layer(np.array([[1.0], [2.0], [6.0]]), training=True)
    assert abs(float(layer.moving_mean[0]) - 3.0) < 1e-6
    assert abs(float(layer.moving_variance[0]) - 7.0) < 1e-5  # 14 / (3 - 1)
    ```

    Reference:
        Ioffe & Szegedy 2015, sections 3 to 3.2.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        renorm=False,
        renorm_clipping=None,
        renorm_momentum=0.99,
        synchronized=False,
        *,
        unbiased=True,
        averaging="moving",
        virtual_batch_size=None,
        frozen_statistics=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if None in (momentum, renorm_momentum) or not (
            0 <= momentum <= 1 and 0 <= renorm_momentum <= 1
        ):
            raise ValueError(
                "`momentum` and `renorm_momentum` must lie in [0, 1]. Received: "
                f"momentum={momentum}, renorm_momentum={renorm_momentum}; equal "
                'weights are `averaging="cumulative"`'
            )
        if not epsilon >= 0:
            raise ValueError(
                f"`epsilon` must not be negative. Received: epsilon={epsilon}"
            )
        if averaging not in AVERAGINGS:
            raise ValueError(
                f"`averaging` must be one of {', '.join(AVERAGINGS)}. "
                f"Received: averaging={averaging!r}"
            )
        if virtual_batch_size is not None and (
            type(virtual_batch_size) is not int
            or virtual_batch_size < 1
            or renorm
            or synchronized
        ):
            raise ValueError(
                "`virtual_batch_size` must be a positive integer, without `renorm` and "
                f"`synchronized`. Received: virtual_batch_size={virtual_batch_size!r}, "
                f"renorm={renorm}, synchronized={synchronized}"
            )
        self.axis = standardize_axis(axis)
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self.center = center
        self.scale = scale
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.moving_mean_initializer = keras.initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = keras.initializers.get(
            moving_variance_initializer
        )
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.renorm = renorm
        self.renorm_clipping = standardize_clipping(renorm_clipping) if renorm else None
        self.renorm_momentum = renorm_momentum
        self.synchronized = synchronized
        self.unbiased = unbiased
        self.averaging = averaging
        self.virtual_batch_size = virtual_batch_size
        self.frozen_statistics = frozen_statistics
        self.supports_masking = True
        self.gamma = self.beta = None

    def build(self, input_shape):
        """Create `gamma`, `beta`, `moving_mean`, `moving_variance`, in Keras' order."""
        kept = resolve_channel_axes(self.axis, input_shape)
        shape = tuple(input_shape[axis] for axis in kept)
        # Never below float32: a float16 variance overflows at a deviation of 256.
        dtype = keras.backend.result_type(self.variable_dtype, "float32")

        def add(name, **arguments):
            return self.add_weight(
                name=name, shape=shape, dtype=dtype, autocast=False, **arguments
            )

        def add_statistic(name, initializer):
            return add(
                name, initializer=initializer, trainable=False, aggregation="mean"
            )

        def initial_stddev(shape, dtype=None):
            variance: Any = self.moving_variance_initializer
            return ops.sqrt(variance(shape, dtype=dtype))

        if self.scale:
            self.gamma = add(
                "gamma",
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = add(
                "beta",
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        self.moving_mean = add_statistic("moving_mean", self.moving_mean_initializer)
        self.moving_variance = add_statistic(
            "moving_variance", self.moving_variance_initializer
        )
        if self.renorm:
            self.moving_stddev = add_statistic("moving_stddev", initial_stddev)
            self.renorm_mean = add_statistic(
                "renorm_mean", self.moving_mean_initializer
            )
            self.renorm_stddev = add_statistic("renorm_stddev", initial_stddev)
        if self.averaging != "moving":
            self.updates = add_statistic("updates", "zeros")
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={axis: input_shape[axis] for axis in kept}
        )

    def call(self, inputs, training=None, mask=None):
        """Normalize `inputs`; see the class for the arguments."""
        kept = resolve_channel_axes(self.axis, inputs.shape)
        mask = expand_mask(mask, inputs)
        inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        gamma, beta = (
            reshape_for_broadcast(weight, inputs, kept)
            for weight in (self.gamma, self.beta)
        )
        if training and self.trainable and not self.frozen_statistics:
            outputs = self._normalize_batch(inputs, gamma, beta, kept, mask)
        else:
            mean, variance = (
                reshape_for_broadcast(weight, inputs, kept)
                for weight in (self.moving_mean, self.moving_variance)
            )
            outputs = normalize(inputs, gamma, beta, mean, variance, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """The input's shape, its axes checked."""
        resolve_channel_axes(self.axis, input_shape)
        return input_shape

    def get_config(self):
        """Everything that the constructor takes."""
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            **{
                f"{name}_initializer": keras.initializers.serialize(
                    getattr(self, f"{name}_initializer")
                )
                for name in ("beta", "gamma", "moving_mean", "moving_variance")
            },
            **{
                f"{name}_{kind}": getattr(keras, f"{kind}s").serialize(
                    getattr(self, f"{name}_{kind}")
                )
                for name in ("beta", "gamma")
                for kind in ("regularizer", "constraint")
            },
            **{
                name: getattr(self, name)
                for name in (
                    "renorm",
                    "renorm_clipping",
                    "renorm_momentum",
                    "synchronized",
                    "unbiased",
                    "averaging",
                    "virtual_batch_size",
                    "frozen_statistics",
                )
            },
        }

    def _normalize_batch(self, inputs, gamma, beta, kept, mask):
        """Normalize by the batch's own moments and let the statistics follow."""
        axes = [axis for axis in range(len(inputs.shape)) if axis not in kept]
        shape, virtual = ops.shape(inputs), self.virtual_batch_size is not None
        if virtual:
            inputs, mask = self._virtual_batches(inputs, mask, kept)
            axes = [axis + 1 for axis in axes]
        at_once = not (virtual or self.renorm)
        factor, offset = (gamma, beta) if at_once else (None, None)
        if self.synchronized and in_several_replicas():
            moments = merge_across_replicas(batch_moments(inputs, axes, mask))
            outputs = normalize(
                inputs, factor, offset, moments.mean, moments.variance, self.epsilon
            )
        else:
            outputs, moments = normalize_batch(
                inputs, factor, offset, axes, self.epsilon, mask
            )
        outputs = ops.reshape(outputs, shape) if virtual else outputs
        if self.renorm:
            r, d = renorm_corrections(
                moments.mean,
                moments.variance,
                reshape_for_broadcast(self.renorm_mean, inputs, kept),
                reshape_for_broadcast(self.renorm_stddev, inputs, kept),
                self.epsilon,
                self.renorm_clipping,
            )
            outputs = outputs * r + d
        if not at_once:
            outputs = outputs if gamma is None else outputs * gamma
            outputs = outputs if beta is None else outputs + beta
        self._update_statistics(moments)
        return outputs

    def _virtual_batches(self, inputs, mask, kept):
        """Both as `(virtual batches, virtual_batch_size, ...)`."""
        size, batch = self.virtual_batch_size, inputs.shape[0]
        if 0 in kept or (batch is not None and batch % size):
            raise ValueError(
                "`virtual_batch_size` must divide the batch, the first axis. Received: "
                f"virtual_batch_size={size}, axis={self.axis}, input shape "
                f"{tuple(inputs.shape)}"
            )
        if mask is not None:
            mask = ops.broadcast_to(mask, ops.shape(inputs))
            mask = ops.reshape(mask, (-1, size, *ops.shape(inputs)[1:]))
        return ops.reshape(inputs, (-1, size, *ops.shape(inputs)[1:])), mask

    def _update_statistics(self, moments):
        """Average the moments into the statistics, channel by channel."""
        count, mean, variance = moments
        # Replicas must all assign, whatever their share of the batch.
        if isinstance(count, int) and count < 2 and not in_several_replicas():
            return
        population = unbiased_variance(variance, count) if self.unbiased else variance
        # A mean that is not finite makes a variance that is not.
        usable = ops.isfinite(population)
        if not isinstance(count, int) or count < 2:
            usable = ops.logical_and(usable, count >= 2)
        if self.virtual_batch_size is not None:
            mean, population = (
                masked_mean(values, usable) for values in (mean, population)
            )
            usable = ops.any(usable, axis=0)
        usable = ops.reshape(usable, self.moving_mean.shape)

        def average_into(variable, value, weight):
            value = ops.cast(ops.reshape(value, variable.shape), variable.dtype)
            old = ops.convert_to_tensor(variable)
            change = ops.where(usable, (value - old) * weight, 0)
            new = old + change  # read before the assignment changes it
            variable.assign_add(change)
            return new

        weight = 1 - self.momentum
        if self.averaging != "moving":
            updates = ops.convert_to_tensor(self.updates)
            weight = update_weight(self.averaging, self.momentum, updates)
            self.updates.assign(updates + ops.cast(usable, updates.dtype))
        average_into(self.moving_mean, mean, weight)
        if not self.renorm:
            average_into(self.moving_variance, population, weight)
            return
        stddev = ops.sqrt(variance + self.epsilon)
        average_into(self.renorm_mean, mean, 1 - self.renorm_momentum)
        average_into(self.renorm_stddev, stddev, 1 - self.renorm_momentum)
        # The statistic averaged is the deviation; the variance follows from it.
        stddev = average_into(
            self.moving_stddev, ops.sqrt(population + self.epsilon), weight
        )
        variance = ops.maximum(ops.square(stddev) - self.epsilon, 0)
        average_into(self.moving_variance, variance, 1)


# Both layers that the rest of the package knows how to estimate, fold and swap.
BATCH_NORMALIZATIONS = (BatchNormalization, keras.layers.BatchNormalization)
