"""What the figures share: one palette, one style for each network, and captions."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe & Ito 2008, "Color Universal Design": told apart with every kind of color
# vision. Their yellow is left out, which white paper hides.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"


class Style(NamedTuple):
    """How a network is drawn, in every figure.

    Args:
        color: One of the palette.
        line: Matplotlib's line style.
        marker: Matplotlib's marker, which tells lines apart without their colors.
    """

    color: str
    line: str = "-"
    marker: str = "o"


WITHOUT_BN, WITH_BN = Style(BLACK, "--", "o"), Style(BLUE, "-", "s")
STYLES = {
    "none": WITHOUT_BN,
    "bn": WITH_BN,
    "mlp": WITHOUT_BN,
    "bn-mlp": WITH_BN,
    "inception": WITHOUT_BN,
    "bn-baseline": WITH_BN,
    "bn-x5": Style(SKY, "-", "^"),
    "bn-x30": Style(VERMILION, "-", "D"),
    "bn-x5-sigmoid": Style(PURPLE, "-", "v"),
    "inception-x5": Style(ORANGE, "--", "x"),
    "inception-sigmoid": Style(GREEN, "--", "+"),
    "noisy-bn": Style(VERMILION, "-", "D"),
    "noise": Style(ORANGE, "--", "x"),
    "l1": Style(GREEN, "-", "^"),
    "l2": Style(PURPLE, "-", "v"),
    "linf": Style(SKY, "-", "P"),
    "l1-centred": Style(GREEN, ":", "^"),
    "linf-centred": Style(SKY, ":", "P"),
}
_MARKERS = 8  # about so many on a line


def draw_seeds(
    axes: "Axes",
    steps: ArrayLike,
    curves: ArrayLike,
    style: Style,
    label: str | None = None,
) -> "Line2D":
    """Draw the mean over seeds as a line, and their range as a band around it.

    Args:
        axes: The `matplotlib.axes.Axes` to draw on.
        steps: The horizontal positions, `(points,)`.
        curves: The values of each seed, `(seeds, points)`. Masked ones do not count.
        style: The style of the network.
        label: The line's label in a legend, or None.

    Returns:
        The line.
    """
    values = np.ma.asarray(curves, float)
    line = draw_line(axes, steps, values.mean(0), style, label)
    axes.fill_between(
        steps, values.min(0), values.max(0), color=style.color, alpha=0.2, linewidth=0
    )
    return line


def draw_line(
    axes: "Axes",
    steps: ArrayLike,
    values: ArrayLike,
    style: Style,
    label: str | None = None,
) -> "Line2D":
    """Draw one line in the style of a network, with a few markers.

    Args:
        axes: The `matplotlib.axes.Axes` to draw on.
        steps: The horizontal positions, `(points,)`.
        values: The vertical positions, `(points,)`.
        style: The style of the network.
        label: The line's label in a legend, or None.

    Returns:
        The line.
    """
    (line,) = axes.plot(
        steps,
        values,
        style.line,
        color=style.color,
        marker=style.marker,
        markersize=4,
        markevery=max(1, len(np.asarray(steps)) // _MARKERS),
        linewidth=1.3,
        label=label,
    )
    return line


def use_plain_numbers(axis: "Axis") -> None:
    """Label a logarithmic axis with 0.2 instead of a product with a power of ten.

    Args:
        axis: The `xaxis` or `yaxis` of Matplotlib's axes.
    """
    from matplotlib.ticker import LogFormatter

    class PlainFormatter(LogFormatter):
        def __call__(self, x, pos=None):
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(PlainFormatter())
    # Between the powers of ten labels only fit on an axis of few of these.
    axis.set_minor_formatter(PlainFormatter(minor_thresholds=(2, 0.5)))


def plot_grids(
    grids: Mapping[str, ArrayLike],
    rates: Sequence[float],
    initial: Sequence[float],
    initial_label: str,
    color_label: str,
) -> "Figure":
    """Plot tables of mean accuracies by initial weights and learning rate.

    Args:
        grids: A dict from the title of a panel to the accuracies, `(initial weights,
            rates, seeds)`.
        rates: The learning rates.
        initial: The initial weights.
        initial_label: The label of their axis.
        color_label: The label of the color bar.
    """
    from matplotlib.figure import Figure

    cells = {
        title: 100 * np.asarray(grid, float).mean(-1) for title, grid in grids.items()
    }
    highest = max(values.max() for values in cells.values())
    figure = Figure(figsize=(9, 1.9 + 0.7 * len(initial)), layout="constrained")
    panels = figure.subplots(1, len(cells), sharey=True)
    image: Any = None
    for axes, (title, values) in zip(panels, cells.items(), strict=True):
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            axes.text(
                column,
                row,
                f"{value:.1f}",
                ha="center",
                va="center",
                color="black" if value > 0.6 * highest else "white",
            )
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_yticks(range(len(initial)), [f"{value:.3g}" for value in initial])
        axes.set(title=title, xlabel="learning rate")
    panels[0].set_ylabel(initial_label)
    figure.colorbar(image, ax=panels, label=color_label)
    return figure


def add_caption(figure: "Figure", text: str) -> None:
    """Write what a figure shows below it.

    Args:
        figure: A `matplotlib.figure.Figure` with the layout "constrained".
        text: Sentences: what the lines, the bands and the markers are.
    """
    # A letter of this size is about a fourteenth of an inch wide.
    lines = textwrap.fill(text, int(figure.get_figwidth() * 14))
    figure.supxlabel(lines, fontsize=8, x=0.01, ha="left", color="#333333")
