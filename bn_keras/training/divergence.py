"""Stop a training whose loss is no longer a number.

Knows the loss that Keras reports; no model.
"""

import math

import keras

from bn_keras.errors import DivergenceError


class DivergenceStop(keras.callbacks.Callback):
    """Raise `DivergenceError` after the first step whose loss is not finite.

    Keras' `TerminateOnNaN` ends the training as if it were done.

    Args:
        start: steps made before this training.
    """

    def __init__(self, start=0):
        super().__init__()
        self.step = start

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102 (as Keras has it)
        self.step += 1
        self._check("loss", logs)

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        # The last step of a finite loss may have sent the weights to infinity.
        self._check("val_loss", logs)

    def _check(self, name, logs):
        loss = float((logs or {}).get(name, 0.0))
        if not math.isfinite(loss):
            raise DivergenceError(f"The loss became {loss} at step {self.step}")
