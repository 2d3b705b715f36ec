"""Layers that tell what normalization does from what it is said to do.

Knows the noise and the p-norms of the second paper; no network, no training.
"""

import math
from typing import Any

import keras
from keras import ops

from bn_keras.layer.axes import (
    reshape_for_broadcast,
    resolve_channel_axes,
    standardize_axis,
)
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.layer.moments import update_average

# The noise of the paper: mean of a channel from -MEAN to MEAN, scale from 1 to SCALE,
# both of a step; SPREAD around them for each value.
MEAN = 0.5
SCALE = 1.25
SPREAD = 0.1


def add_noise(inputs, kept, seed_generator):
    """Noise whose distribution is another one for each channel at each call.

    `a <- s * a + m` with `m ~ U(mu - 0.1, mu + 0.1)`, `s ~ N(sigma, 0.1)` for each
    value, and `mu ~ U(-0.5, 0.5)`, `sigma ~ U(1, 1.25)` for each channel and call. A
    value is what BN normalizes as one of the mini-batch: on a feature map, a position
    of an example.

    Args:
        inputs: tensor `(batch, ...)`.
        kept: the channel axes, from `bn_keras.layer.axes.resolve_channel_axes`.
        seed_generator: a `keras.random.SeedGenerator`.

    Returns:
        A tensor of that shape and dtype.

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
        Santurkar et al. 2018, section 2.1 and its appendix.
    """
    shape, dtype = ops.shape(inputs), inputs.dtype
    channels = [
        size if axis in kept else 1 for axis, size in enumerate(tuple(inputs.shape))
    ]
    mean = keras.random.uniform(channels, -MEAN, MEAN, dtype, seed_generator)
    scale = keras.random.uniform(channels, 1.0, SCALE, dtype, seed_generator)
    shift = keras.random.uniform(shape, -SPREAD, SPREAD, dtype, seed_generator)
    factor = keras.random.normal(shape, 0.0, SPREAD, dtype, seed_generator)
    return (scale + factor) * inputs + (mean + shift)


@keras.saving.register_keras_serializable(package="bn_keras")
class NoisyBatchNormalization(BatchNormalization):
    """Batch normalization, then in training the noise of `add_noise`.

    What the next layer receives is less stable than without any normalization.
    Inference has no noise.

    Args:
        *args, **kwargs: those of `bn_keras.BatchNormalization`.
        seed: of the noise; None draws one.

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

    def __init__(self, *args, seed=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None, mask=None):
        """Normalize, and in training add the noise."""
        outputs = super().call(inputs, training=training, mask=mask)
        if not training:
            return outputs
        kept = resolve_channel_axes(self.axis, outputs.shape)
        return add_noise(outputs, kept, self.seed_generator)

    def get_config(self):
        """Everything that the constructor takes."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="bn_keras")
