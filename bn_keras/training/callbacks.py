"""Keras callbacks of a training run: divergence, progress bar, TensorBoard."""

import math
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
_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")


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


class ProgressBar(keras.callbacks.Callback):
    """One bar while an epoch lasts, on a terminal; one line when it is over.

    Args:
        start: steps made before this training.
        total: steps of the whole run.
        steps_per_epoch: steps of an epoch.
        batch_size: examples of a step.
        console: a `rich.console.Console`; None for one on standard error.
    """

    def __init__(self, start, total, steps_per_epoch, batch_size, console=None):
        super().__init__()
        self.step, self.total = start, total
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.console = console or Console(stderr=True)
        self._epochs = -(-total // steps_per_epoch)
        self._progress = None

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102 (as Keras has it)
        self._first = self._began = self._ended = None
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
            # The first step compiles.
            self._first, self._began = self.step, time.monotonic()
        if self._progress is not None:
            self._progress.update(
                self._task, advance=1, text=f"{self._pace()}{_numbers(logs)}"
            )

    def on_test_begin(self, logs=None):  # noqa: D102
        # Validation is not training's pace.
        self._ended = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        text = f"{self._pace(self._ended)}{_numbers(logs)}"
        self._stop()
        self.console.print(
            f"epoch {epoch + 1}/{self._epochs}: {text}",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs=None):  # noqa: D102
        self._stop()

    def _stop(self):
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _pace(self, now=None):
        """Images a second, and the time that the run needs for the steps left."""
        steps = self.step - (self._first or self.step)
        if not steps:
            return ""
        seconds = ((now or time.monotonic()) - self._began) / steps
        left = timedelta(seconds=round(seconds * (self.total - self.step)))
        return f"{self.batch_size / seconds:,.0f} images/s, {left} left, "


def _numbers(logs):
    names = {
        "loss": ("loss", ".4g"),
        "accuracy": ("top-1", ".1%"),
        "val_loss": ("test loss", ".4g"),
        "val_accuracy": ("test top-1", ".1%"),
    }
    return ", ".join(
        f"{label} {logs[name]:{form}}"
        for name, (label, form) in names.items()
        if name in (logs or {})
    )


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
