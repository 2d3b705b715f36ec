"""Curves of several seeds in one panel.

Knows Matplotlib's axes; no experiment.
"""

import numpy as np


def draw_seeds(axes, steps, curves, style="-", label=None):
    """The mean of some seeds as a line, their range as a band around it.

    Args:
        axes: `matplotlib.axes.Axes`.
        steps: `(points,)`.
        curves: `(seeds, points)`.
        style: of the line, as Matplotlib has it.
        label: of the line in a legend; None for none.

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
