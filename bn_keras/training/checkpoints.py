"""Checkpoints of a training run: written atomically, kept twice, restored bitwise."""

import hashlib
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bn_keras.atomic_files import atomic_write

# The last one and the one before it, in case the last one is damaged.
KEPT = 2
_STATE, _CHECKSUM = "state.npz", "sha256"


def save(model: keras.Model, folder: str | os.PathLike[str], step: int) -> None:
    """Write the state of the model, its optimizer and its random generators.

    Args:
        model: A compiled Keras model.
        folder: The existing folder of the checkpoints. All but the newest two are
            removed.
        step: The number of steps made.
    """
    path = Path(folder) / f"step-{step:010d}"
    # A checkpoint of this step or a later one can only be one that `restore` found to
    # be damaged. It must go first: a folder cannot be renamed to one that exists, and
    # among the newest two it would push out a good one.
    for damaged in checkpoints(folder):
        if damaged.name >= path.name:
            shutil.rmtree(damaged)
    _write(path, _variables(model))
    for old in checkpoints(folder)[KEPT:]:
        shutil.rmtree(old)


def _write(path: Path, variables: list) -> None:
    """Write a folder with the values of variables and their checksum."""
    with atomic_write(path) as temporary_path:
        temporary_path.mkdir()
        # Not HDF5, whose library crashes the process if it cannot write a file: it
        # tries again when the file is closed, and when the process ends.
        arrays: dict[str, Any] = {
            f"{index}/{variable.path}": keras.ops.convert_to_numpy(variable)
            for index, variable in enumerate(variables)
        }
        np.savez(temporary_path / _STATE, **arrays)
        (temporary_path / _CHECKSUM).write_text(_checksum(temporary_path))


def save_best(model: keras.Model, folder: str | os.PathLike[str], epoch: int) -> None:
    """Write the weights of the best epoch so far.

    Those of the best epoch before it stay until the next call: a run that is killed
    before its checkpoint makes this epoch once more.

    Args:
        model: A Keras model.
        folder: The existing folder of the checkpoints.
        epoch: The number of the epoch.
    """
    path = Path(folder) / f"best-{epoch:06d}"
    shutil.rmtree(path, ignore_errors=True)
    _write(path, model.variables)
    for old in best_weights(folder)[KEPT:]:
        shutil.rmtree(old)


def restore_best(model: keras.Model, path: Path) -> None:
    """Give the model the weights that `save_best` has written.

    Raises:
        ValueError: If they are damaged.
    """
    if (path / _CHECKSUM).read_text() != _checksum(path):
        raise ValueError(
            f"The weights of the best epoch, {path}, must not be damaged. Received: "
            "another checksum. Train again (--restart)."
        )
    _assign(model.variables, path / _STATE)


def best_weights(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the weights of best epochs in a folder, the newest first."""
    return sorted(Path(folder).glob("best-*"), reverse=True)


def restore(model: keras.Model, folder: str | os.PathLike[str]) -> int:
    """Bring the model to the newest checkpoint that is not damaged.

    A damaged checkpoint is left out with a warning.

    Args:
        model: A compiled Keras model.
        folder: The folder of the checkpoints. It need not exist.

    Returns:
        The number of steps made; 0 if there is no checkpoint.

    Raises:
        ValueError: If all checkpoints are damaged, or the model is not the one that was
            saved.
    """
    paths = checkpoints(folder)
    for path in paths:
        try:
            is_intact = (path / _CHECKSUM).read_text() == _checksum(path)
        except OSError:
            is_intact = False
        if not is_intact:
            warnings.warn(
                f"The checkpoint {path} is damaged. Resuming from the one before it.",
                stacklevel=2,
            )
            continue
        # `fit` builds the optimizer in its first step. Without its variables, momentum
        # and the number of steps (so the learning rate) would not be restored.
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        _assign(_variables(model), path / _STATE)
        return int(path.name.split("-")[1])
    if paths:
        raise ValueError(
            f"{folder} must have a checkpoint that is not damaged. Received: "
            f"{len(paths)}, all damaged. Remove the folder to start from scratch."
        )
    return 0


def checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted(
        (path for path in Path(folder).glob("step-*") if _is_checkpoint(path)),
        reverse=True,
    )


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and re.fullmatch(r"step-\d{10,}", path.name) is not None


def _checksum(path: Path) -> str:
    """Return the SHA-256 of the SHA-256 of the state, in hexadecimal digits."""
    with (path / _STATE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return hashlib.sha256(digest).hexdigest()


def _variables(model: keras.Model) -> list:
    """Return everything that determines the rest of a run.

    These are the weights, the states of random generators (a resumed run would draw
    other dropout masks) and the optimizer's momentum and number of steps.
    """
    optimizer: Any = model.optimizer
    return [*model.variables, *optimizer.variables]


def _assign(variables: list, path: Path) -> None:
    with np.load(path) as values:
        for variable, value in zip(variables, values.values(), strict=True):
            # NumPy reads the bytes of a bfloat16 array, whose name it does not know.
            dtype = keras.ops.convert_to_numpy(variable).dtype
            variable.assign(value.view(dtype) if value.dtype.kind == "V" else value)


class Checkpoint(keras.callbacks.Callback):
    """Saves a checkpoint after each epoch, and optionally within it.

    Keras' `BackupAndRestore` writes the weights and the position to two files, neither
    of them atomically, and resumes an epoch from its beginning. Killed at the wrong
    moment, it loses the run or repeats steps.

    Args:
        folder: The folder of the checkpoints.
        start: The number of steps made before this call of `fit`.
        steps: The number of steps between two checkpoints within an epoch, or `None`.
        steps_per_epoch: The number of steps in an epoch.
        chief: Whether this process writes. Of several processes, the others also read
            the weights, which may need all of them, and discard the result.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        start: int,
        steps: int | None,
        steps_per_epoch: int,
        chief: bool = True,
    ) -> None:
        super().__init__()
        self.folder, self.step, self.steps = Path(folder), start, steps
        self.steps_per_epoch, self.chief = steps_per_epoch, chief
        self._saved_step = start

    def on_train_begin(self, logs=None):  # noqa: D102 (Keras documents it)
        if not self.chief:
            return
        # A process that was killed while it wrote has left these.
        for path in self.folder.glob(".*.tmp-*"):
            shutil.rmtree(path, ignore_errors=True)

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        self.step += 1
        if (
            self.steps is not None
            and self.step - self._saved_step >= self.steps
            # Not after the last step of an epoch: a run that is killed during the
            # validation would resume after it, and its result would be missing from
            # the learning curve.
            and self.step % self.steps_per_epoch
        ):
            self._save()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        self._save()

    def _save(self):
        # A step with a finite loss may still have made the weights infinite. A run
        # that resumed from these could never recover.
        if self.step > self._saved_step and all(
            np.isfinite(weight).all() for weight in self.model.get_weights()
        ):
            model: Any = self.model
            if self.chief:
                save(model, self.folder, self.step)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    save(model, folder, self.step)
            self._saved_step = self.step
