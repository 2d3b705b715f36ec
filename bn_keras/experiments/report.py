"""One HTML file about the experiments: figures, tables, set-ups."""

import base64
import json
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from html import escape
from pathlib import Path

from bn_keras.atomic_files import atomic_write
from bn_keras.experiments import pages
from bn_keras.experiments.catalog import SCALES
from bn_keras.experiments.rows import COLUMNS, cells, count_verdicts
from bn_keras.experiments.sources import is_current

_OLDER = "Measured by an older version of the code; the same command measures it again."


def write_report(folder: str | os.PathLike[str], names: Sequence[str]) -> Path:
    """Write `report.html`, one self-contained page about the experiments of a folder.

    Args:
        folder: `WORKDIR/SCALE`, where `bn_keras.experiments.reproducing.reproduce`
            wrote its files.
        names: The experiments, in the order of the report. Those without a result are
            listed as not run.

    Returns:
        The path of the report.

    Raises:
        ValueError: If the files of an experiment are damaged.
    """
    folder = Path(folder)
    scale = folder.name
    results = {name: result for name in names if (result := _read(folder / name, name))}
    missing = [name for name in names if name not in results]
    head = Path(__file__).with_name("report_head.html").read_text(encoding="utf-8")
    page = [head, _introduction(scale, list(results.values()))]
    if results:
        page.append(_summary(results))
    if missing:
        page.append(f'<p class="faint">Not run: {escape(", ".join(missing))}.</p>\n')
    page += [_section(name, scale, result) for name, result in results.items()]
    path = folder / "report.html"
    with atomic_write(path) as temporary_path:
        temporary_path.write_text(
            "".join([*page, "</body>\n</html>\n"]), encoding="utf-8"
        )
    return path


def _read(folder, name):
    """Return the texts of one experiment and its figure as base64, or None."""
    path, figure = folder / f"{name}.json", folder / f"{name}.svg"
    if not path.is_file() or not figure.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        machine = facts["machine"]
        return {
            "title": str(facts["title"]),
            "setup": str(facts["remark"]),
            "figure": base64.b64encode(figure.read_bytes()).decode(),
            "rows": [cells(row) for row in facts["rows"]],
            "counts": count_verdicts(facts["rows"]),
            "older": not is_current(facts["measurements"].get("sources")),
            "commits": ", ".join(facts["measurements"].get("commits", ())),
            "command": str(facts["command"]),
            "duration": str(timedelta(seconds=round(facts["seconds"]))),
            "machine": f"{machine['cores']} cores, {machine['architecture']}, "
            f"{', '.join(machine['devices'])}",
            "versions": ", ".join(
                f"{package} {version}" for package, version in facts["versions"].items()
            ),
        }
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path} must hold the result of `bn-keras reproduce {name}`. Received: a "
            f"file that cannot be read ({error!r}). Run that command again"
        ) from None


def _introduction(scale, results):
    counts = [result["counts"] for result in results]
    decided = sum(map(sum, counts))
    summary = (
        " Of {} claims, {} are confirmed, {} contradicted, {} undecided.".format(
            decided, *map(sum, zip(*counts, strict=True))
        )
        if decided
        else ""
    )
    return f"""\
<header>
<h1>The papers' experiments, reproduced</h1>
<p>The claims of Ioffe &amp; Szegedy 2015 and Santurkar et al. 2018, and what
<code>bn-keras reproduce</code> measured.{summary}</p>
<p>Scale <code>{escape(scale)}</code>: {escape(SCALES.get(scale, "user-defined"))}.</p>
</header>
"""


def _summary(results):
    """Return the verdict counts of each experiment; its table is in its section."""
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Experiment", "Yes", "No", "Undecided", "Duration")
    )
    lines = "".join(
        f'<tr><td><a href="#{escape(name)}">{escape(result["title"])}</a></td>'
        + "".join(f"<td>{count}</td>" for count in result["counts"])
        + f"<td>{result['duration']}</td></tr>\n"
        for name, result in results.items()
    )
    return f"""\
<section>
<h2>Verdicts</h2>
<div class="scroll"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{lines}</tbody>
</table></div>
</section>
"""


def _section(name, scale, result):
    details = {
        "Command": f"<code>{escape(result['command'])}</code>",
        "Duration": f"{result['duration']} (hours, minutes, seconds; summed over "
        "processes)",
        "Machine": escape(result["machine"]),
        "Versions": escape(result["versions"]),
    }
    if result["commits"]:
        details["Commits"] = escape(result["commits"])
    details = "".join(
        f"<dt>{term}</dt><dd>{text}</dd>\n" for term, text in details.items()
    )
    # The page of the repository is about its own run: what it says may not hold for
    # the figures of this one, so it is marked as such.
    discussion = pages.read_discussion(name, scale)
    if discussion:
        heading = "<h3>What came out of the run in the repository</h3>\n"
        discussion = heading + _paragraphs(discussion)
    title = escape(result["title"])
    older = f'<p class="no">{_OLDER}</p>\n' if result["older"] else ""
    return f"""\
<section id="{escape(name)}">
<h2>{title}</h2>
{older}<img src="data:image/svg+xml;base64,{result["figure"]}"
 alt="{title}. The table below lists the results as numbers.">
{_table(map(_cells, result["rows"]))}<h3>Set-up</h3>
{_paragraphs(result["setup"])}{discussion or ""}<dl>
{details}</dl>
</section>
"""


def _paragraphs(text):
    """Return the paragraphs of a text as HTML; backticks mark code."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    html = "".join(f"<p>{escape(text)}</p>\n" for text in paragraphs if text)
    return re.sub("`(.+?)`", r"<code>\1</code>", html)


def _table(body):
    """Return a table in a box that scrolls where the page is narrow."""
    heads = "".join(f'<th scope="col">{name.capitalize()}</th>' for name in COLUMNS)
    rows = "".join(f"<tr>{line}</tr>\n" for line in body)
    return f"""\
<div class="scroll"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>
"""


def _cells(row):
    *texts, direction, size = row
    first = "".join(f"<td>{escape(text)}</td>" for text in texts)
    verdicts = (
        f'<td class="{escape(of)}">{escape(of)}</td>' for of in (direction, size)
    )
    return first + "".join(verdicts)
