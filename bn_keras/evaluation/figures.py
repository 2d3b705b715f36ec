"""A figure of the confusion matrix."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bn_keras.evaluation.scores import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more classes than these, cells have no numbers and axes no names.
MAX_WITH_NUMBERS, MAX_WITH_NAMES = 12, 40
# The number of characters of a name at an axis.
NAME_LENGTH = 24


def plot_confusion(
    evaluation: Evaluation, class_names: Sequence[str] | None = None
) -> "Figure":
    """Plot the confusion matrix: the share of each class that was taken for another.

    Args:
        evaluation: An `Evaluation`.
        class_names: The name of each class. `None` for numbers.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is not one name for each class.

    Example:
    ```python
    import numpy as np
    from bn_keras.evaluation import Evaluation, plot_confusion

    evaluation = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 10]))
    plot_confusion(evaluation, ("cat", "dog")).savefig("confusion.png")
    ```
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    counts = evaluation.confusion
    classes = len(counts)
    if class_names is not None and len(class_names) != classes:
        raise ValueError(
            f"`class_names` must have {classes} names, one for each class. Received: "
            f"{len(class_names)} names"
        )
    rows = counts.sum(1, keepdims=True)
    shares = counts / rows.clip(1)
    # In inches: at least one pixel for each of 1000 classes, or room for each name.
    side = 8 if classes > MAX_WITH_NAMES else 5 + classes / 6
    figure = Figure(figsize=(side + 1.2, side), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    # The square root makes rare confusions visible, and only a share of 0 is white.
    image = axes.imshow(
        np.ma.masked_equal(shares, 0),
        cmap="viridis_r",
        norm=PowerNorm(0.5, 0, 1),
        interpolation="nearest",
    )
    figure.colorbar(
        image,
        label="share of the class's images",
        format=PercentFormatter(1, 0),
        ticks=(0, 0.01, 0.05, 0.1, 0.25, 0.5, 1),
    )
    axes.set(xlabel="answer", ylabel="class", title=f"top-1 {evaluation.top1:.1%}")
    if classes <= MAX_WITH_NAMES:
        names = range(classes) if class_names is None else class_names
        names = [_shorten(str(name)) for name in names]
        axes.set_yticks(range(classes), names)
        longest = max(map(len, names))
        axes.set_xticks(range(classes), names, rotation=90 if longest > 2 else 0)
    if classes <= MAX_WITH_NUMBERS:
        for (row, column), count in _cells(counts):
            axes.text(
                column,
                row,
                str(count),
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.2 else "black",
            )
    return figure


def _shorten(name: str) -> str:
    # Matplotlib takes a dollar sign for the beginning of a formula.
    name = name.replace("$", r"\$")
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _cells(counts: np.ndarray) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield `((row, column), count)` of every count that is not zero."""
    return (
        ((row, column), int(counts[row, column]))
        for row, column in zip(*counts.nonzero(), strict=True)
    )