class NoisyBias(keras.layers.Layer):
    """A bias, then in training the noise of `add_noise`: that noise without BN.

    The bias is the one that the network's builders leave out where a normalization
    follows.

    Args:
        axis: the axis, or the axes, of the channels.
        seed: of the noise; None draws one.
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

    def __init__(self, axis=-1, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.axis = standardize_axis(axis)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        """Create `bias`."""
        shape = [
            input_shape[axis] for axis in resolve_channel_axes(self.axis, input_shape)
        ]
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, inputs, training=None):
        """Add the bias, and in training the noise."""
        kept = resolve_channel_axes(self.axis, inputs.shape)
        outputs = inputs + reshape_for_broadcast(self.bias, inputs, kept)
        return add_noise(outputs, kept, self.seed_generator) if training else outputs

    def get_config(self):
        """Everything that the constructor takes."""
        return {**super().get_config(), "axis": self.axis, "seed": self.seed}


@keras.saving.register_keras_serializable(package="bn_keras")
class LpNormalization(keras.layers.Layer):
    """Subtract the mini-batch's mean, and divide by the p-norm average of the inputs.

    `y = gamma * (x - mean) / norm + beta`, `norm = (E[|x|**p] + epsilon)**(1/p)` over
    the values of a channel; for `p = infinity`, `norm = max |x| + epsilon`. The norm is
    of the inputs "before shifting the mean", as the paper has it: centred values would
    make p = 2 BN itself. Inference takes the moving averages of `mean` and `norm`.

    Args:
        p: 1 or more; `math.inf`.
        axis: the axis, or the axes, of the channels.
        momentum: weight of the past in the moving averages, in [0, 1].
        epsilon: keeps a channel without variation from a division by zero.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Raises:
        ValueError: for a `p` below 1.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.layers.noisy_normalization import LpNormalization

    layer = LpNormalization(p=1, epsilon=0.0)
    outputs = layer(np.array([[1.0], [2.0], [6.0]]), training=True)
    assert np.allclose(outputs, [[-2 / 3], [-1 / 3], [1.0]])  # mean and norm are 3
    ```

    Reference:
        Santurkar et al. 2018, section 3.3.
    """

    def __init__(self, p, axis=-1, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        if not p >= 1:
            raise ValueError(f"`p` must be 1 or more, or infinity. Received: p={p}")
        self.p = float(p)
        self.axis = standardize_axis(axis)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape):
        """Create `gamma`, `beta`, `moving_mean`, `moving_norm`."""
        shape = [
            input_shape[axis] for axis in resolve_channel_axes(self.axis, input_shape)
        ]

        def add(name, initializer, trainable):
            return self.add_weight(
                name=name, shape=shape, initializer=initializer, trainable=trainable
            )

        self.gamma = add("gamma", "ones", True)
        self.beta = add("beta", "zeros", True)
        self.moving_mean = add("moving_mean", "zeros", False)
        self.moving_norm = add("moving_norm", "ones", False)

    def call(self, inputs, training=None):
        """Normalize `inputs`; see the class for the arguments."""
        kept = resolve_channel_axes(self.axis, inputs.shape)
        gamma, beta, mean, norm = (
            reshape_for_broadcast(weight, inputs, kept)
            for weight in (self.gamma, self.beta, self.moving_mean, self.moving_norm)
        )
        if training and self.trainable:
            axes = [axis for axis in range(len(inputs.shape)) if axis not in kept]
            mean = ops.mean(inputs, axes, keepdims=True)
            norm = self._norm(ops.abs(inputs), axes)
            for average, new in ((self.moving_mean, mean), (self.moving_norm, norm)):
                new = ops.cast(ops.reshape(new, average.shape), average.dtype)
                average.assign(update_average(average.value, new, 1 - self.momentum))
        return gamma * (inputs - mean) / norm + beta

    def get_config(self):
        """Everything that the constructor takes."""
        # JSON has no infinity.
        return {
            **super().get_config(),
            "p": str(self.p),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }

    @classmethod
    def from_config(cls, config: Any):
        """The layer of that configuration."""
        return cls(**{**config, "p": float(config["p"])})

    def _norm(self, sizes, axes):
        if math.isinf(self.p):
            return ops.max(sizes, axes, keepdims=True) + self.epsilon
        powers = ops.mean(sizes**self.p, axes, keepdims=True)
        return (powers + self.epsilon) ** (1 / self.p)


@keras.saving.register_keras_serializable(package="bn_keras")
class Watch(keras.layers.Layer):
    """Hand the inputs on, and remember their moments in the last training mini-batch.

    The weight `moments` `(2, channels)` holds the mean and the biased variance of each
    channel of the last axis.

    Args:
        **kwargs: `name`, `dtype`, as for every Keras layer.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.layers.noisy_normalization import Watch

    watch = Watch()
    watch(np.array([[1.0], [3.0]]), training=True)
    assert np.allclose(watch.moments, [[2.0], [1.0]])
    ```
    """

    def build(self, input_shape):
        """Create `moments`."""
        self.moments = self.add_weight(
            name="moments",
            shape=(2, input_shape[-1]),
            initializer="zeros",
            trainable=False,
        )

    def call(self, inputs, training=None):
        """Return `inputs`; in training, remember their moments."""
        if training:
            moments: Any = ops.moments(inputs, list(range(len(inputs.shape) - 1)))
            self.moments.assign(ops.stack(moments))
        return inputs
