"""Reproduce one experiment: measure, draw, and leave what a reader needs to trust it.

Knows the experiments' names and the files of each; nothing of what they measure.
"""

import importlib
import json
import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from bn_keras.atomic_files import atomic_write
from bn_keras.experiments.catalog import EXPERIMENTS, SCALES
from bn_keras.experiments.parts import check_scale, versions

# What a result says of its origin, beside the versions, which are those of each part.
_ORIGIN = ("command", "machine")


def reproduce(
    name: str,
    workdir: str | os.PathLike[str],
    scale: str = "default",
    directories: Mapping[str, Any] | None = None,
    jobs: int = 1,
    on_part: Callable[[str, int, int], None] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Run one experiment and write its measurements and figures.

    They are `NAME.json`, `NAME.svg` and `NAME.png` in `WORKDIR/SCALE/NAME`. What was
    measured before is in the folder `parts` there, and is not measured again.

    Args:
        name: one of `EXPERIMENTS`.
        workdir: folder for all experiments; made if missing.
        scale: one of `SCALES`.
        directories: dict from a data set's name to the folder of its files; the others
            are downloaded.
        jobs: processes that measure side by side.
        on_part: called as `on_part(part, done, total)`, as `parts.measure` does.
        command: the line that is recorded; None for that of the command line.

    Returns:
        What `NAME.json` holds. Numbers that JSON does not know are None.

    Raises:
        ValueError: for an unknown name or scale, or data that cannot be had.
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"`name` must be one of {', '.join(EXPERIMENTS)}. Received: name={name!r}"
        )
    check_scale(scale, SCALES)
    module = importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
    folder = Path(workdir) / scale / name
    measurements = module.run(folder / "parts", scale, directories, jobs, on_part)
    rows = [
        row._asdict() | {"agrees": _agrees(row, scale)}
        for row in module.rows(measurements)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _draw(module.plot, measurements, folder / name)

    held = json.loads(json.dumps(measurements), parse_constant=lambda _: None)
    path = folder / f"{name}.json"
    origin = _earlier_origin(path, held) or {
        "command": command or _command(name, scale, jobs),
        "machine": _machine(),
    }
    facts = {
        "experiment": name,
        "title": module.TITLE,
        "scale": scale,
        **origin,
        "versions": versions(),
        "seconds": round(held["seconds"], 1),
        "remark": _remark(module, scale),
        "rows": rows,
        "measurements": held,
    }
    with atomic_write(path) as temporary_path:
        temporary_path.write_text(_text(facts), encoding="utf-8")
    return facts


def _agrees(row, scale):
    """What a row says; at the scale that measures nothing, nothing."""
    return None if row.agrees is None or scale == "smoke" else bool(row.agrees)


def _remark(module, scale):
    """What was chosen and, of the scale whose results are known, what came out."""
    if scale != "default" or not module.OUTCOME:
        return module.REMARK
    parts = (
        module.REMARK,
        "What came out of the run whose results the package's README has:",
        module.OUTCOME,
    )
    return "\n\n".join(parts)


def _draw(plot, measurements, path):
    """The figure in both formats, with the same bytes from the same measurements."""
    from matplotlib import style

    with style.context(["default", {"svg.hashsalt": "bn-keras"}]):
        figure = plot(measurements)
        with atomic_write(path.with_name(f"{path.name}.svg")) as temporary_path:
            figure.savefig(temporary_path, metadata={"Date": None})
        with atomic_write(path.with_name(f"{path.name}.png")) as temporary_path:
            figure.savefig(temporary_path, dpi=150)


def _earlier_origin(path, measurements):
    """That of an earlier run, where nothing was measured since."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        same = earlier["measurements"] == measurements
        kept = {key: earlier[key] for key in _ORIGIN}
        whole = isinstance(kept["command"], str) and set(kept["machine"]) == {
            *_machine()
        }
        return kept if same and whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _command(name, scale, jobs):
    side_by_side = f" --jobs {jobs}" if jobs > 1 else ""
    return f"bn-keras reproduce {name} --scale {scale}{side_by_side}"


def _machine():
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "devices": keras.distribution.list_devices(),
    }


def _text(facts):
    """JSON with a line for each fact, and one for each list of numbers."""
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    # JSON has no line break inside a string.
    lists = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")
    text = lists.sub(lambda found: "[" + re.sub(r"\n\s+", " ", found[1]) + "]", text)
    return text + "\n"
