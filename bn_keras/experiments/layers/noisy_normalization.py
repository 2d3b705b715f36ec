"""Batch normalization whose outputs are made unstable by noise in training."""

from collections.abc import Sequence
from typing import Any

import keras

from bn_keras.layer.arguments import standardize_axis
from bn_keras.layer.axes import (
    reshape_for_broadcast,
    resolve_channel_axes,
    resolve_weight_shape,
)
from bn_keras.layer.batch_normalization import BatchNormalization

# The noise of the paper. At each step a channel's mean is drawn from -MEAN to MEAN and
# its scale from 1 to SCALE; SPREAD is the noise of each value around them.
MEAN = 0.5
SCALE = 1.25
SPREAD = 0.1


def add_noise(
    inputs: Any, channel_axes: Sequence[int], seed_generator: keras.random.SeedGenerator
) -> Any:
    """Add noise whose distribution is different for each channel and each call.

    `a <- s * a + m` with `m ~ U(mu - 0.1, mu + 0.1)` and `s ~ N(sigma, 0.1)` for each
    value, where `mu ~ U(-0.5, 0.5)` and `sigma ~ U(1, 1.25)` are drawn for each channel
    and call. On a feature map, a value is one position of one example.

    Args:
        inputs: A tensor `(batch, ...)`.
        channel_axes: The axes of the channels; see
            `bn_keras.layer.axes.resolve_channel_axes`.
        seed_generator: A `keras.random.SeedGenerator`.

    Returns:
        A tensor with the shape and dtype of `inputs`.

    Example:
    ```python
    import keras
    import numpy as np

    from bn_keras.experiments.layers.noisy_normalization import add_noise

    ones = np.ones((1000, 2), "float32")
    noisy = np.asarray(add_noise(ones, [1], keras.random.SeedGenerator(0)))
    assert (0.4 < noisy.mean(axis=0)).all() and (noisy.mean(axis=0) < 1.8).all()
    ```

    Reference:
        Santurkar et al. 2018, section 2.1 and appendix A.
    """
    shape, dtype = keras.ops.shape(inputs), inputs.dtype
    channels = [
        size if axis in channel_axes else 1
        for axis, size in enumerate(tuple(inputs.shape))
    ]
    mean = keras.random.uniform(channels, -MEAN, MEAN, dtype, seed_generator)
    scale = keras.random.uniform(channels, 1.0, SCALE, dtype, seed_generator)
    shift = keras.random.uniform(shape, -SPREAD, SPREAD, dtype, seed_generator)
    factor = keras.random.normal(shape, 0.0, SPREAD, dtype, seed_generator)
    return (scale + factor) * inputs + (mean + shift)


@keras.saving.register_keras_serializable(package="bn_keras")
class NoisyBatchNormalization(BatchNormalization):
    """Batch normalization, followed in training by the noise of `add_noise`.

    The next layer receives inputs that are less stable than without any normalization.
    There is no noise at inference.

    Args:
        *args: The arguments of `bn_keras.BatchNormalization`.
        seed: The seed of the noise. With None it is drawn at random.
        **kwargs: The arguments of `bn_keras.BatchNormalization`.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.layers.noisy_normalization import NoisyBatchNormalization

    layer = NoisyBatchNormalization(seed=0)
    inputs = np.random.default_rng(0).normal(size=(100, 3))
    outputs = np.asarray(layer(inputs, training=True))
    assert (np.abs(outputs.mean(axis=0)) > 0.01).any()
    ```

    Reference:
        Santurkar et al. 2018, section 2.1.
    """

    def __init__(self, *args: Any, seed: int | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize, and add the noise in training."""
        outputs = super().call(inputs, training=training, mask=mask)
        if not training:
            return outputs
        channel_axes = resolve_channel_axes(self.axis, outputs.shape)
        return add_noise(outputs, channel_axes, self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="bn_keras")
class NoisyBias(keras.layers.Layer):
    """A bias, followed in training by the noise of `add_noise`: the noise without BN.

    The networks' builders omit the bias of a layer that a normalization follows, so it
    is part of this layer.

    Args:
        axis: The axis, or the axes, of the channels.
        seed: The seed of the noise. With None it is drawn at random.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.layers.noisy_normalization import NoisyBias

    inputs = np.ones((2, 3), "float32")
    assert (np.asarray(NoisyBias()(inputs)) == inputs).all()
    ```

    Reference:
        Santurkar et al. 2018, section 2.1.
    """

    def __init__(
        self, axis: int | Sequence[int] = -1, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.axis = standardize_axis(axis)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        """Create `bias`."""
        shape = resolve_weight_shape(self.axis, input_shape)
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Add the bias, and the noise in training."""
        channel_axes = resolve_channel_axes(self.axis, inputs.shape)
        outputs = inputs + reshape_for_broadcast(self.bias, inputs, channel_axes)
        if not training:
            return outputs
        return add_noise(outputs, channel_axes, self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "axis": self.axis, "seed": self.seed}
