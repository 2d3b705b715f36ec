"""Curves of several seeds in one panel."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def draw_seeds(
    axes: "Axes",
    steps: ArrayLike,
    curves: ArrayLike,
    style: str = "-",
    label: str | None = None,
) -> "Line2D":
    """Draw the mean over seeds as a line, and their range as a band around it.

    Args:
        axes: The `matplotlib.axes.Axes` to draw on.
        steps: The horizontal positions, `(points,)`.
        curves: The values of each seed, `(seeds, points)`.
        style: Matplotlib's line style.
        label: The line's label in a legend, or None.

    Returns:
        The line.
    """
    values = np.asarray(curves, float)
    (line,) = axes.plot(steps, values.mean(0), style, label=label)
    axes.fill_between(
        steps,
        values.min(0),
        values.max(0),
        color=line.get_color(),
        alpha=0.2,
        linewidth=0,
    )
    return line
