"""Show how far a training run is: on a terminal, in a notebook, in a log."""

import time
from datetime import timedelta
from typing import Any

import keras
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

# What a line of progress shows: the key of Keras' logs, its label and its format.
_SHOWN = {
    "loss": ("loss", ".4g"),
    "accuracy": ("top-1", ".1%"),
    "val_loss": ("{} loss", ".4g"),
    "val_accuracy": ("{} top-1", ".1%"),
}
# Below so many columns the numbers are in a line of their own, and where the bar would
# have fewer than the second number.
_ONE_LINE, _BAR = 100, 10
# The seconds between two updates of a display: each one reads the loss of a step, for
# which it waits.
_UPDATE = {"terminal": 0.25, "notebook": 1.0}


class ProgressBar(keras.callbacks.Callback):
    """Shows the progress during an epoch, and a line after it.

    On a terminal this is a bar, in a notebook a line that is replaced, and elsewhere,
    as in the file of a batch job, a new line from time to time.

    Args:
        start: The number of steps made before this call of `fit`.
        total: The number of steps of the whole run.
        steps_per_epoch: The number of steps in an epoch.
        batch_size: The number of examples in a step.
        console: A `rich.console.Console`. `None` is one on standard error.
        seconds: The time between two lines where there is neither a terminal nor a
            notebook.
        validation: What the validation examples are called.
    """

    def __init__(
        self,
        start: int,
        total: int,
        steps_per_epoch: int,
        batch_size: int,
        console: Console | None = None,
        seconds: float = 30.0,
        validation: str = "test",
    ) -> None:
        super().__init__()
        self.step, self.total = start, total
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.console = console or Console(stderr=True)
        self.validation = validation
        self._epochs = -(-total // steps_per_epoch)
        self._epoch, self._text = 0, ""
        self._live: Live | None = None
        self._cell: Any = None
        self._kind = "log"
        if self.console.is_jupyter:
            self._kind = "notebook"
        elif self.console.is_terminal:
            self._kind = "terminal"
        self._seconds = _UPDATE.get(self._kind, seconds)

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102 (Keras documents it)
        # The step and time from which the pace is measured, and the time of its end.
        self._first_step = self._began = self._ended = None
        self._epoch, self._text = epoch, ""
        self._shown = time.monotonic()
        if self._kind == "terminal":
            self._live = Live(
                get_renderable=self._render, console=self.console, transient=True
            )
            self._live.start()
        elif self._kind == "notebook":
            from IPython.display import Pretty, display

            self._cell = display(Pretty(self._position()), display_id=True)

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        self.step += 1
        now = time.monotonic()
        if self._began is None:
            # The first step includes the compilation, so measure from its end.
            self._first_step, self._began = self.step, now
        if now - self._shown < self._seconds:
            return
        self._shown = now
        self._text = f"{self._pace()}{self._numbers(logs)}"
        if self._kind == "log":
            self._print(f"{self._position()}: {self._text}")
        elif self._cell is not None:
            self._update_cell(f"{self._position()}: {self._text}")

    def on_test_begin(self, logs=None):  # noqa: D102
        # The time of the validation is not part of training's pace.
        self._ended = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        text = f"epoch {epoch + 1}/{self._epochs}: "
        text += f"{self._pace(self._ended)}{self._numbers(logs)}"
        if self._cell is not None:
            self._update_cell(text)
            self._cell = None
        else:
            self.stop()
            self._print(text)

    def on_train_end(self, logs=None):  # noqa: D102
        self.stop()

    def stop(self) -> None:
        """Remove the bar. To be called after an error, which callbacks do not see."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _update_cell(self, text: str) -> None:
        from IPython.display import Pretty

        self._cell.update(Pretty(text))

    def _position(self) -> str:
        step = self.step - self._epoch * self.steps_per_epoch
        return (
            f"epoch {self._epoch + 1}/{self._epochs}, step {step:,}/"
            f"{self.steps_per_epoch:,}"
        )

    def _render(self) -> Group | Table:
        """Return the bar: one line, or two where there is little room."""
        line = Table.grid(expand=True, padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        step = self.step - self._epoch * self.steps_per_epoch
        cells: list[Any] = [
            self._position(),
            Bar(total=self.steps_per_epoch, completed=step),
        ]
        needed = len(self._position()) + _BAR + len(self._text) + 2
        if self.console.width >= max(_ONE_LINE, needed):
            line.add_column(no_wrap=True)
            line.add_row(*cells, self._text)
            return line
        line.add_row(*cells)
        return Group(line, Text(self._text, no_wrap=True, overflow="ellipsis"))

    def _pace(self, now: float | None = None) -> str:
        """Return images per second, and the time that the remaining steps need."""
        steps = self.step - (self._first_step or self.step)
        if not steps or self._began is None:
            return ""
        seconds = ((now or time.monotonic()) - self._began) / steps
        left = timedelta(seconds=round(seconds * (self.total - self.step)))
        return f"{self.batch_size / seconds:,.0f} images/s, {left} left, "

    def _numbers(self, logs: Any) -> str:
        return ", ".join(
            f"{label.format(self.validation)} {logs[name]:{form}}"
            for name, (label, form) in _SHOWN.items()
            if name in (logs or {})
        )
