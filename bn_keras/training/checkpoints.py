"""Checkpoints of a training run: written whole, kept twice, restored bitwise.

Knows a compiled model and a folder; no recipe and no data.
"""

import hashlib
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np

from bn_keras.atomic_files import atomic_write

KEPT = 2
_WEIGHTS, _SEEDS, _CHECKSUM = "state.weights.h5", "seeds.npz", "sha256"


def save(model, folder, step):
    """Keep the model's, the optimizer's and the random generators' state of a step.

    Args:
        model: a compiled Keras model.
        folder: existing folder of the checkpoints; the oldest beyond two go.
        step: number of steps made.
    """
    path = Path(folder) / f"step-{step:010d}"
    for damaged in checkpoints(folder):
        if damaged.name >= path.name:  # `restore` left it out
            shutil.rmtree(damaged)
    with atomic_write(path) as temporary_path:
        temporary_path.mkdir()
        model.save_weights(temporary_path / _WEIGHTS)
        np.savez(temporary_path / _SEEDS, *map(np.asarray, _seeds(model)))
        (temporary_path / _CHECKSUM).write_text(_checksum(temporary_path))
    for old in checkpoints(folder)[KEPT:]:
        shutil.rmtree(old)


def restore(model, folder):
    """Bring the model to the newest checkpoint that is whole.

    A damaged one is left out with a warning.

    Args:
        model: a compiled Keras model.
        folder: folder of the checkpoints; it may be missing.

    Returns:
        Number of steps made; 0 without a checkpoint.

    Raises:
        ValueError: where there are checkpoints and none is whole, or the model is not
            the one that was saved.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            whole = (path / _CHECKSUM).read_text() == _checksum(path)
        except OSError:
            whole = False
        if not whole:
            warnings.warn(
                f"The checkpoint {path} is damaged; going on from the one before it",
                stacklevel=2,
            )
            continue
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.load_weights(path / _WEIGHTS)
        with np.load(path / _SEEDS) as seeds:
            for variable, value in zip(_seeds(model), seeds.values(), strict=True):
                variable.assign(value)
        return int(path.name.split("-")[1])
    if found:
        raise ValueError(
            f"Expected a checkpoint that is whole in {folder}. Received: "
            f"{len(found)}, all damaged; remove the folder to begin anew"
        )
    return 0


def checkpoints(folder):
    """The checkpoints of a folder, the newest first."""
    return sorted(
        (path for path in Path(folder).glob("step-*") if _is_checkpoint(path)),
        reverse=True,
    )


def _is_checkpoint(path):
    return path.is_dir() and re.fullmatch(r"step-\d{10,}", path.name)


def _checksum(path):
    digest = hashlib.sha256()
    for name in (_WEIGHTS, _SEEDS):
        with (path / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _seeds(model):
    """The states of random generators (dropout), which `save_weights` leaves out."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


class Checkpoint(keras.callbacks.Callback):
    """Save at the end of each epoch, and each so many steps.

    Keras' `BackupAndRestore` writes weights and position to two files, neither of them
    at once, and resumes an epoch from its start: killed at the wrong moment it loses
    the run, or repeats steps.

    Args:
        folder: where to.
        start: steps made before this training.
        steps: steps to one checkpoint within an epoch; None: none.
        steps_per_epoch: steps of an epoch.
        chief: whether this process writes. The others of several take part in reading
            the weights, which may need all of them, and drop what they read.
    """

    def __init__(self, folder, start, steps, steps_per_epoch, chief=True):
        super().__init__()
        self.folder, self.step, self.steps = Path(folder), start, steps
        self.steps_per_epoch, self.chief = steps_per_epoch, chief
        self._saved = start

    def on_train_begin(self, logs=None):  # noqa: D102 (as Keras has it)
        if not self.chief:
            return
        # Left by a process that was killed while it wrote.
        for path in self.folder.glob(".step-*.tmp-*"):
            shutil.rmtree(path, ignore_errors=True)

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        self.step += 1
        # The end of an epoch waits for its validation, whose result were lost else.
        if (
            self.steps is not None
            and self.step - self._saved >= self.steps
            and self.step % self.steps_per_epoch
        ):
            self._save()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        self._save()

    def _save(self):
        # A step of a finite loss may still have sent the weights to infinity.
        if self.step > self._saved and all(
            np.isfinite(weight).all() for weight in self.model.get_weights()
        ):
            if self.chief:
                save(self.model, self.folder, self.step)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    save(self.model, folder, self.step)
            self._saved = self.step
