"""The learning curve of a run: a CSV file with a row for each epoch."""

import csv
import time
import warnings
from pathlib import Path
from typing import Any

import keras

from bn_keras.atomic_files import atomic_write

# Beside these columns there is one for each of Keras' logs.
FACTS = ("epoch", "steps", "seconds", "learning_rate")


class LearningCurve(keras.callbacks.Callback):
    """Writes the learning curve, atomically: after each epoch the whole file.

    Args:
        path: The CSV file. Epochs count from 1; `steps` are those made at the end of
            the epoch, `seconds` what the epoch took (of an epoch that was resumed, the
            part after the checkpoint), `learning_rate` that at its end.
        steps_per_epoch: The number of steps in an epoch.
    """

    def __init__(self, path: Path, steps_per_epoch: int) -> None:
        super().__init__()
        self.path, self.steps_per_epoch = path, steps_per_epoch
        self._began = 0.0

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102 (Keras documents it)
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        optimizer: Any = self.model.optimizer
        rate: Any = keras.ops.convert_to_numpy(optimizer.learning_rate)
        row = {
            "epoch": epoch + 1,
            "steps": (epoch + 1) * self.steps_per_epoch,
            "seconds": round(time.monotonic() - self._began, 3),
            "learning_rate": f"{float(rate):.6g}",
            **(logs or {}),
        }
        write_rows(self.path, [*read_rows(self.path), row])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a learning curve, none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list) -> None:
    """Write the rows of a learning curve, or remove the file if there are none."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with (
        atomic_write(path) as temporary_path,
        temporary_path.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, rows[-1], restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def truncate(path: Path, epochs: int) -> None:
    """Keep the first epochs of the learning curve of a run that was stopped."""
    try:
        rows = [row for row in read_rows(path) if int(row["epoch"]) <= epochs]
    except (KeyError, ValueError):
        warnings.warn(
            f"The learning curve {path} is damaged. Starting a new one.",
            stacklevel=2,
        )
        rows = []
    write_rows(path, rows)


def read_history(path: Path) -> dict[str, list[float]]:
    """Return a dict from loss or metric to its value by epoch."""
    rows = read_rows(path)
    return {
        name: [float(row[name]) for row in rows]
        for name in (rows[0] if rows else ())
        if name not in FACTS
    }
