"""The independent parts of an experiment, measured once and kept in files."""

import importlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bn_keras.atomic_files import atomic_write
from bn_keras.experiments.sources import commit, hash_sources
from bn_keras.experiments.workers import run_in_processes

# Called as `on_part(name, done, total)`.
OnPart = Callable[[str, int, int], Any]


class Part(NamedTuple):
    """A piece of work that depends on no other one, usually one training.

    Args:
        name: The name of its file, such as `"bn-x5-seed0"`.
        function: Called as `function(directories=..., folder=..., **arguments)`. It
            returns a value that JSON can represent. It must be defined at the top level
            of a module, so that other processes can import it.
        arguments: Values that JSON can represent. A result is reused by a later run if
            its arguments, its `versions()` and the sources of the function are the
            same; see `bn_keras.experiments.sources`. The folders that the data sets
            are read from are not compared.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


class Measured(NamedTuple):
    """The results of several parts.

    Args:
        results: A dict from the name of a part to what its function returned.
        seconds: The sum of the parts' durations, over all processes. The duration of a
            part that was interrupted counts from where it was resumed.
        sources: A dict from the module of each function to the hash of its sources.
        commits: The commits at which the parts were measured.
    """

    results: dict[str, Any]
    seconds: float
    sources: dict[str, str]
    commits: list[str]


def measure(
    parts: Sequence[Part],
    folder: str | os.PathLike[str] | None = None,
    directories: Mapping[str, Any] | None = None,
    jobs: int = 1,
    on_part: OnPart | None = None,
) -> Measured:
    """Measure every part whose result is not in the folder yet.

    Args:
        parts: The parts, in the order in which they are measured.
        folder: A folder for the result of each part, `NAME.json`. It is created if it
            does not exist. While a part is being measured it has a folder `NAME` there,
            where it finds what it wrote before an interruption. With None nothing is
            kept.
        directories: A dict from the name of a data set to the folder of its files.
        jobs: The number of processes, each of which uses its share of the processors.
            With 1 the parts are measured in this process.
        on_part: Called as `on_part(name, done, total)` after each part, and once before
            with an empty name and the number of results that were already there.

    Returns:
        A `Measured`, in the order of `parts`.

    Raises:
        ValueError: If `jobs` is not positive, a result in the folder is damaged,
            another process is using the folder, or a worker process ends unexpectedly.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be 1 or more. Received: jobs={jobs}")
    if folder is None:
        return _measure_all(parts, None, directories, jobs, on_part)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        return _measure_all(parts, folder, directories, jobs, on_part)


def versions() -> dict[str, str]:
    """Return the versions of Python, this package, Keras, its backend, and NumPy."""
    import keras

    packages = ("bn_keras", "keras", keras.backend.backend(), "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.import_module(name).__version__ for name in packages},
    }


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep other processes from measuring in the folder."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                "The work folder must be used by one process at a time. Received: "
                f"{folder}, in which another process is measuring. Wait for it to end, "
                "or choose another --workdir"
            ) from None
        yield
    finally:
        os.close(descriptor)  # releases the lock


def _measure_all(parts, folder, directories, jobs, on_part):
    facts = {part.name: _read_result(part, folder) for part in parts}
    missing = [part for part in parts if facts[part.name] is None]
    report = on_part or (lambda name, done, total: None)
    done = len(parts) - len(missing)
    report("", done, len(parts))

    def add(part, result):
        nonlocal done
        facts[part.name] = result
        done += 1
        report(part.name, done, len(parts))

    # A worker's number of threads decides the order of its floating-point sums. Even a
    # single missing part is therefore measured in a worker if `jobs` asks for workers:
    # a resumed run gives the same results as one that was not interrupted.
    if jobs > 1 and missing:
        run_in_processes(_measure_part, missing, (folder, directories), jobs, add)
    else:
        for part in missing:
            add(part, _measure_part(part, folder, directories))
    return Measured(
        {name: result["measured"] for name, result in facts.items()},
        sum(result["seconds"] for result in facts.values()),
        {part.function.__module__: hash_sources(part.function) for part in parts},
        sorted({result["commit"] for result in facts.values() if result["commit"]}),
    )


def _measure_part(part, folder, directories):
    start, identity = time.perf_counter(), _identity(part)
    scratch = None if folder is None else folder / part.name
    if scratch is not None:
        _prepare(scratch, identity)
    measured = part.function(
        directories=dict(directories or {}), folder=scratch, **part.arguments
    )
    facts = {
        "part": identity,
        # Not compared: most commits change nothing of what a part runs.
        "commit": commit(),
        "seconds": round(time.perf_counter() - start, 3),
        "measured": measured,
    }
    if scratch is not None:
        with atomic_write(_result_path(part, folder)) as temporary_path:
            temporary_path.write_text(json.dumps(facts) + "\n")
        shutil.rmtree(scratch)
    # A result looks the same whether it was just measured or read from its file.
    return json.loads(json.dumps(facts))


def _identity(part):
    """Return what two measurements must share to be the same one, as JSON reads it."""
    identity = {
        "versions": versions(),
        "sources": hash_sources(part.function),
        "arguments": part.arguments,
    }
    return json.loads(json.dumps(identity))


def _result_path(part, folder):
    if not re.fullmatch(r"[\w.-]+", part.name):
        raise ValueError(
            "The name of a part must be a valid file name of letters, digits, '_', '.' "
            f"and '-'. Received: name={part.name!r}"
        )
    return folder / f"{part.name}.json"


def _read_result(part, folder):
    """Return the result of an earlier run of the same part, or None."""
    if folder is None or not (path := _result_path(part, folder)).exists():
        return None
    try:
        content = json.loads(path.read_text())
        facts = {key: content[key] for key in ("part", "seconds", "measured")}
        facts["commit"] = content.get("commit")
        if not 0 <= float(facts["seconds"]) < math.inf or facts["measured"] is None:
            raise ValueError("not the result of a part")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold the result of an earlier run. Received: a file that "
            f"cannot be read ({error}). Delete it, or choose another --workdir"
        ) from None
    return facts if facts["part"] == _identity(part) else None


def _prepare(scratch, identity):
    """Create a part's folder, keeping what an earlier run of the same part left."""
    identity_path = scratch / "part.json"
    try:
        same = json.loads(identity_path.read_text()) == identity
    except (OSError, ValueError):
        same = False
    if same:
        return
    # Intermediate files of other arguments or versions must not be resumed from.
    if scratch.is_symlink() or scratch.is_file():
        scratch.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with atomic_write(identity_path) as temporary_path:
        temporary_path.write_text(json.dumps(identity))
