"""The command `reproduce`."""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bn_keras import devices
from bn_keras.cli import argument_types, messages
from bn_keras.cli.parsers import OneLineParser
from bn_keras.experiments import catalog

_ALL = "all"
# The name of each data set, and the option of its folder.
_FOLDER_OPTIONS = {"MNIST": "--mnist-dir", "CIFAR-10": "--cifar10-dir"}


def add_options(parser: OneLineParser) -> None:
    """Add the options of `reproduce`."""
    parser.add_argument(
        "name",
        metavar="NAME",
        choices=(*catalog.EXPERIMENTS, _ALL),
        help=f"{', '.join(catalog.EXPERIMENTS)}; {_ALL}: one after the other",
    )
    parser.add_argument(
        "--workdir",
        type=argument_types.path,
        default=Path(catalog.WORKDIR),
        metavar="DIR",
        help="created if it does not exist; default: %(default)s",
    )
    parser.add_argument(
        "--scale",
        choices=tuple(catalog.SCALES),
        default="default",
        help="; ".join(f"{name}: {text}" for name, text in catalog.SCALES.items()),
    )
    parser.add_argument(
        "--jobs",
        type=argument_types.positive_integer,
        default=1,
        metavar="N",
        help="number of processes that measure at the same time; default: %(default)s",
    )
    for name, option in _FOLDER_OPTIONS.items():
        parser.add_argument(
            option,
            type=argument_types.path,
            metavar="DIR",
            help=f"folder of the {name} files; without it they are downloaded",
        )


def start(options: Namespace) -> None:
    """Start Keras."""
    devices.start_keras()


def run(options: Namespace) -> int:
    """Reproduce one experiment, or all."""
    from bn_keras.experiments.report import write_report

    # TensorFlow warns about every new model that it traces, and each part builds some.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    folder = options.workdir / options.scale
    directories = _directories(options)
    _make_folder(folder)
    names = catalog.EXPERIMENTS if options.name == _ALL else (options.name,)
    results, failures = {}, {}
    for name in names:
        try:
            results[name] = _reproduce(name, options, directories)
        except KeyboardInterrupt:
            messages.report(f"{name} interrupted; the same command resumes it")
            raise
        except Exception as error:
            if len(names) == 1 or os.environ.get("BN_KERAS_TRACEBACK") == "1":
                raise
            failures[name] = messages.one_line(messages.error_message(error))
            messages.report(
                f"{name} failed ({failures[name]}); continuing with the others"
            )
    # The files are written before anything is shown, in case the terminal is gone.
    try:
        report = write_report(folder, catalog.EXPERIMENTS)
    finally:
        for name, message in failures.items():
            messages.report(f"error: {name}: {message}")
    for name, facts in results.items():
        _show(facts["rows"], f"{name}: {facts['title']}")
        for suffix in ("json", "svg", "png"):
            print(f"wrote {folder / name / name}.{suffix}")
    print(f"wrote {report}")
    return 1 if failures else 0


def _directories(options: Namespace) -> dict[str, str]:
    """Return the folders that were given, by the names of the data sets."""
    paths = {"mnist": options.mnist_dir, "cifar10": options.cifar10_dir}
    for name, path in paths.items():
        if path is not None and not path.is_dir():
            raise ValueError(
                f"--{name}-dir must be the folder of the data set's files. Received: "
                f"{path}, which is not a folder. Choose another"
            )
    return {name: str(path) for name, path in paths.items() if path is not None}


def _make_folder(path: Path) -> None:
    from bn_keras.cli.user_files import make_folder

    make_folder(path)


def _reproduce(
    name: str, options: Namespace, directories: dict[str, str]
) -> dict[str, Any]:
    """Run one experiment with a progress bar and return its results."""
    from bn_keras.experiments.reproducing import reproduce

    folder = options.workdir / options.scale / name
    log = _log_workers(folder) if options.jobs > 1 else nullcontext()
    with log, messages.progress_bar() as progress:
        task = progress.add_task(name, total=None)

        def show_part(part: str, done: int, total: int) -> None:
            text = f"{name} {done}/{total} {part or 'already measured'}"
            progress.update(task, description=text, completed=done, total=total)
            if progress.disable:
                print(text, file=sys.stderr)

        try:
            return reproduce(
                name,
                options.workdir,
                options.scale,
                directories,
                options.jobs,
                show_part,
            )
        except ValueError as error:
            text = _name_option(str(error))
            if text == str(error):
                raise
            raise ValueError(text) from error


@contextmanager
def _log_workers(folder: Path) -> Iterator[None]:
    """Give the processes that are started here a file as their standard error stream.

    TensorFlow writes lines there while it is imported, which would break the bar.
    """
    _make_folder(folder)
    own_stderr, descriptor = sys.stderr, os.dup(2)
    with (
        (folder / "workers.log").open("a") as log,
        os.fdopen(descriptor, "w", 1) as terminal,
    ):
        # Child processes inherit the file descriptor 2, and this process keeps writing
        # to the copy of the original one.
        os.dup2(log.fileno(), 2)
        sys.stderr = terminal
        try:
            yield
        finally:
            sys.stderr = own_stderr
            os.dup2(descriptor, 2)


def _name_option(text: str) -> str:
    """Return the error of a data set with the option that `reproduce` has for it."""
    if "(--data-dir)" in text:
        # No such error of MNIST holds a path, which might have the other one's name.
        for name, option in reversed(_FOLDER_OPTIONS.items()):
            if name.lower() in text.lower():
                return text.replace("--data-dir", option)
    return text


def _show(rows: Sequence[dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from bn_keras.experiments.rows import COLUMNS, cells

    columns = (Column(name, overflow="fold") for name in COLUMNS)
    # The texts are not rich's markup.
    table = Table(*columns, title=Text(title))
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    Console().print(table)
