"""What the notebooks of the experiments share."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_keras.experiments import pages
from bn_keras.experiments.catalog import WORKDIR
from bn_keras.experiments.reproducing import reproduce
from bn_keras.experiments.rows import COLUMNS, cells

if TYPE_CHECKING:
    from IPython.display import Markdown


def table(columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> "Markdown":
    """Return rows as a table.

    Args:
        columns: The headings of the columns.
        rows: The rows, each with one value per column.

    Returns:
        An `IPython.display.Markdown`.
    """
    from IPython.display import Markdown

    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    # A bar in a cell, as in |g|, would end it.
    cells = [[str(value).replace("|", "\\|") for value in line] for line in lines]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in cells))


def find_workdir() -> Path:
    """Find the work folder of `bn-keras reproduce`.

    Jupyter runs a notebook in the notebook's own folder, while the command may have
    been given in a folder above it.

    Returns:
        The value of the environment variable `BN_KERAS_WORKDIR`; otherwise the first
        folder `bn-keras-reproduce` here or above; otherwise a new one here.
    """
    value = os.environ.get("BN_KERAS_WORKDIR")
    if value:
        return Path(value)
    here = Path.cwd()
    folders = (folder / WORKDIR for folder in (here, *here.parents))
    return next(filter(Path.is_dir, folders), here / WORKDIR)


def show(
    name: str,
    scale: str = "default",
    directories: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> None:
    """Show the figure, the table and the set-up of an experiment.

    The result comes from the work folder, where an interrupted run is resumed. If the
    work folder holds nothing of the experiment, the result published in the repository
    is shown; if there is none, the experiment is run, with its progress displayed.

    Args:
        name: One of `bn_keras.experiments.catalog.EXPERIMENTS`.
        scale: One of `bn_keras.experiments.catalog.SCALES`.
        directories: A dict from the name of a data set to the folder of its files. The
            others are bundled or downloaded.
        jobs: The number of processes that measure parts at the same time.

    Raises:
        ValueError: If the name or the scale is unknown, or a data set cannot be read.
    """
    from IPython.display import Image, Markdown, display

    note: Any = display(Markdown(f"`{name}`"), display_id=True)

    def report_progress(part, done, total):
        note.update(Markdown(f"`{name}`: {done} of {total} parts measured"))

    workdir = find_workdir()
    folder = workdir / scale / name
    facts = None if folder.is_dir() else pages.read_result(name, scale)
    if facts is None:
        facts = reproduce(
            name, workdir, scale, directories, jobs, on_part=report_progress
        )
    else:
        folder = pages.RESULTS
    note.update(Markdown(f"`{facts['command']}`: {facts['seconds']:,.0f} seconds"))
    discussion = pages.read_discussion(name, scale)
    display(
        Image(filename=folder / f"{name}.png", width=900),
        table(COLUMNS, map(cells, facts["rows"])),
        Markdown(f"**Set-up.** {facts['remark']}"),
        *([Markdown(f"**Published run.** {discussion}")] if discussion else []),
    )
