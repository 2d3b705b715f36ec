"""A CSV file of the predictions of an evaluation, with a row for each picture."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from bn_keras.atomic_files import atomic_write
from bn_keras.data import Split

COLUMNS = (
    *("picture", "class", "predicted", "probability"),
    *("probability_of_class", "rank_of_class"),
)


@contextmanager
def prediction_table(
    path: str | os.PathLike[str], split: Split, class_names: Sequence[str]
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Write the predictions of an evaluation; the file appears when all are done.

    Args:
        path: The CSV file. `rank_of_class` is 1 where no other class is more probable.
        split: The pictures.
        class_names: The name of each output of the model. Further outputs are numbers.

    Yields:
        A function for the `on_predictions` of `evaluate`.

    Example:
    ```python
    import tempfile
    from bn_keras import data
    from bn_keras.evaluation import evaluate
    from bn_keras.evaluation.prediction_table import prediction_table
    from bn_keras.models import MLP

    digits = data.digits()
    model = MLP(input_shape=(8, 8, 1), classes=10)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/predictions.csv"
        with prediction_table(path, digits.test, digits.class_names) as write:
            evaluate(model, digits.test, on_predictions=write)
        with open(path) as file:
            assert len(file.readlines()) == 1 + 360
    ```
    """
    positions = iter(split.positions().tolist())

    def name(label: int) -> str:
        return class_names[label] if label < len(class_names) else str(label)

    with (
        atomic_write(path) as temporary_path,
        temporary_path.open("w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)

        def write(probabilities: np.ndarray, labels: np.ndarray) -> None:
            for values, label in zip(probabilities, labels.tolist(), strict=True):
                predicted, of_class = int(np.argmax(values)), values[label]
                writer.writerow(
                    (
                        *(split.describe(next(positions)), name(label)),
                        *(name(predicted), f"{values[predicted]:.7g}"),
                        *(f"{of_class:.7g}", 1 + int((values > of_class).sum())),
                    )
                )

        yield write
