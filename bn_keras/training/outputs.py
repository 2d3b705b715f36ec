"""The files of a training run in its work directory."""

import csv
import os
import tempfile
import warnings
from pathlib import Path

import keras

from bn_keras.atomic_files import atomic_write
from bn_keras.training import checkpoints, run_record
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
        self.chief, self._logger, self._lock = chief, None, None
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

    def check(self, run: Run) -> None:
        """Check that the folder holds no unfinished run that differs from this one.

        Args:
            run: The `Run` that is going to start or resume.

        Raises:
            ValueError: If the checkpoints are of a different run.
        """
        if checkpoints.checkpoints(self.checkpoints) and (
            differences := self._read(self._unfinished_record).differences(run)
        ):
            raise ValueError(
                f"The unfinished run in {self.checkpoints.parent} must be the same as "
                f"this one. Received (unfinished, this): {'; '.join(differences)}. "
                f"Name another folder, or remove {self.checkpoints} to start from "
                "scratch."
            )

    def resume(self, model: keras.Model, run: Run, steps_per_epoch: int) -> int:
        """Bring the model to its last checkpoint, if there is one.

        Args:
            model: The compiled model.
            run: The `Run` that starts or resumes.
            steps_per_epoch: The number of steps in an epoch.

        Returns:
            The number of steps made.

        Raises:
            ValueError: If the checkpoints are of a different run, or another process
                trains in the same folder.
        """
        self.check(run)
        if self.chief:
            self.checkpoints.mkdir(exist_ok=True)
            self._acquire_lock()
            run.write(self._unfinished_record)
        start = checkpoints.restore(model, self.checkpoints)
        if self.chief:
            # Rows of epochs after the checkpoint will be written once more.
            self._truncate_curve(start // steps_per_epoch)
        return start

    def _read(self, record: Path) -> Run:
        try:
            return run_record.read(record)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{record} must be the record of the unfinished run. Received: "
                f"{str(error).rstrip('.')}. Remove {self.checkpoints} to start from "
                "scratch."
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

    def _truncate_curve(self, epochs: int) -> None:
        """Keep the first epochs of the learning curve of a run that was stopped."""
        try:
            rows = [row for row in self._rows() if int(row["epoch"]) < epochs]
        except (KeyError, ValueError):
            warnings.warn(
                f"The learning curve {self.curve} is damaged. Starting a new one.",
                stacklevel=2,
            )
            rows = []
        if not rows:
            self.curve.unlink(missing_ok=True)
            return
        with (
            atomic_write(self.curve) as temporary_path,
            temporary_path.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    def _rows(self) -> list[dict[str, str]]:
        if not self.curve.is_file():
            return []
        with self.curve.open(newline="") as file:
            return list(csv.DictReader(file))

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
        self._logger = keras.callbacks.CSVLogger(self.curve, append=True)
        # The row before the checkpoint: killed between them, the epoch is repeated and
        # its row replaced. The other way round the row would be missing.
        return [self._logger, checkpoint]

    def close(self) -> None:
        """Close the open files."""
        # Keras leaves the learning curve open when a training fails.
        if self._logger is not None and self._logger.csv_file is not None:
            self._logger.csv_file.close()
        if self._lock is not None:
            self._lock.close()

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
        # A rename makes them disappear at once; removing files one by one could leave
        # some that look like damaged checkpoints.
        with tempfile.TemporaryDirectory(
            prefix=f".{self.checkpoints.name}.tmp-", dir=self.checkpoints.parent
        ) as folder:
            self.checkpoints.rename(Path(folder) / self.checkpoints.name)

    def history(self) -> dict[str, list[float]]:
        """Return the learning curve, a dict from a column to its value by epoch."""
        rows = self._rows()
        return {
            name: [float(row[name]) for row in rows]
            for name in (rows[0] if rows else ())
            if name != "epoch"
        }
