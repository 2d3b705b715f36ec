"""HTML tables with which objects show themselves in a notebook."""

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
    from bn_keras.html_tables import html_table

    table = html_table([("a < b", 1)], header=("case", "count"))
    assert "<th>a &lt; b</th><td>1</td>" in table
    ```
    """
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if header:
        cells = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
        parts.append(f"<thead><tr>{cells}</tr></thead>")
    parts.append("<tbody>")
    for name, *values in rows:
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in values)
        parts.append(f"<tr><th>{escape(str(name))}</th>{cells}</tr>")
    return "".join([*parts, "</tbody></table>"])
