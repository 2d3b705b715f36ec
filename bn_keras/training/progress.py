"""Show a training on the terminal: a bar, throughput, time left, loss, top-1.

Knows Keras' logs; no model and no data.
"""

import time
from datetime import timedelta

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


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
