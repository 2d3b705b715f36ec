"""The batch-normalization layer.

Knows Keras' layer conventions and when to use which moments; the arithmetic is in
`statistics` and `kernels`.
"""

import keras
from keras import ops

from bn_keras.kernels import normalize, normalize_batch
from bn_keras.statistics import moving_average, unbiased_variance


@keras.saving.register_keras_serializable(package="bn_keras")
class BatchNormalization(keras.layers.Layer):
    """Batch normalization with exact statistics.

    In training mode each channel is normalized by the moments of the mini-batch,

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`,

    and the population statistics follow as moving averages,

    `moving_mean = momentum * moving_mean + (1 - momentum) * mean`,
    `moving_variance = momentum * moving_variance
    + (1 - momentum) * variance * m / (m - 1)`,

    where m counts the (unmasked) values behind each mean. In inference mode the moving
    statistics take the place of the batch's. A mini-batch with fewer than two values
    per channel leaves them untouched. Statistics are kept in float32 at least, whatever
    the dtype policy.

    Args:
        axis: the axis, or the axes, that keep statistics of their own: usually the
            channels. An int gives convolutional normalization on feature maps and
            per-activation normalization on `(batch, features)`; several axes, such as
            `(1, 2, 3)`, give per-activation normalization of a feature map.
        momentum: weight of the past in the moving averages, in [0, 1].
        epsilon: added to the variance inside the root.
        center: learn an offset `beta`.
        scale: learn a factor `gamma`.
        beta_initializer, gamma_initializer, moving_mean_initializer,
            moving_variance_initializer: initializers, as in Keras.
        beta_regularizer, gamma_regularizer: regularizers, as in Keras.
        beta_constraint, gamma_constraint: constraints, as in Keras.
        unbiased: store the unbiased variance estimate, `m / (m - 1)` of the biased one,
            as the paper does. False stores the biased one, as Keras' layer does. The
            batch itself is always normalized by the biased variance.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        inputs: `(batch, ...)`, any rank from 1 up.
        training: True uses the batch's moments and updates the moving ones, if the
            layer is `trainable`.
        mask: optional boolean tensor of the inputs' shape without the last axis, or
            broadcastable to the inputs' shape: False positions do not count in the
            moments. They are normalized like all others.

    Raises:
        ValueError: for an axis out of range, repeated, or of unknown or zero size, a
            negative `epsilon`, a `momentum` outside [0, 1], a mask of another shape.

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
        *,
        unbiased=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"`momentum` must lie in [0, 1]. Received: momentum={momentum}"
            )
        if not epsilon >= 0:
            raise ValueError(
                f"`epsilon` must not be negative. Received: epsilon={epsilon}"
            )
        self.axis = axis if isinstance(axis, int) else tuple(axis)
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
        self.unbiased = unbiased
        self.supports_masking = True
        self.gamma = self.beta = None

    def build(self, input_shape):
        """Create `gamma`, `beta`, `moving_mean`, `moving_variance`, in Keras' order."""
        kept = kept_axes(self.axis, input_shape)
        shape = tuple(input_shape[axis] for axis in kept)
        # Never below float32: a float16 variance overflows at a deviation of 256.
        dtype = keras.backend.result_type(self.variable_dtype, "float32")

        def add(name, **arguments):
            return self.add_weight(
                name=name, shape=shape, dtype=dtype, autocast=False, **arguments
            )

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
        self.moving_mean = add(
            "moving_mean", initializer=self.moving_mean_initializer, trainable=False
        )
        self.moving_variance = add(
            "moving_variance",
            initializer=self.moving_variance_initializer,
            trainable=False,
        )
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={axis: input_shape[axis] for axis in kept}
        )

    def call(self, inputs, training=None, mask=None):
        """Normalize `inputs`; see the class for the arguments."""
        kept = kept_axes(self.axis, inputs.shape)
        axes = [axis for axis in range(len(inputs.shape)) if axis not in kept]
        inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        gamma, beta, moving_mean, moving_variance = (
            self._broadcastable(weight, inputs, kept)
            for weight in (
                self.gamma,
                self.beta,
                self.moving_mean,
                self.moving_variance,
            )
        )
        if training and self.trainable:
            outputs, moments = normalize_batch(
                inputs, gamma, beta, axes, self.epsilon, full_mask(mask, inputs)
            )
            self._update_moving_statistics(moments)
        else:
            outputs = normalize(
                inputs, gamma, beta, moving_mean, moving_variance, self.epsilon
            )
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """The input's shape, its axes checked."""
        kept_axes(self.axis, input_shape)
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
            "unbiased": self.unbiased,
        }

    def _broadcastable(self, weight, inputs, kept):
        if weight is None:
            return None
        shape = [1] * len(inputs.shape)
        for axis in kept:
            shape[axis] = inputs.shape[axis]
        return ops.reshape(ops.cast(weight, inputs.dtype), shape)

    def _update_moving_statistics(self, moments):
        count, mean, variance = moments
        if self.unbiased:
            variance = unbiased_variance(variance, count)
        if isinstance(count, int) and count < 2:
            return
        for variable, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            old = ops.convert_to_tensor(variable)
            value = ops.cast(ops.reshape(value, variable.shape), variable.dtype)
            new = moving_average(old, value, self.momentum)
            if not isinstance(count, int):
                enough = ops.broadcast_to(count, mean.shape) >= 2
                new = ops.where(ops.reshape(enough, variable.shape), new, old)
            variable.assign(new)


def kept_axes(axis, shape):
    """The axes with statistics of their own: checked, ascending, not negative.

    Args:
        axis: an int or several, negative ones counted from the end.
        shape: the inputs' shape.

    Returns:
        A list of ints.

    Raises:
        ValueError: for an axis out of range, repeated, or of unknown or zero size.
    """
    rank = len(shape)
    given = (axis,) if isinstance(axis, int) else axis
    if not given or any(not -rank <= one < rank for one in given):
        raise ValueError(
            f"`axis` must name axes of the input, {-rank} to {rank - 1}. "
            f"Received: axis={axis}, input shape {tuple(shape)}"
        )
    kept = sorted(one % rank for one in given)
    if len(set(kept)) < len(kept):
        raise ValueError(
            f"`axis` must not name an axis twice. Received: axis={axis}, "
            f"input shape {tuple(shape)}"
        )
    if any(not shape[one] for one in kept):
        raise ValueError(
            "Every axis that keeps statistics must have a known size of at least 1. "
            f"Received: axis={axis}, input shape {tuple(shape)}"
        )
    return kept


def full_mask(mask, inputs):
    """A mask broadcastable to `inputs`; None stays None.

    Args:
        mask: boolean, of the inputs' rank, or of that rank without the last axis.
        inputs: `(batch, ...)`.

    Raises:
        ValueError: for a mask of another rank.
    """
    if mask is None:
        return None
    shape, rank = tuple(mask.shape), len(inputs.shape)
    if len(shape) not in (rank, rank - 1):
        raise ValueError(
            "The mask must have the inputs' shape, or that shape without the last "
            f"axis. Received: mask shape {shape}, input shape {tuple(inputs.shape)}"
        )
    mask = ops.cast(mask, "bool")
    return mask if len(shape) == rank else ops.expand_dims(mask, -1)
