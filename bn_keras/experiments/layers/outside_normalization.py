"""Normalization whose statistics are constants in the gradient step."""

from typing import Any

import keras
from keras import ops


class OutsideNormalization(keras.layers.Layer):
    """Normalize by the mini-batch, with its statistics constant in the gradient.

    `y = x - E[x]`, or with `scaled`, `y = (x - E[x]) / sqrt(Var[x] + epsilon)`. Nothing
    is kept for inference.

    Args:
        scaled: Whether to divide by the standard deviation as well.
        epsilon: See `bn_keras.BatchNormalization`.
        **kwargs: `name`, `dtype`, as for every Keras layer.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.layers.outside_normalization import OutsideNormalization

    layer = OutsideNormalization(scaled=False)
    assert np.allclose(layer(np.array([[1.0], [3.0]])), [[-1.0], [1.0]])
    ```

    Reference:
        Ioffe & Szegedy 2015, section 2.
    """

    def __init__(self, scaled: bool, epsilon: float = 1e-3, **kwargs: Any):
        super().__init__(**kwargs)
        self.scaled, self.epsilon = scaled, epsilon

    def call(self, inputs: Any) -> Any:
        """Normalize the inputs."""
        # The variance of centered inputs: E[x^2] - E[x]^2 would lose all its digits
        # once the bias has grown.
        centred = inputs - ops.stop_gradient(ops.mean(inputs, axis=0))
        if not self.scaled:
            return centred
        variance = ops.mean(ops.square(centred), axis=0)
        return centred / ops.stop_gradient(ops.sqrt(variance + self.epsilon))
