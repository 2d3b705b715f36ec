"""Reproduce one experiment: measure, draw, and record where the results come from."""

import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from bn_keras.atomic_files import atomic_write
from bn_keras.experiments import pages
from bn_keras.experiments.catalog import load_experiment
from bn_keras.experiments.experiment import Experiment
from bn_keras.experiments.parts import OnPart, versions

# What a result records of its origin. The versions are part of each measurement.
_ORIGIN = ("command", "machine")


def reproduce(
    name: str,
    workdir: str | os.PathLike[str],
    scale: str = "default",
    directories: Mapping[str, Any] | None = None,
    jobs: int = 1,
    on_part: OnPart | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Run one experiment and write its measurements and figures.

    Writes `NAME.json`, `NAME.svg` and `NAME.png` to `WORKDIR/SCALE/NAME`. The folder
    `parts` there keeps what was measured, so that it is not measured again.

    Args:
        name: One of `bn_keras.experiments.catalog.EXPERIMENTS`.
        workdir: The folder of all experiments. It is created if it does not exist.
        scale: One of `bn_keras.experiments.catalog.SCALES`.
        directories: A dict from the name of a data set to the folder of its files. The
            others are bundled or downloaded.
        jobs: The number of processes that measure parts at the same time.
        on_part: Called as `on_part(part, done, total)` after each part; see
            `bn_keras.experiments.parts.measure`.
        command: The command that is recorded. With None it is the one of the command
            line with these arguments.

    Returns:
        The content of `NAME.json`. Infinite numbers and NaN are None in it.

    Raises:
        ValueError: If the name or the scale is unknown, or a data set cannot be read.
    """
    experiment = load_experiment(name)
    folder = Path(workdir) / scale / name
    measurements = experiment.run(folder / "parts", scale, directories, jobs, on_part)
    folder.mkdir(parents=True, exist_ok=True)
    draw(experiment, measurements, folder / name)

    # JSON has neither infinities nor NaN.
    measurements = json.loads(json.dumps(measurements), parse_constant=lambda _: None)
    path = folder / f"{name}.json"
    origin = _earlier_origin(path, measurements) or {
        "command": command or _command(name, scale, jobs),
        "machine": _machine(),
    }
    facts = {
        "experiment": name,
        "title": experiment.title,
        "scale": scale,
        **origin,
        "versions": versions(),
        "seconds": round(measurements["seconds"], 1),
        "remark": pages.read_setup(name),
        "rows": _rows(experiment, measurements, scale),
        "measurements": measurements,
    }
    with atomic_write(path) as temporary_path:
        temporary_path.write_text(format_facts(facts), encoding="utf-8")
    return facts


def describe_again(name: str, folder: Path) -> None:
    """Write the rows, the set-up and the figure of a result again, from what it holds.

    Nothing is measured. It is for results whose table or figure has changed.

    Args:
        name: One of `bn_keras.experiments.catalog.EXPERIMENTS`.
        folder: The folder of `NAME.json`.
    """
    experiment = load_experiment(name)
    path = folder / f"{name}.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts |= {
        "title": experiment.title,
        "remark": pages.read_setup(name),
        "rows": _rows(experiment, facts["measurements"], facts["scale"]),
    }
    with atomic_write(path) as temporary_path:
        temporary_path.write_text(format_facts(facts), encoding="utf-8")
    draw(experiment, facts["measurements"], folder / name)


def draw(
    experiment: Experiment[Any], measurements: Mapping[str, Any], path: Path
) -> None:
    """Draw the figure of an experiment as SVG and as PNG.

    The same measurements give the same bytes.

    Args:
        experiment: The experiment.
        measurements: What it measured.
        path: The files' path without a suffix.
    """
    from matplotlib import style
    from PIL import Image

    # Neither a user's style sheet, nor random identifiers, nor the date.
    with style.context(["default", {"svg.hashsalt": "bn-keras"}]):
        figure = experiment.plot(measurements)
        with atomic_write(path.with_name(f"{path.name}.svg")) as temporary_path:
            figure.savefig(temporary_path, metadata={"Date": None})
        with atomic_write(path.with_name(f"{path.name}.png")) as temporary_path:
            figure.savefig(temporary_path, dpi=150)
            # A palette takes a third of the bytes, also in the notebooks that show it.
            picture = Image.open(temporary_path).convert("RGB").quantize(128)
            picture.save(temporary_path, optimize=True)


def format_facts(facts: Mapping[str, Any]) -> str:
    """Return JSON with one line per fact, and one line per list of numbers.

    Args:
        facts: What `reproduce` returns.
    """
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    # A line break is never part of a string in JSON: it can only stand between values.
    innermost_list = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")
    text = innermost_list.sub(lambda m: "[" + re.sub(r"\n\s+", " ", m[1]) + "]", text)
    return text + "\n"


def _rows(experiment, measurements, scale):
    """Return the rows as JSON has them, without verdicts where nothing is proved."""
    rows = [row._asdict() for row in experiment.rows(measurements)]
    if scale == "smoke":
        rows = [row | {"direction": None, "size": None} for row in rows]
    return rows


def _earlier_origin(path, measurements):
    """Return the origin of an earlier result, if nothing was measured since."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        same = earlier["measurements"] == measurements
        origin = {key: earlier[key] for key in _ORIGIN}
        complete = isinstance(origin["command"], str) and set(origin["machine"]) == {
            *_machine()
        }
        return origin if same and complete else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _command(name, scale, jobs):
    jobs_option = f" --jobs {jobs}" if jobs > 1 else ""
    return f"bn-keras reproduce {name} --scale {scale}{jobs_option}"


def _machine():
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "devices": keras.distribution.list_devices(),
    }
