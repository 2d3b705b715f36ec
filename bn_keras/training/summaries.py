"""Batch-normalization statistics and activations for TensorBoard, once an epoch.

Knows Keras models and summaries; no recipe.
"""

from typing import Any

import keras
import numpy as np

from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS

PERCENTILES = (15, 50, 85)
_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")


class Summaries(keras.callbacks.Callback):
    """Percentiles of what each nonlinearity takes, and each normalization's weights.

    Args:
        directory: folder of the event files.
        images: one mini-batch of inputs on which the activations are looked at, in
            inference mode.

    Reference:
        Ioffe & Szegedy 2015, figure 1b, c (percentiles 15, 50, 85).
    """

    def __init__(self, directory, images):
        super().__init__()
        self.directory, self.images = str(directory), images
        self._writer: Any = None
        self._inner: Any = None

    def on_train_begin(self, logs=None):  # noqa: D102 (as Keras has it)
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.directory)
            looked_at = {
                layer.name: layer.input
                for layer in self.model.layers
                if isinstance(layer, keras.layers.Activation)
            }
            self._inner = keras.Model(self.model.inputs, looked_at)

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        import tensorflow as tf

        with self._writer.as_default(step=epoch):
            for name, value in (logs or {}).items():
                tf.summary.scalar(f"epoch/{name}", value)
            tf.summary.scalar(
                "epoch/learning_rate",
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate),
            )
            inputs = self._inner(self.images, training=False)
            for name, values in inputs.items():
                values = np.asarray(keras.ops.cast(values, "float32"))
                levels = np.percentile(values, PERCENTILES)
                for percentile, level in zip(PERCENTILES, levels, strict=True):
                    tf.summary.scalar(f"{name}/percentile_{percentile}", level)
            for layer in self.model.layers:
                if isinstance(layer, BATCH_NORMALIZATIONS):
                    for name in _WEIGHTS:
                        if getattr(layer, name, None) is not None:
                            tf.summary.histogram(
                                f"{layer.name}/{name}",
                                keras.ops.convert_to_numpy(getattr(layer, name)),
                            )
        self._writer.flush()
