"""The report of what happened to every batch normalization."""

from dataclasses import dataclass
from html import escape
from typing import Literal

from bn_keras.tables import html_table, text_table


@dataclass(frozen=True)
class Entry:
    """What happened to one call of a batch-normalization layer.

    Args:
        layer: Path of the layer, with the number of the call if there are several.
        outcome: `"folded"`, `"multiply-add"` (a `ScaleShift` layer replaces it) or
            `"kept"` (it is still a batch normalization).
        into: Paths of the layers that absorbed it; empty unless folded.
        rule: The pattern that was applied, such as `"Conv2D, then BN"`.
        reason: Why it was not folded; empty if it was.
    """

    layer: str
    outcome: Literal["folded", "multiply-add", "kept"]
    into: tuple[str, ...] = ()
    rule: str = ""
    reason: str = ""


HEADER = ("batch normalization", "outcome", "into", "rule or reason")


@dataclass(frozen=True, repr=False)
class Report:
    """What happened to every call of a batch-normalization layer, in calling order.

    `print(report)` shows a table, as does a notebook.

    Args:
        entries: One entry for each call.
        warnings: A sentence for each batch normalization that loses digits because its
            mean is far from zero.

    Example:
    ```python
    from bn_keras.folding import Entry, Report

    report = Report((Entry("bn", "folded", ("conv",), "Conv2D, then BN"),))
    assert repr(report) == "<Report: 1 folded, 0 left>"
    print(report)
    ```
    """

    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()

    @property
    def folded(self) -> int:
        """The number of calls that were folded into linear layers."""
        return sum(entry.outcome == "folded" for entry in self.entries)

    @property
    def left(self) -> int:
        """The number of calls that were not: multiply-adds and kept layers."""
        return len(self.entries) - self.folded

    @property
    def _summary(self) -> str:
        return f"{self.folded} folded, {self.left} left"

    @property
    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (x.layer, x.outcome, ", ".join(x.into), x.rule or x.reason)
            for x in self.entries
        ]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary}>"

    def __str__(self) -> str:
        """Return a table: layer, outcome, and where it went or why it did not."""
        warnings = [f"warning: {text}" for text in self.warnings]
        return "\n".join([*text_table(self._rows, HEADER), self._summary, *warnings])

    def _repr_html_(self) -> str:
        """Return the same table for a notebook."""
        warnings = "".join(f"<p>warning: {escape(text)}</p>" for text in self.warnings)
        return f"{html_table(self._rows, HEADER)}<p>{self._summary}</p>{warnings}"
