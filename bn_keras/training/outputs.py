"""What a training run leaves in its work directory.

Knows the files and when each appears; no training loop.
"""

import csv
import tempfile
import warnings
from pathlib import Path

import keras

from bn_keras.atomic_files import atomic_write
from bn_keras.training import checkpoints, run_record


class Outputs:
    """The files of one run.

    Args:
        workdir: an existing folder.
        name: the recipe's name, which all files begin with.
        chief: whether this process writes them; the others of several read the
            checkpoints and nothing else.
    """

    def __init__(self, workdir, name, chief=True):
        self.chief, self._logger, self._lock = chief, None, None
        self.model, self.facts, self.curve = (
            Path(workdir) / f"{name}.{suffix}" for suffix in ("keras", "json", "csv")
        )
        self.checkpoints, self.tensorboard = (
            Path(workdir) / f"{name}.{suffix}"
            for suffix in ("checkpoints", "tensorboard")
        )

    def resume(self, model, run, steps_per_epoch):
        """Bring the model to the last checkpoint, or begin anew.

        Args:
            model: the compiled model.
            run: the `bn_keras.training.run_record.Run`.
            steps_per_epoch: steps of an epoch.

        Returns:
            Number of steps made.

        Raises:
            ValueError: where the checkpoints are of a run of other facts, or another
                process trains there.
        """
        # With the checkpoints, for `self.facts` are those of `self.model`.
        facts = self.checkpoints / self.facts.name
        if checkpoints.checkpoints(self.checkpoints) and (
            differences := self._read(facts).differences(run)
        ):
            raise ValueError(
                f"Expected the unfinished run in {self.checkpoints.parent} to be the "
                f"same. Received (there, now): {'; '.join(differences)}; name another "
                f"folder, or remove {self.checkpoints} to begin anew"
            )
        if self.chief:
            self.checkpoints.mkdir(exist_ok=True)
            self._hold()
            run.write(facts)
        start = checkpoints.restore(model, self.checkpoints)
        if self.chief:
            self._keep_curve(start // steps_per_epoch)
        return start

    def _read(self, facts):
        try:
            return run_record.read(facts)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Expected the facts of the unfinished run in {facts}. Received: "
                f"{error}; remove {self.checkpoints} to begin anew"
            ) from error

    def _hold(self):
        """Keep other processes out of the folder until this one ends or closes."""
        import fcntl

        self._lock = (self.checkpoints / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Expected to train alone in {self.checkpoints.parent}. Received: a "
                f"folder in which another process trains {self.model.stem}; wait for "
                "it, or name another folder"
            ) from None

    def _keep_curve(self, epochs):
        """Of an earlier learning curve keep that many epochs."""
        try:
            rows = [row for row in self._rows() if int(row["epoch"]) < epochs]
        except (KeyError, ValueError):
            warnings.warn(f"{self.curve} is damaged; it begins anew", stacklevel=2)
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

    def _rows(self):
        if not self.curve.is_file():
            return []
        with self.curve.open(newline="") as file:
            return list(csv.DictReader(file))

    def callbacks(self, start, checkpoint_steps, steps_per_epoch):
        """Keras callbacks that write the learning curve and the checkpoints.

        Args:
            start: steps made before this training.
            checkpoint_steps: steps to a checkpoint within an epoch, or None.
            steps_per_epoch: steps of an epoch.
        """
        checkpoint = checkpoints.Checkpoint(
            self.checkpoints, start, checkpoint_steps, steps_per_epoch, self.chief
        )
        if not self.chief:
            return [checkpoint]
        self._logger = keras.callbacks.CSVLogger(self.curve, append=True)
        return [self._logger, checkpoint]

    def close(self):
        """Let go of the files that are open."""
        # Keras leaves the learning curve open when a training fails.
        if self._logger is not None and self._logger.csv_file is not None:
            self._logger.csv_file.close()
        if self._lock is not None:
            self._lock.close()

    def finish(self, model, run):
        """Save the trained model and its facts, remove the checkpoints.

        Args:
            model: the model.
            run: the `bn_keras.training.run_record.Run`.
        """
        # Killed between these lines, the last checkpoint makes them once more.
        with atomic_write(self.model) as temporary_path:
            model.save(temporary_path)
            run.write(self.facts)
        with tempfile.TemporaryDirectory(
            prefix=f".{self.checkpoints.name}.tmp-", dir=self.checkpoints.parent
        ) as folder:
            self.checkpoints.rename(Path(folder) / self.checkpoints.name)

    def history(self):
        """The learning curve: a dict from each column to its values, one an epoch."""
        rows = self._rows()
        return {
            name: [float(row[name]) for row in rows]
            for name in (rows[0] if rows else ())
            if name != "epoch"
        }
