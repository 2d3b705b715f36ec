"""The independent parts of an experiment, measured one by one or side by side.

Knows processes and the files of what was measured; nothing of what a part does.
"""

import importlib
import json
import math
import os
import platform
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import cache
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import keras

from bn_keras import data
from bn_keras.atomic_files import atomic_write


class Part(NamedTuple):
    """One piece of work that needs no other: mostly one training.

    Args:
        name: of its file, such as `"bn-x5-seed0"`.
        function: called as `function(directories=..., folder=..., **arguments)`, it
            returns what JSON can hold. It stands at the top of a module.
        arguments: what JSON can hold. Another run takes over what was measured with
            equal ones and the same `versions()`; which files the data sets were read
            from does not count.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


class Measured(NamedTuple):
    """What the parts gave.

    Args:
        results: dict from a part's name to what its function returned.
        seconds: that the parts took together, over all processes; of a part that was
            killed on its way, from where it went on.
    """

    results: dict[str, Any]
    seconds: float


def measure(
    parts: Sequence[Part],
    folder: Path | None = None,
    directories: Mapping[str, Any] | None = None,
    jobs: int = 1,
    on_part: Callable[[str, int, int], None] | None = None,
) -> Measured:
    """Measure every part that the folder does not hold yet.

    Args:
        parts: to measure, in this order.
        folder: for a file `NAME.json` of each part, written when it ends; made if
            missing. While it lasts a part has the folder `NAME` in it, where one that
            was killed finds what it left. None keeps nothing.
        directories: dict from a data set's name to the folder of its files.
        jobs: processes that measure parts side by side, each with its share of the
            processors; 1 measures in this one.
        on_part: called as `on_part(name, done, total)` after each part, and first
            with an empty name and the number that an earlier run has measured.

    Returns:
        `Measured`, in the order of `parts`.

    Raises:
        ValueError: if `jobs` is not positive, a file of the folder is damaged, another
            process measures in it, or a process ended by itself.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be 1 or more. Received: jobs={jobs}")
    alone = nullcontext()
    if folder is not None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        alone = _alone(folder)
    with alone:
        return _measure_all(parts, folder, directories, jobs, on_part)


@contextmanager
def _alone(folder):
    """Keep other processes out of the folder."""
    import fcntl

    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Expected to measure alone in {folder}. Received: a folder in which "
                "another process measures; wait for it, or name another --workdir"
            ) from None
        yield
    finally:
        os.close(held)


def _measure_all(parts, folder, directories, jobs, on_part):
    found = {part.name: _read(part, folder) for part in parts}
    left = [part for part in parts if found[part.name] is None]
    tell = on_part or (lambda name, done, total: None)
    done = len(parts) - len(left)
    tell("", done, len(parts))

    def note(name, facts):
        nonlocal done
        found[name] = facts
        done += 1
        tell(name, done, len(parts))

    # A worker's share of the processors decides the order of its sums: the last part of
    # a run that goes on has the same share as the others.
    if jobs == 1 or not left:
        for part in left:
            note(part.name, _measure(part, folder, directories))
    else:
        others = set(active_children())
        # Fresh interpreters: TensorFlow does not survive a fork.
        fresh = get_context("spawn")
        with ProcessPoolExecutor(
            min(jobs, len(left)), fresh, _start_worker, (jobs, fresh.Lock())
        ) as pool:
            futures = {
                pool.submit(_measure, part, folder, directories): part for part in left
            }
            try:
                for future in as_completed(futures):
                    note(futures[future].name, future.result())
            except BrokenProcessPool as error:
                raise ValueError(
                    "Expected every process to measure its part. Received: one that "
                    f"ended by itself, with jobs={jobs}; where memory is short, use "
                    "fewer (--jobs)"
                ) from error
            except BaseException:
                with _undisturbed():
                    # Else the pool would wait for the parts that run.
                    pool.shutdown(wait=False, cancel_futures=True)
                    workers = set(active_children()) - others
                    for worker in workers:
                        worker.terminate()
                    for worker in workers:
                        worker.join()
                raise
    return Measured(
        {name: facts["measured"] for name, facts in found.items()},
        sum(facts["seconds"] for facts in found.values()),
    )


@contextmanager
def _undisturbed():
    """Let no second Ctrl-C or SIGTERM into the cleaning up after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def check_scale(scale: str, plans: Mapping[str, Any]) -> None:
    """Refuse a scale that an experiment does not have.

    Args:
        scale: its name.
        plans: dict from the names that there are.

    Raises:
        ValueError: for another one.
    """
    if scale not in plans:
        raise ValueError(
            f"`scale` must be one of {', '.join(plans)}. Received: scale={scale!r}"
        )


def versions() -> dict[str, str]:
    """Those of Python and the packages, of Keras' backends the one in use."""
    return {
        "python": platform.python_version(),
        **{
            package: importlib.import_module(package).__version__
            for package in ("bn_keras", "keras", keras.backend.backend(), "numpy")
        },
    }


@cache
def load_data(name: str, directory: str | None) -> data.Data:
    """The data set of that name, read once a process.

    Args:
        name: a key of `bn_keras.data.DATA_SETS`.
        directory: folder of its files; None for those bundled or downloaded.
    """
    with _downloading:
        return data.load(name, directory)


# Of two processes that want the same files, one downloads them. A worker has the lock
# that it shares with the others.
_downloading: Any = threading.Lock()


def _file(part, folder):
    if not re.fullmatch(r"[\w.-]+", part.name):
        raise ValueError(f"A part's name must be a file's. Received: {part.name!r}")
    return folder / f"{part.name}.json"


def _read(part, folder):
    """What an earlier run has measured of the same, or None."""
    if folder is None or not (path := _file(part, folder)).exists():
        return None
    try:
        facts = json.loads(path.read_text())
        known = {key: facts[key] for key in ("part", "seconds", "measured")}
        if not 0 <= float(known["seconds"]) < math.inf or known["measured"] is None:
            raise ValueError("not the facts of a part")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected what an earlier run has measured in {path}. Received: a file "
            f"that cannot be read ({error}); delete it, or name another --workdir"
        ) from None
    return known if known["part"] == _identity(part) else None


def _identity(part):
    """What must be equal for two measurements to be of the same, as JSON has it."""
    return json.loads(json.dumps({"versions": versions(), "arguments": part.arguments}))


def _measure(part, folder, directories):
    begun, identity = time.perf_counter(), _identity(part)
    own = None if folder is None else _own_folder(folder / part.name, identity)
    measured = part.function(
        directories=dict(directories or {}), folder=own, **part.arguments
    )
    facts = {
        "part": identity,
        "seconds": round(time.perf_counter() - begun, 3),
        "measured": measured,
    }
    if own is not None:
        with atomic_write(_file(part, folder)) as temporary_path:
            temporary_path.write_text(json.dumps(facts) + "\n")
        shutil.rmtree(own)
    return json.loads(json.dumps(facts))


def _own_folder(path, identity):
    """The part's folder, with what an earlier run of the same has left in it."""
    of = path / "part.json"
    try:
        same = json.loads(of.read_text()) == identity
    except (OSError, ValueError):
        same = False
    if not same:
        if path.is_symlink() or path.is_file():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        with atomic_write(of) as temporary_path:
            temporary_path.write_text(json.dumps(identity))
    return path


def _start_worker(jobs, downloading):
    """Take a share of the processors, and end when the parent does."""
    global _downloading
    _downloading = downloading
    # Ctrl-C reaches all processes; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        threads = max(1, (os.cpu_count() or 1) // jobs)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _end_with_parent():
    # A pool's worker would wait for its next task for ever.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
