"""A layer that records the moments of its inputs."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bn_keras")
class Watch(keras.layers.Layer):
    """Return the inputs, and record their moments in the last training mini-batch.

    The weight `moments`, `(2, channels)`, holds the mean and the biased variance of
    each channel of the last axis.

    Args:
        **kwargs: `name`, `dtype`, as for every Keras layer.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.layers.watch import Watch

    watch = Watch()
    watch(np.array([[1.0], [3.0]]), training=True)
    assert np.allclose(watch.moments, [[2.0], [1.0]])
    ```
    """

    def build(self, input_shape: Any) -> None:
        """Create `moments`."""
        self.moments = self.add_weight(
            name="moments",
            shape=(2, input_shape[-1]),
            initializer="zeros",
            trainable=False,
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return `inputs`; in training, record their moments."""
        if training:
            moments: Any = ops.moments(inputs, list(range(len(inputs.shape) - 1)))
            self.moments.assign(ops.stack(moments))
        return inputs
