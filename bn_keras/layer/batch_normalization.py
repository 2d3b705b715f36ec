"""The batch-normalization layer."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from bn_keras.layer.arguments import (
    standardize_axis,
    standardize_epsilon,
    standardize_momentum,
    standardize_virtual_batch_size,
)
from bn_keras.layer.axes import (
    expand_mask,
    reshape_for_broadcast,
    resolve_channel_axes,
    resolve_weight_shape,
    restore_channel_sizes,
)
from bn_keras.layer.moving_statistics import AVERAGINGS
from bn_keras.layer.renormalization import standardize_clipping
from bn_keras.layer.training_mode import (
    normalize_and_update,
    normalize_by_moving_statistics,
)


@keras.saving.register_keras_serializable(package="bn_keras")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization with exact statistics and all arguments of Keras' layer.

    In training mode each channel is normalized by the moments of the mini-batch,

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`,

    and the population statistics are updated as moving averages,

    `moving_mean = momentum * moving_mean + (1 - momentum) * mean`,
    `moving_variance = momentum * moving_variance
    + (1 - momentum) * variance * m / (m - 1)`,

    where m is the number of (unmasked) values behind each mean. In inference mode the
    moving statistics replace the moments of the batch.

    The moving statistics of a channel do not change where a mini-batch has fewer than
    two values for it (a single example, or an empty or fully masked batch), or where
    its moments are not finite: NaN or infinity appears in the outputs and in the loss,
    but the population statistics stay usable. If a channel has one value, the outputs
    are `beta`.

    Statistics are computed and stored in float32 or float64, whatever the dtype policy;
    `gamma` and `beta` have the policy's dtype of variables.

    Args:
        axis: The axis, or axes, that have their own statistics: usually the channels.
            An int gives convolutional normalization of feature maps and per-activation
            normalization of `(batch, features)`. Several axes, such as `(1, 2, 3)`,
            give per-activation normalization of feature maps. The weights have the
            shape of these axes, in ascending order.
        momentum: The weight of the past in the moving averages, in [0, 1].
        epsilon: A small number that is added to the variance, inside the root.
        center: Whether to learn an offset `beta`.
        scale: Whether to learn a factor `gamma`.
        beta_initializer: The initializer of `beta`.
        gamma_initializer: The initializer of `gamma`.
        moving_mean_initializer: The initializer of the moving mean.
        moving_variance_initializer: The initializer of the moving variance.
        beta_regularizer: The regularizer of `beta`.
        gamma_regularizer: The regularizer of `gamma`.
        beta_constraint: The constraint on `beta`.
        gamma_constraint: The constraint on `gamma`.
        renorm: Whether to use batch renormalization (Ioffe 2017), as in Keras.
        renorm_clipping: The limits of its corrections: a dict with any of `"rmax"`,
            `"rmin"` and `"dmax"`.
        renorm_momentum: The momentum of its averages, in [0, 1].
        synchronized: Whether to normalize by the moments of the batches of all replicas
            together, under any `tf.distribute` strategy. On JAX this is always the case
            for arrays that `keras.distribution` shards. If False, each replica
            normalizes its own batch, which counts as a mini-batch of Algorithm 2: the
            statistics that are saved are the mean over the replicas.
        unbiased: Whether to average the unbiased variance, `m / (m - 1)` times the
            biased one, as in the paper. False averages the biased variance, as in
            Keras. The batch itself is always normalized by the biased variance.
        averaging: `"moving"`, `"cumulative"` or `"debiased"`. `"cumulative"` gives all
            mini-batches the same weight. `"debiased"` is the moving average without
            the weight of the initial values. The last two add a weight `updates`, the
            number of updates of each channel.
        virtual_batch_size: The number of examples in a virtual ("ghost") batch, or
            None. Each virtual batch is normalized by its own moments; the population
            statistics are updated with the mean over the virtual batches (Hoffer et al.
            2017). The examples that remain at the end of a batch are a smaller virtual
            batch. Not compatible with `renorm` and `synchronized`.
        frozen_statistics: Whether to normalize by the moving statistics in training
            too, and never update them, while `gamma` and `beta` are trained. Keras'
            `fit` overrides a `training=False` that was passed when a Functional model
            called the layer; it does not override this attribute, which may be set at
            any time before `compile`. With `trainable=False` nothing is trained.
        **kwargs: The arguments of every Keras layer: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor `(batch, ...)` of rank 1 or more.
        training: Whether to normalize by the moments of the batch and to update the
            moving statistics, provided that the layer is `trainable`.
        mask: A boolean tensor of the inputs' shape without the last axis, or one that
            broadcasts to the inputs, or None. Positions where it is False are ignored
            by the moments, but are normalized like all others. The mask is passed on.

    Raises:
        ValueError: If `axis` is out of range, repeated, or has an unknown or zero size;
            `epsilon` is negative; a momentum is not in [0, 1]; `averaging` is unknown;
            `virtual_batch_size` is not positive, or is combined with `renorm`,
            `synchronized` or an `axis` that contains the batch; `renorm_clipping` is
            invalid; or the mask does not have the shape of the inputs.

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

    # `Any`, because Keras declares no types for them.
    __call__: Callable[..., Any]
    gamma: Any
    beta: Any
    moving_mean: Any
    moving_variance: Any

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: Mapping[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        unbiased: bool = True,
        averaging: str = "moving",
        virtual_batch_size: int | None = None,
        frozen_statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = standardize_axis(axis)
        self.momentum = standardize_momentum("momentum", momentum)
        self.epsilon = standardize_epsilon(epsilon)
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
        self.renorm_momentum = standardize_momentum("renorm_momentum", renorm_momentum)
        self.synchronized = synchronized
        self.unbiased = unbiased
        self.averaging = averaging
        self.virtual_batch_size = standardize_virtual_batch_size(
            virtual_batch_size, renorm, synchronized
        )
        self.frozen_statistics = frozen_statistics
        self.supports_masking = True
        self.gamma = self.beta = None

    @property
    def averaging(self) -> str:
        """How mini-batches are averaged: "moving", "cumulative" or "debiased"."""
        return self._averaging

    @averaging.setter
    def averaging(self, averaging: str) -> None:
        if averaging not in AVERAGINGS:
            raise ValueError(
                f"`averaging` must be one of {', '.join(AVERAGINGS)}. "
                f"Received: averaging={averaging!r}"
            )
        if self.built and averaging != "moving" and not hasattr(self, "updates"):
            raise ValueError(
                '`averaging` must be "moving" in a layer that was built with it, '
                "because it has no weight `updates`. Received: "
                f"averaging={averaging!r}. Use `bn_keras.replace_batch_normalization("
                f"model, averaging={averaging!r})`."
            )
        self._averaging = averaging

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the weights, in the order in which Keras' layer creates them."""
        channel_axes = resolve_channel_axes(self.axis, input_shape)
        shape = resolve_weight_shape(self.axis, input_shape)

        def add(name, **arguments):
            return self.add_weight(name=name, shape=shape, autocast=False, **arguments)

        def add_statistic(name, initializer):
            return add(
                name,
                initializer=initializer,
                trainable=False,
                aggregation="mean",
                # In float32 at least: a deviation of 256 has a variance that overflows
                # float16, and a moving average with momentum 0.99 of bfloat16 numbers
                # stands still once a step changes it by less than 1/256.
                dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            )

        def initialize_stddev(shape, dtype=None):
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
            self.moving_stddev = add_statistic("moving_stddev", initialize_stddev)
            self.renorm_mean = add_statistic(
                "renorm_mean", self.moving_mean_initializer
            )
            self.renorm_stddev = add_statistic("renorm_stddev", initialize_stddev)
        if self.averaging != "moving":
            self.updates: Any = add_statistic("updates", "zeros")
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape),
            axes={axis: input_shape[axis] for axis in channel_axes},
        )

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize `inputs`; the class describes the arguments."""
        channel_axes = resolve_channel_axes(self.axis, inputs.shape)
        inputs = restore_channel_sizes(
            inputs, channel_axes, tuple(self.moving_mean.shape)
        )
        mask = expand_mask(mask, inputs)
        gamma, beta = (
            reshape_for_broadcast(weight, inputs, channel_axes)
            for weight in (self.gamma, self.beta)
        )
        if training and self.trainable and not self.frozen_statistics:
            outputs = normalize_and_update(
                self, inputs, gamma, beta, channel_axes, mask
            )
        else:
            outputs = normalize_by_moving_statistics(
                self, inputs, gamma, beta, channel_axes, training
            )
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> Sequence[int | None]:
        """Return `input_shape`, after checking the axes."""
        resolve_channel_axes(self.axis, input_shape)
        return input_shape

    def load_own_variables(self, store: Any) -> None:
        """Load weights, also those of a layer that counted no updates."""
        # Keras' layer has no `updates`. Its moving averages do not say of how many
        # mini-batches they are, so the count starts at 0.
        weights = [*self._trainable_variables, *self._non_trainable_variables]
        if hasattr(self, "updates") and len(store.keys()) == len(weights) - 1:
            zeros = ops.convert_to_numpy(ops.zeros_like(self.updates.value))
            # Not a plain dictionary: the store may be a part of an HDF5 file.
            known = {key: store[key] for key in store.keys()}  # noqa: SIM118
            store = {**known, str(len(known)): zeros}
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        _self, *names, _kwargs = inspect.signature(
            BatchNormalization.__init__
        ).parameters
        for name in names:
            value = getattr(self, name)
            if name.endswith(("_initializer", "_regularizer", "_constraint")):
                value = keras.saving.serialize_keras_object(value)
            config[name] = value
        return config


# The layers that the rest of the package can estimate, fold and replace.
BATCH_NORMALIZATIONS = (BatchNormalization, keras.layers.BatchNormalization)
