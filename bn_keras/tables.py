"""Tables with which reports show themselves, as text and in a notebook."""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(
    rows: Iterable[Sequence[object]], header: Sequence[object] = (), caption: str = ""
) -> str:
    """Return a table as HTML, all of its texts escaped.

    Args:
        rows: The cells of each row; the first one names the row.
        header: The cells of the row above them; empty for a table without one.
        caption: The text above the table; empty for none.

    Returns:
        A `<table>` element.

    Example:
    ```python
    from bn_keras.tables import html_table

    table = html_table([("a < b", 1)], header=("case", "count"))
    assert ">a &lt; b</th>" in table
    ```
    """

    def cell(value: object, tag: str) -> str:
        # Notebooks align the cells of a table on the right, each by a rule of its own.
        return f'<{tag} style="text-align: left">{escape(str(value))}</{tag}>'

    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if header:
        cells = "".join(cell(value, "th") for value in header)
        parts.append(f"<thead><tr>{cells}</tr></thead>")
    parts.append("<tbody>")
    for name, *values in rows:
        cells = "".join(cell(value, "td") for value in values)
        parts.append(f"<tr>{cell(name, 'th')}{cells}</tr>")
    return "".join([*parts, "</tbody></table>"])


def text_table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> list[str]:
    """Return a table as lines of text, its columns aligned on the left.

    Args:
        rows: The cells of each row.
        header: The cells of the first line.

    Returns:
        A line for each row. The last column is not padded, because it holds the
        longest texts.

    Example:
    ```python
    from bn_keras.tables import text_table

    lines = text_table([("bn_1", "folded"), ("b", "kept")], ("layer", "outcome"))
    assert lines == ["layer  outcome", "bn_1   folded", "b      kept"]
    ```
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([*map(str.ljust, cells, widths), last]).rstrip()
        for *cells, last in lines
    ]
