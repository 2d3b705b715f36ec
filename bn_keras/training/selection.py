"""Keep the weights of the best epoch, and stop when no epoch is better."""

import shutil
from pathlib import Path
from typing import Any

import keras

from bn_keras.training import checkpoints


class Selection(keras.callbacks.Callback):
    """Keeps the weights of the best epoch so far, and ends a run that gets no better.

    The best epoch is the first one with the highest validation accuracy, of several the
    one with the lowest loss. It follows from the learning curve alone, so that a
    resumed run decides as one that was not interrupted.

    Args:
        history: The learning curve of earlier epochs.
        folder: The folder of the checkpoints, or `None` to keep weights in memory.
        keep_best: Whether weights are kept.
        patience: The number of epochs without a better one after which the run ends, or
            `None`.
    """

    def __init__(
        self,
        history: dict[str, list[float]],
        folder: Path | None,
        keep_best: bool,
        patience: int | None,
    ) -> None:
        super().__init__()
        accuracies, losses = (
            history.get(name, []) for name in ("val_accuracy", "val_loss")
        )
        self._scores = [*zip(accuracies, losses, strict=True)]
        self.folder, self.keep_best, self.patience = folder, keep_best, patience
        self._weights: list[Any] = []
        if folder is not None:
            # Epochs after the checkpoint will be made once more.
            for path in checkpoints.best_weights(folder):
                if _epoch(path) > len(self._scores):
                    shutil.rmtree(path)

    @property
    def best(self) -> int:
        """The number of the best epoch, from 1."""
        best = min(self._scores, key=lambda score: (-score[0], score[1]))
        return self._scores.index(best) + 1

    def is_exhausted(self) -> bool:
        """Return whether the run should end, as no epoch gets better."""
        epochs = len(self._scores)
        return bool(epochs and self.patience) and epochs - self.best >= self.patience

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102 (Keras documents it)
        logs, model = logs or {}, self.model
        assert model is not None
        self._scores.append((logs["val_accuracy"], logs["val_loss"]))
        if self.keep_best and self.best == len(self._scores):
            if self.folder is None:
                self._weights = model.get_weights()
            else:
                checkpoints.save_best(model, self.folder, self.best)
        model.stop_training = self.is_exhausted()

    def restore(self, model: keras.Model) -> None:
        """Give the model the weights of the best epoch, if they were kept."""
        if not self.keep_best:
            return
        if self.folder is None:
            model.set_weights(self._weights)
            return
        paths = checkpoints.best_weights(self.folder)
        (path,) = (path for path in paths if _epoch(path) == self.best)
        checkpoints.restore_best(model, path)


def _epoch(path: Path) -> int:
    return int(path.name.split("-")[1])
