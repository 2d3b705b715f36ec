"""Draw which class was taken for which.

Knows counts; no model and no data.
"""

import numpy as np

# More classes than these have no numbers in the cells, no names at the sides.
WITH_NUMBERS, WITH_NAMES = 12, 40
# Characters of a name at a side of the picture.
NAME = 24


def plot_confusion(evaluation, class_names=None):
    """The confusion matrix: of each class, which share was taken for which.

    Args:
        evaluation: an `Evaluation`.
        class_names: of each class; None for numbers.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: where the names are not one for each class.

    Example:
    ```python
    import numpy as np
    from bn_keras.evaluation import Evaluation, plot_confusion

    found = Evaluation(np.array([[8, 2], [1, 9]]), np.array([10, 10]))
    plot_confusion(found, ("cat", "dog")).savefig("confusion.png")
    ```
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    counts = evaluation.confusion
    classes = len(counts)
    if class_names is not None and len(class_names) != classes:
        raise ValueError(
            f"`class_names` must be {classes}, one for each class. Received: "
            f"{len(class_names)}"
        )
    rows = counts.sum(1, keepdims=True)
    shares = counts / rows.clip(1)
    # At least one pixel for each of 1000 classes, room for a name for each of few.
    side = 8 if classes > WITH_NAMES else 5 + classes / 6
    figure = Figure(figsize=(side + 1.2, side), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    # Rare confusions beside the diagonal: the root of their share, none of them white.
    picture = axes.imshow(
        np.ma.masked_equal(shares, 0),
        cmap="viridis_r",
        norm=PowerNorm(0.5, 0, 1),
        interpolation="nearest",
    )
    figure.colorbar(
        picture,
        label="share of the class's pictures",
        format=PercentFormatter(1, 0),
        ticks=(0, 0.01, 0.05, 0.1, 0.25, 0.5, 1),
    )
    axes.set(xlabel="answer", ylabel="class", title=f"top-1 {evaluation.top1:.1%}")
    if classes <= WITH_NAMES:
        names = range(classes) if class_names is None else class_names
        names = [_shortened(str(name)) for name in names]
        axes.set_yticks(range(classes), names)
        longest = max(map(len, names))
        axes.set_xticks(range(classes), names, rotation=90 if longest > 2 else 0)
    if classes <= WITH_NUMBERS:
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


def _shortened(name):
    # A dollar sign would begin a formula.
    name = name.replace("$", r"\$")
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _cells(counts):
    """Every `((row, column), count)` that is not zero."""
    return (
        ((row, column), counts[row, column])
        for row, column in zip(*counts.nonzero(), strict=True)
    )
