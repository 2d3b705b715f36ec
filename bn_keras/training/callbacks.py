"""Keras callbacks of a training run: divergence, bad files, TensorBoard."""

import math
import os
import threading
import time
from typing import Any

import keras
import numpy as np

from bn_keras.data import Files
from bn_keras.data.bad_files import find_unreadable, unreadable_error
from bn_keras.errors import DivergenceError
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS

PERCENTILES = (15, 50, 85)
_NORMALIZATION_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")
# The seconds between two times at which the losses of steps are read: reading one waits
# for the step.
_SECONDS = 0.5
# The number of files that are checked between two looks at whether to stop, and between
# two times at which the result is kept.
_CHUNK, _KEPT = 256, 8192


class DivergenceStop(keras.callbacks.Callback):
    """Raises `DivergenceError` after the first step whose loss is not finite.

    Keras' `TerminateOnNaN` ends the training as if it had succeeded.

    Args:
        start: The number of steps made before this call of `fit`.
    """

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.step = start
        # The steps whose loss was not read yet, and when the last one was.
        self._unread: list[tuple[int, Any]] = []
        self._read = 0.0

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102 (Keras documents it)
        self.step += 1
        self._unread.append((self.step, logs or {}))
        if time.monotonic() - self._read >= _SECONDS:
            self._check_steps()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        self._check_steps()
        # The last step may have had a finite loss and made the weights infinite.
        _check(self.step, (logs or {}).get("val_loss", 0.0))

    def _check_steps(self):
        for step, logs in self._unread:
            _check(step, logs.get("loss", 0.0))
        self._unread.clear()
        self._read = time.monotonic()


def _check(step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergenceError(f"The loss became {loss} at step {step}", step)


class BackgroundCheck(keras.callbacks.Callback):
    """Decodes files while the first epoch runs, and stops the run at a damaged one.

    Random crops decode a part of a file only: without this, a damaged file could end
    the run in any epoch.

    Args:
        split: The training files.
    """

    def __init__(self, split: Files) -> None:
        super().__init__()
        self.split = split
        self._thread: threading.Thread | None = None
        self._stop, self._error = threading.Event(), None

    def on_train_begin(self, logs=None):  # noqa: D102
        # `fit` is called twice if the first epoch was resumed.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Wait until the files that are being decoded are done, and check no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        unchecked = self.split.unchecked()
        kept = 0
        for start in range(0, len(unchecked), _CHUNK):
            part = self.split.at(unchecked[start : start + _CHUNK])
            if self._stop.is_set():
                break
            unreadable = find_unreadable(part, part.positions(), threads=1)
            if unreadable.size:
                self._error = unreadable_error(part, unreadable)
                return
            if start + _CHUNK - kept >= _KEPT or start + _CHUNK >= len(unchecked):
                self.split.mark_checked(unchecked[kept : start + _CHUNK])
                kept = start + _CHUNK


class Summaries(keras.callbacks.Callback):
    """Writes activations and batch-normalization weights for TensorBoard, by epoch.

    These are percentiles of the input of each nonlinearity, and histograms of the
    weights of each normalization.

    Args:
        directory: The folder of the event files.
        images: A mini-batch of inputs, on which the activations are computed in
            inference mode.

    Reference:
        Ioffe & Szegedy 2015, figure 1b, c (percentiles 15, 50, 85).
    """

    def __init__(self, directory: str | os.PathLike[str], images: Any) -> None:
        super().__init__()
        self.directory, self.images = str(directory), images
        self._writer: Any = None
        self._activation_inputs: Any = None

    def on_train_begin(self, logs=None):  # noqa: D102
        import tensorflow as tf

        # `fit` is called twice if the first epoch was resumed.
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.directory)
            inputs = {
                layer.name: layer.input
                for layer in self.model.layers
                if isinstance(layer, keras.layers.Activation)
            }
            self._activation_inputs = keras.Model(self.model.inputs, inputs)

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        import tensorflow as tf

        with self._writer.as_default(step=epoch):
            for name, value in (logs or {}).items():
                tf.summary.scalar(f"epoch/{name}", value)
            tf.summary.scalar(
                "epoch/learning_rate",
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate),
            )
            inputs = self._activation_inputs(self.images, training=False)
            for name, values in inputs.items():
                # NumPy has no bfloat16.
                values = np.asarray(keras.ops.cast(values, "float32"))
                levels = np.percentile(values, PERCENTILES)
                for percentile, level in zip(PERCENTILES, levels, strict=True):
                    tf.summary.scalar(f"{name}/percentile_{percentile}", level)
            for layer in self.model.layers:
                if isinstance(layer, BATCH_NORMALIZATIONS):
                    for name in _NORMALIZATION_WEIGHTS:
                        if getattr(layer, name, None) is not None:
                            tf.summary.histogram(
                                f"{layer.name}/{name}",
                                keras.ops.convert_to_numpy(getattr(layer, name)),
                            )
        self._writer.flush()
