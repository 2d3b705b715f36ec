"""One HTML file of what the experiments left: figures, tables, remarks.

Knows HTML and the files of `reproducing`; no experiment.
"""

import base64
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from html import escape
from pathlib import Path

from bn_keras.atomic_files import atomic_write
from bn_keras.experiments.reproducing import SCALES
from bn_keras.experiments.rows import Row, cells

# The policy lets the browser load nothing, and run nothing that a text might hold.
_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>The papers' experiments, reproduced</title>
<link rel="icon" href="data:,">
<style>
:root {
  color-scheme: light dark;
  --paper: #fafaf8; --card: #fff; --ink: #1c1f23; --faint: #5d646c; --line: #dcdfe3;
  --accent: #1d5fd1; --good: #1a7340; --bad: #b3261e; --shade: #0003;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1d2024; --ink: #e8eaed; --faint: #a2a9b1;
    --line: #363b42; --accent: #7aa7ff; --good: #69c88d; --bad: #ff8f86; --shade: #000c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 68rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .75rem; }
p { max-width: 46rem; }
a { color: var(--accent); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem 1.25rem; margin-top: 1rem;
}
img {
  display: block; max-width: 100%; height: auto; margin: 0 auto 1rem;
  padding: .5rem; background: #fff; border-radius: .3rem;
}
/* A shadow at the side where there is more; covers that scroll along hide it. */
.scroll {
  overflow-x: auto;
  background:
    linear-gradient(to right, var(--card) 40%, transparent) left / 2rem 100% local,
    linear-gradient(to left, var(--card) 40%, transparent) right / 2rem 100% local,
    linear-gradient(to right, var(--shade), transparent) left / .75rem 100% scroll,
    linear-gradient(to left, var(--shade), transparent) right / .75rem 100% scroll;
  background-repeat: no-repeat;
}
table {
  border-collapse: collapse; width: 100%; min-width: 40rem; font-size: .9rem;
  overflow-wrap: break-word;
}
th, td {
  text-align: left; padding: .35rem .75rem .35rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line);
}
th, .faint, dt { color: var(--faint); }
th, .yes, .no { font-weight: 600; }
.yes { color: var(--good); }
.no { color: var(--bad); }
.short { white-space: nowrap; }
dl { display: grid; gap: 0 1rem; font-size: .9rem; margin: 1rem 0 0; }
@media (min-width: 46rem) { dl { grid-template-columns: max-content 1fr; } }
dd { margin: 0; }
code { font: .85rem/1.45 ui-monospace, monospace; }
</style>
</head>
<body>
"""


def write_report(folder: str | os.PathLike[str], names: Sequence[str]) -> Path:
    """Write `report.html`, whole by itself, of the experiments in a folder.

    Args:
        folder: `WORKDIR/SCALE`, where `reproduce` has left its files.
        names: of the experiments, in the order of the report; those that have left
            nothing are named as not run.

    Returns:
        The path of the report.

    Raises:
        ValueError: if the files of an experiment are damaged.
    """
    folder = Path(folder)
    found = {name: facts for name in names if (facts := _read(folder / name, name))}
    missing = [name for name in names if name not in found]
    page = [_HEAD, _introduction(folder.name, list(found.values()))]
    if found:
        page.append(_summary(found))
    if missing:
        page.append(f'<p class="faint">Not run: {escape(", ".join(missing))}.</p>\n')
    page += [_section(name, facts) for name, facts in found.items()]
    path = folder / "report.html"
    with atomic_write(path) as temporary_path:
        temporary_path.write_text(
            "".join([*page, "</body>\n</html>\n"]), encoding="utf-8"
        )
    return path


def _read(folder, name):
    """What one experiment has left, its figure as base64, or None."""
    path, picture = folder / f"{name}.json", folder / f"{name}.svg"
    if not path.is_file() or not picture.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        machine = facts["machine"]
        return {
            "title": str(facts["title"]),
            "remark": str(facts["remark"]),
            "figure": base64.b64encode(picture.read_bytes()).decode(),
            "rows": [cells(row) for row in facts["rows"]],
            "command": str(facts["command"]),
            "duration": str(timedelta(seconds=round(facts["seconds"]))),
            "machine": f"{machine['cores']} cores, {machine['architecture']}, "
            f"{', '.join(machine['devices'])}",
            "versions": ", ".join(
                f"{of} {number}" for of, number in facts["versions"].items()
            ),
        }
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"Expected what `bn-keras reproduce {name}` has left in {path}. Received: "
            f"a file that cannot be read ({error!r}); give that command again"
        ) from None


def _introduction(scale, found):
    words = [row[-1] for facts in found for row in facts["rows"]]
    agreeing, claims = words.count("yes"), words.count("yes") + words.count("no")
    verdict = (
        f" The measurements agree with {agreeing} of {claims} claims." if claims else ""
    )
    return f"""\
<header>
<h1>The papers' experiments, reproduced</h1>
<p>What Ioffe &amp; Szegedy 2015 and Santurkar et al. 2018 say, beside what
<code>bn-keras reproduce</code> has measured.{verdict}</p>
<p>Scale <code>{escape(scale)}</code>: {escape(SCALES.get(scale, "of your own"))}.</p>
</header>
"""


def _summary(found):
    rows = [
        (f'<a href="#{escape(name)}">{escape(name)}</a>', row)
        for name, facts in found.items()
        for row in facts["rows"]
    ]
    head = '<th scope="col">Experiment</th>'
    body = [f'<td class="short">{link}</td>{_cells(row)}' for link, row in rows]
    return f"<section>\n<h2>All results</h2>\n{_table(head, body)}</section>\n"


def _section(name, facts):
    remarks = "".join(
        f"<p>{escape(' '.join(paragraph.split()))}</p>\n"
        for paragraph in facts["remark"].split("\n\n")
        if paragraph.strip()
    )
    details = {
        "Command": f"<code>{escape(facts['command'])}</code>",
        "Duration": f"{facts['duration']} (hours, minutes, seconds; the sum over "
        "processes)",
        "Machine": escape(facts["machine"]),
        "Versions": escape(facts["versions"]),
    }
    listed = "".join(
        f"<dt>{key}</dt><dd>{text}</dd>\n" for key, text in details.items()
    )
    title = escape(facts["title"])
    return f"""\
<section id="{escape(name)}">
<h2>{title}</h2>
<img src="data:image/svg+xml;base64,{facts["figure"]}"
 alt="{title}. The table below has its results in numbers.">
{_table("", map(_cells, facts["rows"]))}{remarks}<dl>
{listed}</dl>
</section>
"""


def _table(head, body):
    """A table in a box of its own, which scrolls where the page is narrow."""
    heads = head + "".join(
        f'<th scope="col">{name.capitalize()}</th>' for name in Row._fields
    )
    rows = "".join(f"<tr>{line}</tr>\n" for line in body)
    return f"""\
<div class="scroll"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>
"""


def _cells(row):
    *texts, agrees = row
    first = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'{first}<td class="{agrees}">{agrees}</td>'
