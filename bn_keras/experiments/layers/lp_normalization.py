"""Normalization by the p-norm instead of the standard deviation."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from bn_keras.layer.arguments import standardize_axis
from bn_keras.layer.axes import (
    reshape_for_broadcast,
    resolve_channel_axes,
    resolve_weight_shape,
)
from bn_keras.layer.moving_statistics import update_average


@keras.saving.register_keras_serializable(package="bn_keras")
class LpNormalization(keras.layers.Layer):
    """Subtract the mean of the mini-batch and divide by the p-norm of the inputs.

    `y = gamma * (x - mean) / norm + beta` with `norm = (E[|x|**p] + epsilon)**(1/p)`
    over the values of a channel; for `p = infinity`, `norm = max |x| + epsilon`. The
    norm is that of the inputs "before shifting the mean", as in the paper. With
    `centred`, it is that of `x - mean`, and p = 2 is BN itself. Inference uses moving
    averages of `mean` and `norm`.

    Args:
        p: The exponent, 1 or more; may be `math.inf`.
        axis: The axis, or the axes, of the channels.
        momentum: The weight of the past in the moving averages, from 0 to 1.
        epsilon: Prevents a division by zero for a channel that is always 0.
        centred: Whether the norm is that of the inputs after the mean is subtracted.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Raises:
        ValueError: If `p` is below 1.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.layers.lp_normalization import LpNormalization

    layer = LpNormalization(p=1, epsilon=0.0)
    outputs = layer(np.array([[1.0], [2.0], [6.0]]), training=True)
    assert np.allclose(outputs, [[-2 / 3], [-1 / 3], [1.0]])  # mean and norm are 3
    ```

    Reference:
        Santurkar et al. 2018, section 3.3.
    """

    def __init__(
        self,
        p: float,
        axis: int | Sequence[int] = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        centred: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not p >= 1:  # NaN is refused too
            raise ValueError(f"`p` must be 1 or more, or infinity. Received: p={p}")
        self.p = float(p)
        self.axis = standardize_axis(axis)
        self.momentum = momentum
        self.epsilon = epsilon
        self.centred = centred

    def build(self, input_shape: Any) -> None:
        """Create `gamma`, `beta`, `moving_mean`, `moving_norm`."""
        shape = resolve_weight_shape(self.axis, input_shape)

        def add(name, initializer, trainable):
            return self.add_weight(
                name=name, shape=shape, initializer=initializer, trainable=trainable
            )

        self.gamma = add("gamma", "ones", True)
        self.beta = add("beta", "zeros", True)
        self.moving_mean = add("moving_mean", "zeros", False)
        self.moving_norm = add("moving_norm", "ones", False)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Normalize the inputs."""
        channel_axes = resolve_channel_axes(self.axis, inputs.shape)
        gamma, beta, mean, norm = (
            reshape_for_broadcast(weight, inputs, channel_axes)
            for weight in (self.gamma, self.beta, self.moving_mean, self.moving_norm)
        )
        if training and self.trainable:
            axes = [
                axis for axis in range(len(inputs.shape)) if axis not in channel_axes
            ]
            mean = ops.mean(inputs, axes, keepdims=True)
            values = inputs - mean if self.centred else inputs
            norm = self._norm(ops.abs(values), axes)
            for average, new in ((self.moving_mean, mean), (self.moving_norm, norm)):
                new = ops.cast(ops.reshape(new, average.shape), average.dtype)
                average.assign(update_average(average.value, new, 1 - self.momentum))
        return gamma * (inputs - mean) / norm + beta

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "p": str(self.p),  # JSON has no infinity
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centred": self.centred,
        }

    @classmethod
    def from_config(cls, config: Any) -> "LpNormalization":
        """Return the layer with that configuration."""
        return cls(**{**config, "p": float(config["p"])})

    def _norm(self, sizes, axes):
        if math.isinf(self.p):
            return ops.max(sizes, axes, keepdims=True) + self.epsilon
        powers = ops.mean(sizes**self.p, axes, keepdims=True)
        return (powers + self.epsilon) ** (1 / self.p)
