"""Keras callbacks of a training run: divergence, progress bar, TensorBoard."""

import math
import os
import time
from datetime import timedelta
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bn_keras.errors import DivergenceError
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS

PERCENTILES = (15, 50, 85)
_NORMALIZATION_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")
# What a line of progress shows: the key of Keras' logs, its label and its format.
_SHOWN = {
    "loss": ("loss", ".4g"),
    "accuracy": ("top-1", ".1%"),
    "val_loss": ("test loss", ".4g"),
    "val_accuracy": ("test top-1", ".1%"),
}


class DivergenceStop(keras.callbacks.Callback):
    """Raises `DivergenceError` after the first step whose loss is not finite.

    Keras' `TerminateOnNaN` ends the training as if it had succeeded.

    Args:
        start: The number of steps made before this call of `fit`.
    """

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.step = start

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102 (Keras documents it)
        self.step += 1
        self._check("loss", logs)

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        # The last step may have had a finite loss and made the weights infinite.
        self._check("val_loss", logs)

    def _check(self, name, logs):
        loss = float((logs or {}).get(name, 0.0))
        if not math.isfinite(loss):
            raise DivergenceError(f"The loss became {loss} at step {self.step}")


class ProgressBar(keras.callbacks.Callback):
    """Shows a bar during an epoch, on a terminal, and a line after it.

    Args:
        start: The number of steps made before this call of `fit`.
        total: The number of steps of the whole run.
        steps_per_epoch: The number of steps in an epoch.
        batch_size: The number of examples in a step.
        console: A `rich.console.Console`. `None` is one on standard error.
    """

    def __init__(
        self,
        start: int,
        total: int,
        steps_per_epoch: int,
        batch_size: int,
        console: Console | None = None,
    ) -> None:
        super().__init__()
        self.step, self.total = start, total
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.console = console or Console(stderr=True)
        self._epochs = -(-total // steps_per_epoch)
        self._progress = None

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102
        # The step and time from which the pace is measured, and the time of its end.
        self._first_step = self._began = self._ended = None
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[text]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._progress.add_task(
                f"epoch {epoch + 1}/{self._epochs}",
                total=self.steps_per_epoch,
                completed=self.step - epoch * self.steps_per_epoch,
                text="",
            )
            self._progress.start()

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        self.step += 1
        if self._began is None:
            # The first step includes the compilation, so measure from its end.
            self._first_step, self._began = self.step, time.monotonic()
        if self._progress is not None:
            self._progress.update(
                self._task, advance=1, text=f"{self._pace()}{_format_logs(logs)}"
            )

    def on_test_begin(self, logs=None):  # noqa: D102
        # The time of the validation is not part of training's pace.
        self._ended = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        text = f"{self._pace(self._ended)}{_format_logs(logs)}"
        self.stop()
        self.console.print(
            f"epoch {epoch + 1}/{self._epochs}: {text}",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs=None):  # noqa: D102
        self.stop()

    def stop(self) -> None:
        """Remove the bar. To be called after an error, which callbacks do not see."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _pace(self, now=None):
        """Return images per second, and the time that the remaining steps need."""
        steps = self.step - (self._first_step or self.step)
        if not steps:
            return ""
        seconds = ((now or time.monotonic()) - self._began) / steps
        left = timedelta(seconds=round(seconds * (self.total - self.step)))
        return f"{self.batch_size / seconds:,.0f} images/s, {left} left, "


def _format_logs(logs):
    return ", ".join(
        f"{label} {logs[name]:{form}}"
        for name, (label, form) in _SHOWN.items()
        if name in (logs or {})
    )


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
