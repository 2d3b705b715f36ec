"""What the notebooks of the experiments share: one experiment shown, and a table.

Knows IPython's display and what `reproduce` leaves; no experiment.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bn_keras.experiments.catalog import WORKDIR
from bn_keras.experiments.reproducing import reproduce
from bn_keras.experiments.rows import Row, cells


def table(columns: Iterable, rows: Iterable[Iterable]):
    """Rows as a table.

    Args:
        columns: their headings.
        rows: of as many values each.

    Returns:
        An `IPython.display.Markdown`.
    """
    from IPython.display import Markdown

    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))


def find_workdir() -> Path:
    """The work folder of the command line, where one is here or above.

    Jupyter runs a notebook in its own folder, and the command was typed elsewhere.

    Returns:
        The environment's `BN_KERAS_WORKDIR`, or the first folder `bn-keras-reproduce`
        found from here upwards, or one to be made here.
    """
    named = os.environ.get("BN_KERAS_WORKDIR")
    here = Path.cwd()
    above = (folder / WORKDIR for folder in (here, *here.parents))
    return Path(named) if named else next(filter(Path.is_dir, above), here / WORKDIR)


def show(
    name: str,
    scale: str = "default",
    directories: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> None:
    """Reproduce an experiment, or take what was measured before, and show it.

    Its figure, its table and its remarks; while it is measured, how far it is.

    Args:
        name: one of `reproducing.EXPERIMENTS`.
        scale: one of `reproducing.SCALES`.
        directories: dict from a data set's name to the folder of its files; the others
            are downloaded.
        jobs: processes that measure side by side.

    Raises:
        ValueError: for an unknown name or scale, or data that cannot be had.
    """
    from IPython.display import Image, Markdown, display

    workdir = find_workdir()
    note: Any = display(Markdown(f"`{name}`"), display_id=True)

    def tell(part, done, total):
        note.update(Markdown(f"`{name}`: {done} of {total} parts measured"))

    facts = reproduce(name, workdir, scale, directories, jobs, on_part=tell)
    note.update(Markdown(f"`{facts['command']}`: {facts['seconds']:,.0f} seconds"))
    display(
        Image(filename=workdir / scale / name / f"{name}.png", width=900),
        table(Row._fields, map(cells, facts["rows"])),
        Markdown(facts["remark"]),
    )
