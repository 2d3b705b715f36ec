"""The result of a diagnosis: findings, a table of the layers, a picture."""

from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from bn_keras.tables import html_table


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Args:
        kind: What it is, one of `bn_keras.diagnosis.findings.KINDS`.
        layer: The path of the layer, or `""` for the model as a whole.
        severity: From 0 to 1; findings are listed by it.
        message: What was found, with its numbers.
        advice: What to do.
    """

    kind: str
    layer: str
    severity: float
    message: str
    advice: str


@dataclass(frozen=True)
class LayerState:
    """The measurements of one batch normalization.

    Args:
        layer: Its path.
        channels: The number of channels.
        mean_drift: How far the stored mean of a channel is from the fresh one, at most,
            in fresh standard deviations.
        variance_ratio: The ratio of stored to fresh variance, or its inverse, of the
            channel where it is largest; 1 if they agree.
        values: The smallest number of values behind a mean of a mini-batch.
        dead: The number of channels whose outputs do not depend on the inputs.
        tiny: The number of channels whose variance is below `epsilon`.
    """

    layer: str
    channels: int
    mean_drift: float
    variance_ratio: float
    values: int
    dead: int
    tiny: int


@dataclass(frozen=True)
class Outcome:
    """How good the model is in one mode.

    Args:
        loss: The loss of the compiled model, None without labels or loss.
        accuracy: The share of labels that are the largest output, None if the labels
            are not classes.
    """

    loss: float | None
    accuracy: float | None


MODES = {
    "stored": "stored statistics (inference)",
    "batch": "statistics of the mini-batch (training)",
    "fresh": "fresh statistics (re-estimated)",
}
_HEADER = ("layer", "channels", "mean drift", "variance", "values", "dead", "tiny")


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` found. `print` shows tables, as does a notebook.

    Args:
        findings: Everything that is wrong, the worst first; empty for a healthy model.
        layers: The measurements of each layer.
        outcomes: How good the model is with its stored statistics, those of the
            mini-batch, and fresh ones: by `"stored"`, `"batch"` and `"fresh"`.
        removed: The share of the gap between the first two that re-estimation removes,
            None if there is no gap or there are no labels.
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerState, ...]
    outcomes: dict[str, Outcome]
    removed: float | None = None

    def __repr__(self) -> str:
        return f"<Diagnosis: {self._summary}>"

    @property
    def _summary(self) -> str:
        counts = {"finding": len(self.findings), "layer": len(self.layers)}
        return " in ".join(f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items())

    @property
    def _layer_rows(self) -> list[tuple[str, ...]]:
        return [
            (
                x.layer,
                str(x.channels),
                f"{x.mean_drift:.2f}",
                f"x{x.variance_ratio:.2f}",
                str(x.values),
                str(x.dead),
                str(x.tiny),
            )
            for x in self.layers
        ]

    @property
    def _outcome_rows(self) -> list[tuple[str, ...]]:
        rows = []
        for mode, outcome in self.outcomes.items():
            texts = [MODES[mode]]
            if outcome.loss is not None:
                texts.append(f"loss {outcome.loss:.4g}")
            if outcome.accuracy is not None:
                texts.append(f"accuracy {outcome.accuracy:.1%}")
            rows.append(tuple(texts))
        if self.removed is not None:
            rows.append(("of the gap, re-estimation removes", f"{self.removed:.0%}"))
        return rows

    def __str__(self) -> str:
        """Return the findings, the outcomes and a table of the layers."""
        lines = [self._summary]
        for number, finding in enumerate(self.findings, 1):
            where = f"{finding.layer}: " if finding.layer else ""
            lines.append(f"{number}. {where}{finding.message}")
            lines.append(f"   {finding.advice}")
        lines += ["", *("  ".join(row) for row in self._outcome_rows), ""]
        rows = [_HEADER, *self._layer_rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
        for name, *cells in rows:
            texts = map(str.rjust, cells, widths[1:])
            lines.append("  ".join([name.ljust(widths[0]), *texts]))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        findings = [(x.layer or "model", x.message, x.advice) for x in self.findings]
        return "".join(
            [
                html_table(findings, caption=self._summary),
                html_table(self._outcome_rows),
                html_table(self._layer_rows, _HEADER),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dicts, lists, strings and numbers, for JSON."""
        return asdict(self)

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Draw the drift of each layer, and return the Matplotlib figure.

        Args:
            path: Where to save it, as PNG, SVG or PDF; None saves nothing.
        """
        from matplotlib.figure import Figure

        height = 1.5 + 0.2 * len(self.layers)
        figure = Figure(figsize=(9, height), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        names = [x.layer for x in self.layers]
        found = {finding.layer for finding in self.findings}
        colors = ["tab:red" if name in found else "tab:blue" for name in names]
        axes[0].barh(names, [x.mean_drift for x in self.layers], color=colors)
        axes[0].set_xlabel("drift of the mean, in standard deviations")
        axes[1].barh(names, [x.variance_ratio for x in self.layers], color=colors)
        axes[1].set_xlabel("ratio of the variances")
        axes[1].set_xscale("log")
        axes[0].invert_yaxis()  # the first layer on top
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure
