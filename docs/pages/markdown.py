"""What the generated pages share: result files, numbers, tables, sources."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
HEADER = "<!-- Written by `python -m docs.pages` from `benchmarks/results/`. -->\n"


def load(name):
    """Return the content of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(columns, rows):
    """Return a Markdown table.

    Args:
        columns: The heads of the columns.
        rows: Sequences of cells, one for each column.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value):
    return str(value).replace("|", "\\|")


def number(value, digits=3):
    """Return a number to some significant digits, whole from 100 on."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):g}"


def source(facts, name):
    """Return the sentence that says where the figures of a section come from."""
    versions = facts.get("versions", {})
    named = {
        "keras": "Keras",
        "tensorflow": "TensorFlow",
        "jax": "JAX",
        "torch": "PyTorch",
        "flax": "Flax",
    }
    libraries = [f"{named[key]} {versions[key]}" for key in named if key in versions]
    return (
        f"Measured with `{facts['command']}` on {facts['machine']}"
        f"{'; ' if libraries else ''}{', '.join(libraries)} "
        f"([{name}.json](../benchmarks/results/{name}.json))."
    )
