"""What became of every batch normalization, and its table.

Knows no graph and no Keras.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What became of one call of a batch-normalization layer.

    Args:
        layer: path of the layer, with its call's number if it was called more often.
        outcome: `"folded"`, `"multiply-add"` (a `ScaleShift` took its place) or
            `"kept"` (it is still a batch normalization).
        into: paths of the layers that absorbed it; empty unless folded.
        rule: the pattern that was applied, such as `"Conv2D, then BN"`.
        reason: why it was not folded, empty if it was.
    """

    layer: str
    outcome: str
    into: tuple[str, ...] = ()
    rule: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """One entry for each call of a batch-normalization layer, in calling order.

    Args:
        entries: the entries.
    """

    entries: tuple[Entry, ...]

    @property
    def folded(self):
        """How many calls went into linear layers."""
        return sum(entry.outcome == "folded" for entry in self.entries)

    @property
    def left(self):
        """How many calls did not: multiply-adds and kept layers together."""
        return len(self.entries) - self.folded

    def __str__(self):
        """A table: layer, outcome, where it went and by which rule, or why not."""
        rows = [("batch normalization", "outcome", "into", "rule or reason")]
        rows += [
            (
                entry.layer,
                entry.outcome,
                ", ".join(entry.into),
                entry.rule or entry.reason,
            )
            for entry in self.entries
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, f"{self.folded} folded, {self.left} left"])
