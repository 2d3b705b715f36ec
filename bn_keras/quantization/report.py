"""The report of what is computed in int8, and how exact that is."""

from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from bn_keras.tables import html_table, text_table

HEADER = ("layer", "type", "outcome", "scale", "SNR", "reason")


@dataclass(frozen=True)
class LayerEntry:
    """What became of one call of a layer.

    Args:
        layer: Path of the layer, with the number of the call if there are several.
        kind: The class of the layer.
        outcome: `"int8"` or `"float"`.
        reason: Why it is float; empty if it is not.
        scale: The difference of two neighboring numbers of its output, in int8.
        snr: The signal-to-noise ratio of its output, against the float model, in
            decibels. None where it was not measured.
        multiply_adds: How many it takes for one example.
    """

    layer: str
    kind: str
    outcome: Literal["int8", "float"]
    reason: str = ""
    scale: float | None = None
    snr: float | None = None
    multiply_adds: int = 0


@dataclass(frozen=True, repr=False)
class QuantizationReport:
    """What became of every layer, and how the outputs compare with the float model's.

    `print(report)` shows a table, as does a notebook; `report.plot()` draws the
    signal-to-noise ratios.

    Args:
        entries: One entry for each layer that was looked at, in calling order.
        measure: What the float and the int8 model are compared by: `"top-1 agreement"`,
            the share of examples with the same class, or `"1 - relative error"`.
        score: Its value for the examples that were held back.
        bound: The smallest that was asked for, 0 for none.
        examples: How many examples were held back.
        relative_error: The root of the mean squared difference of the outputs, relative
            to the float model's.
        calibration: How scales were chosen, and by how many examples.
        warnings: What is doubtful about the result.
    """

    entries: tuple[LayerEntry, ...]
    measure: str = ""
    score: float = 0.0
    bound: float = 0.0
    examples: int = 0
    relative_error: float = 0.0
    calibration: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def int8_share(self) -> float:
        """The share of multiply-adds that are computed in int8."""
        total = sum(x.multiply_adds for x in self.entries)
        return sum(x.multiply_adds for x in self.entries if x.outcome == "int8") / (
            total or 1
        )

    @property
    def _summary(self) -> str:
        count = sum(x.outcome == "int8" and x.multiply_adds > 0 for x in self.entries)
        total = sum(x.multiply_adds > 0 for x in self.entries)
        return (
            f"{count} of {total} layers with weights in int8, "
            f"{self.int8_share:.1%} of the multiply-adds; {self.measure} "
            f"{self.score:.4f} on {self.examples} held-back examples "
            f"(bound {self.bound:g}), relative error {self.relative_error:.2g}"
        )

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                entry.layer,
                entry.kind,
                entry.outcome,
                "" if entry.scale is None else f"{entry.scale:.3g}",
                "" if entry.snr is None else f"{entry.snr:.1f} dB",
                entry.reason,
            )
            for entry in self.entries
        ]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary}>"

    def __str__(self) -> str:
        """Return a table of the layers, the summary and the warnings."""
        warnings = [f"warning: {text}" for text in self.warnings]
        return "\n".join([*text_table(self._rows, HEADER), self._summary, *warnings])

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""
        warnings = "".join(f"<p>warning: {escape(text)}</p>" for text in self.warnings)
        return f"{html_table(self._rows, HEADER)}<p>{self._summary}</p>{warnings}"

    def plot(self, axes: Any = None) -> Any:
        """Draw the signal-to-noise ratio of each int8 layer's output.

        Args:
            axes: Axes of Matplotlib's to draw in; None for new ones.

        Returns:
            The axes.
        """
        import matplotlib.pyplot as plt

        if axes is None:
            _, axes = plt.subplots(figsize=(8, 4), layout="constrained")
        # Layers in float have no noise of their own.
        measured = [
            (number, entry.snr)
            for number, entry in enumerate(self.entries)
            if entry.snr is not None
        ]
        axes.plot(*zip(*measured, strict=True), "o", markersize=4, color="#1f6f8b")
        axes.set_xlabel("layer, in calling order")
        axes.set_ylabel("signal-to-noise ratio of the output, dB")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        return axes
