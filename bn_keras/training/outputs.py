"""The files of a training run in its work directory."""

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import keras

from bn_keras.atomic_files import atomic_write
from bn_keras.data import Data, Files
from bn_keras.data.listing import Listing
from bn_keras.training import checkpoints, learning_curve, run_record
from bn_keras.training.recipes import Recipe
from bn_keras.training.run_record import Run


class Outputs:
    """The files of one run.

    Args:
        workdir: An existing folder.
        name: The recipe's name, with which the names of all files begin.
        chief: Whether this process writes them. Of several processes, the others only
            read the checkpoints.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], name: str, chief: bool = True
    ) -> None:
        self.chief, self._lock = chief, None
        self.model, self.record, self.curve = (
            Path(workdir) / f"{name}.{suffix}" for suffix in ("keras", "json", "csv")
        )
        self.checkpoints, self.tensorboard = (
            Path(workdir) / f"{name}.{suffix}"
            for suffix in ("checkpoints", "tensorboard")
        )
        # `self.record` belongs to `self.model`, which may be of an earlier run until
        # this one is done. So the checkpoints have a record of their own.
        self._unfinished_record = self.checkpoints / self.record.name
        self._listing = self.checkpoints / "files.gz"

    def is_unfinished(self) -> bool:
        """Return whether the folder holds checkpoints of a run."""
        return bool(checkpoints.checkpoints(self.checkpoints))

    def unfinished(self) -> Run | None:
        """Return the record of the run whose checkpoints the folder holds, if any."""
        return self._read(self._unfinished_record) if self.is_unfinished() else None

    def steps_made(self) -> int:
        """Return the number of steps of the newest checkpoint, 0 without one."""
        paths = checkpoints.checkpoints(self.checkpoints)
        return int(paths[0].name.split("-")[1]) if paths else 0

    def is_finished(self, run: Run) -> bool:
        """Return whether the folder holds the model of this run, all epochs done.

        Raises:
            ValueError: If it holds the model of a finished run that differs.
        """
        if self.is_unfinished() or not (self.model.is_file() and self.record.is_file()):
            return False
        finished = self._read(self.record)
        differences = finished.differences(run)
        epochs = (finished.recipe.epochs, run.recipe.epochs)
        if epochs[0] != epochs[1]:
            differences.append(f"epochs: {epochs[0]}, {epochs[1]}")
        if differences:
            raise ValueError(
                f"The finished run in {self.model.parent} must be the same as this "
                f"one. Received (finished, this): {'; '.join(differences)}. Name "
                "another folder, or train again in its place (--restart)."
            )
        return True

    def follow(self, data: Data) -> Data:
        """Return the data set with the training files of the unfinished run, if any.

        A file that the run had and that is missing now, or was left out as damaged, is
        replaced as `Files.follow` says, with a warning.

        Raises:
            ValueError: If the training files are of another data set.
        """
        if (
            not self.is_unfinished()
            or not isinstance(data.train, Files)
            or not self._listing.is_file()
        ):
            return data
        files, notes = data.train.follow(Listing.read(self._listing))
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return replace(data, train=files)

    def check(self, run: Run) -> None:
        """Check that the folder holds no unfinished run that differs from this one.

        Args:
            run: The `Run` that is going to start or resume.

        Raises:
            ValueError: If the checkpoints are of a different run or of more epochs.
        """
        unfinished = self.unfinished()
        if unfinished is None:
            return
        self.check_epochs(run.recipe)
        if differences := unfinished.differences(run):
            raise ValueError(
                f"The unfinished run in {self.checkpoints.parent} must be the same as "
                f"this one. Received (unfinished, this): {'; '.join(differences)}. "
                f"Name another folder, or remove {self.checkpoints} to start from "
                "scratch (--restart)."
            )

    def check_epochs(self, recipe: Recipe) -> None:
        """Check that the unfinished run, if any, made no more epochs than the recipe's.

        Raises:
            ValueError: If it did.
        """
        unfinished = self.unfinished()
        if unfinished is None:
            return
        steps = unfinished.recipe.steps_per_epoch(unfinished.examples)
        epochs_made = -(-self.steps_made() // steps)
        if epochs_made > recipe.epochs:
            raise ValueError(
                f"The number of epochs must be at least {epochs_made}, those of the "
                f"unfinished run in {self.model.parent}. Received: {recipe.epochs}. "
                "Give more (--epochs), or begin again (--restart)."
            )

    def resume(self, model: keras.Model, run: Run, data: Data) -> int:
        """Bring the model to its last checkpoint, if there is one.

        Args:
            model: The compiled model.
            run: The `Run` that starts or resumes.
            data: Its examples.

        Returns:
            The number of steps made.

        Raises:
            ValueError: If the checkpoints are of a different run or of more epochs, or
                another process trains in the same folder.
        """
        self.check(run)
        if self.chief:
            self.checkpoints.mkdir(exist_ok=True)
            self._acquire_lock()
            if isinstance(data.train, Files) and not self.is_unfinished():
                data.train.listing.write(self._listing)
            run.write(self._unfinished_record)
        start = checkpoints.restore(model, self.checkpoints)
        if self.chief:
            # Rows of epochs after the checkpoint will be written once more.
            steps = run.recipe.steps_per_epoch(run.examples)
            learning_curve.truncate(self.curve, start // steps)
        return start

    def discard(self) -> None:
        """Remove the checkpoints and the learning curve of an unfinished run.

        The model of a finished run stays until another one replaces it.

        Raises:
            ValueError: If another process trains in the same folder.
        """
        if self.checkpoints.is_dir():
            self._acquire_lock()
            self._remove_checkpoints()
            self.close()
        self.curve.unlink(missing_ok=True)

    def _read(self, record: Path) -> Run:
        try:
            return run_record.read(record)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{record} must be the record of the unfinished run. Received: "
                f"{str(error).rstrip('.')}. Remove {self.checkpoints} to start from "
                "scratch (--restart)."
            ) from error

    def _acquire_lock(self) -> None:
        """Keep other processes out of the folder until this one ends or closes it."""
        import fcntl

        # The system releases the lock with the process, even if it is killed. A file
        # whose existence is the lock would stay.
        self._lock = (self.checkpoints / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.checkpoints.parent} must be used by one process at a time. "
                "Received: a folder in which another process trains "
                f"{self.model.stem}. Wait for it to end, or name another folder."
            ) from None

    def callbacks(
        self, start: int, checkpoint_steps: int | None, steps_per_epoch: int
    ) -> list[keras.callbacks.Callback]:
        """Return the Keras callbacks that write the learning curve and checkpoints.

        Args:
            start: The number of steps made before this training.
            checkpoint_steps: The number of steps between two checkpoints within an
                epoch, or `None`.
            steps_per_epoch: The number of steps in an epoch.
        """
        checkpoint = checkpoints.Checkpoint(
            self.checkpoints, start, checkpoint_steps, steps_per_epoch, self.chief
        )
        if not self.chief:
            return [checkpoint]
        curve = learning_curve.LearningCurve(self.curve, steps_per_epoch)
        # The row before the checkpoint: killed between them, the epoch is repeated and
        # its row replaced. The other way round the row would be missing.
        return [curve, checkpoint]

    def close(self) -> None:
        """Let other processes use the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def finish(self, model: keras.Model, run: Run) -> None:
        """Save the trained model and its record, and remove the checkpoints.

        Args:
            model: The trained model.
            run: The `Run` that trained it.
        """
        # Until the checkpoints are gone, a run that is killed here only has to do this
        # once more. The record is written before the model appears, so that there is no
        # model without one.
        with atomic_write(self.model) as temporary_path:
            model.save(temporary_path)
            run.write(self.record)
        self._remove_checkpoints()

    def _remove_checkpoints(self) -> None:
        # A rename makes them disappear at once; removing files one by one could leave
        # some that look like damaged checkpoints.
        with tempfile.TemporaryDirectory(
            prefix=f".{self.checkpoints.name}.tmp-", dir=self.checkpoints.parent
        ) as folder:
            self.checkpoints.rename(Path(folder) / self.checkpoints.name)

    def history(self) -> dict[str, list[float]]:
        """Return the learning curve, a dict from loss or metric to values by epoch."""
        return learning_curve.read_history(self.curve)
