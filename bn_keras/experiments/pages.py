"""What the documentation says about each experiment, and the published results."""

import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parents[1]
# A wheel has the pages inside the package, a checkout has them in its documentation.
PAGES = next(
    filter(Path.is_dir, (_PACKAGE / "pages", _CHECKOUT / "docs" / "results")), _PACKAGE
)
# Only a checkout has the results.
RESULTS = _CHECKOUT / "benchmarks" / "results" / "reproduce"
PUBLISHED_SCALE = "default"


def read_setup(name: str) -> str:
    """Return how an experiment is set up, and how that differs from the paper.

    Args:
        name: One of `bn_keras.experiments.catalog.EXPERIMENTS`.

    Returns:
        Paragraphs separated by blank lines; empty if the page is not available.
    """
    return _read_section(name, "Set-up")


def read_discussion(name: str, scale: str) -> str:
    """Return what is said about the published result of an experiment.

    Args:
        name: One of `bn_keras.experiments.catalog.EXPERIMENTS`.
        scale: One of `bn_keras.experiments.catalog.SCALES`.

    Returns:
        Paragraphs separated by blank lines; empty if the page is not available, or if
        the published result is of another scale.
    """
    return _read_section(name, "What came out") if scale == PUBLISHED_SCALE else ""


def read_result(name: str, scale: str) -> dict[str, Any] | None:
    """Return the published result of an experiment, from `RESULTS`.

    Args:
        name: One of `bn_keras.experiments.catalog.EXPERIMENTS`.
        scale: One of `bn_keras.experiments.catalog.SCALES`.

    Returns:
        What `bn_keras.experiments.reproducing.reproduce` returned, or None if the
        result is not available, or is of another scale.
    """
    path = RESULTS / f"{name}.json"
    if scale != PUBLISHED_SCALE or not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def read_raw(name: str, heading: str) -> str:
    """Return a section of an experiment's page as it is written there.

    Args:
        name: One of `bn_keras.experiments.catalog.EXPERIMENTS`.
        heading: The section's heading.

    Returns:
        Markdown that ends with a line break; empty if there is no such section.
    """
    path = PAGES / f"{name}.md"
    if not path.is_file():
        return ""
    _, _, rest = path.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    section, _, _ = rest.partition("\n## ")
    return section.strip("\n") + "\n" if section.strip() else ""


def _read_section(name, heading):
    paragraphs = (
        " ".join(lines.split()) for lines in read_raw(name, heading).split("\n\n")
    )
    return "\n\n".join(filter(None, paragraphs))
