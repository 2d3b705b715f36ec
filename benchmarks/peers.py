"""The layers of this package, Keras, PyTorch and Flax behind one interface."""

# The peers are not installed where types are checked.
# pyright: reportMissingImports=false

from typing import Any

import keras
import numpy as np

from bn_keras import BatchNormalization

LIBRARIES = ("bn_keras", "Keras", "PyTorch", "Flax")


def keras_layer(library, **settings):
    """Return this package's layer or Keras' own."""
    layers = {"bn_keras": BatchNormalization, "Keras": keras.layers.BatchNormalization}
    return layers[library](**settings)


def to_numpy(tensor) -> np.ndarray:
    """Return a tensor of Keras as an array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


class Layer:
    """A batch normalization of any library: train on arrays, read its statistics.

    The new statistics replace the old ones at once.

    Args:
        library: One of `LIBRARIES`.
        channels: Size of the last axis of its two-dimensional inputs.
        half: Everything in float16.
    """

    def __init__(self, library, channels, half=False):
        self.library = library
        self.layer: Any
        if library in ("bn_keras", "Keras"):
            dtype = "float16" if half else None
            self.layer = keras_layer(library, momentum=0.0, dtype=dtype)
            self.layer.build((None, channels))
        elif library == "PyTorch":
            import torch

            self.layer = torch.nn.BatchNorm1d(channels, momentum=1.0)
            self.layer = self.layer.half() if half else self.layer
        else:
            import jax.numpy as jnp
            from flax import nnx

            self.layer = nnx.BatchNorm(
                channels,
                momentum=0.0,
                use_running_average=False,
                dtype=jnp.float16 if half else None,
                param_dtype=jnp.float16 if half else jnp.float32,
                rngs=nnx.Rngs(0),
            )

    def train(self, values):
        """Normalize one mini-batch in training mode."""
        if self.library in ("bn_keras", "Keras"):
            self.layer(values, training=True)
        elif self.library == "PyTorch":
            import torch

            self.layer(torch.tensor(values))
        else:
            self.layer(values)

    @property
    def mean(self):
        """The population mean, as an array."""
        return self._statistic("moving_mean", "running_mean", "mean")

    @property
    def variance(self):
        """The population variance, as an array."""
        return self._statistic("moving_variance", "running_var", "var")

    def _statistic(self, keras_name, torch_name, flax_name):
        if self.library in ("bn_keras", "Keras"):
            return to_numpy(getattr(self.layer, keras_name))
        if self.library == "PyTorch":
            return getattr(self.layer, torch_name).numpy()
        return np.asarray(getattr(self.layer, flax_name)[...])
