"""The command `reproduce`.

Knows its options, how to show the way and the results; nothing of what is measured.
"""

import logging
import os
import sys
import textwrap
from contextlib import contextmanager, nullcontext
from pathlib import Path

from bn_keras.cli import argument_types
from bn_keras.cli.command import command, make_folder, progress_bar
from bn_keras.cli.messages import error_message
from bn_keras.experiments.reproducing import EXPERIMENTS, SCALES, WORKDIR

_ALL = "all"
# The name of each data set in its own errors, and here the option of its folder.
_OPTIONS = {"MNIST": "--mnist-dir", "CIFAR-10": "--cifar10-dir"}


def add(commands):
    """Add these commands to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    sub = command(
        commands,
        reproduce,
        "Measure again what the papers claim, and write measurements (JSON), figures "
        "(SVG, PNG) and WORKDIR/SCALE/report.html. A run that was stopped goes on when "
        "the command is given again.",
        "bn-keras reproduce all --scale default --mnist-dir mnist/",
    )
    sub.add_argument(
        "name",
        metavar="NAME",
        choices=(*EXPERIMENTS, _ALL),
        help=f"{', '.join(EXPERIMENTS)}; {_ALL}: one after the other",
    )
    sub.add_argument(
        "--workdir",
        type=argument_types.path,
        default=Path(WORKDIR),
        metavar="DIR",
        help="made if missing; default: %(default)s",
    )
    sub.add_argument(
        "--scale",
        choices=SCALES,
        default="default",
        help="; ".join(f"{name}: {text}" for name, text in SCALES.items()),
    )
    sub.add_argument(
        "--jobs",
        type=argument_types.positive,
        default=1,
        metavar="N",
        help="processes that measure side by side; default: %(default)s",
    )
    for name, option in _OPTIONS.items():
        sub.add_argument(
            option,
            type=argument_types.path,
            metavar="DIR",
            help=f"folder of the files of {name}; without it they are downloaded",
        )


def reproduce(options):
    """Reproduce one experiment, or all."""
    from bn_keras.experiments.report import write_report

    # Every part builds models; TensorFlow warns of what it must trace anew for each.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    folder = options.workdir / options.scale
    directories = _directories(options)
    make_folder(folder)
    names = EXPERIMENTS if options.name == _ALL else (options.name,)
    measured, failures = {}, {}
    for name in names:
        try:
            measured[name] = _reproduce(name, options, directories)
        except KeyboardInterrupt:
            _say(f"{name} interrupted; the same command goes on from here")
            raise
        except Exception as error:
            if len(names) == 1 or os.environ.get("BN_KERAS_TRACEBACK") == "1":
                raise
            failures[name] = textwrap.shorten(error_message(error), 1000)
            _say(f"{name} failed ({failures[name]}); going on with the others")
    # Whatever becomes of the terminal, the files are there before anything is shown.
    try:
        report = write_report(folder, EXPERIMENTS)
    finally:
        for name, words in failures.items():
            _say(f"error: {name}: {words}")
    for name, facts in measured.items():
        _show(facts["rows"], f"{name}: {facts['title']}")
        for suffix in ("json", "svg", "png"):
            print(f"wrote {folder / name / name}.{suffix}")
    print(f"wrote {report}")
    return 1 if failures else 0


def _directories(options):
    given = {"mnist": options.mnist_dir, "cifar10": options.cifar10_dir}
    for name, path in given.items():
        if path is not None and not path.is_dir():
            raise ValueError(
                f"--{name}-dir expects the folder of the data set's files. Received: "
                f"{path}, which is none; name another"
            )
    return {name: str(path) for name, path in given.items() if path is not None}


def _reproduce(name, options, directories):
    """Measure one experiment with its bar, and return its facts."""
    from bn_keras.experiments.reproducing import reproduce

    folder = options.workdir / options.scale / name
    quiet = _quiet_workers(folder) if options.jobs > 1 else nullcontext()
    with quiet, progress_bar() as progress:
        task = progress.add_task(name, total=None)

        def show(part, done, total):
            text = f"{name} {done}/{total} {part or 'there at the beginning'}"
            progress.update(task, description=text, completed=done, total=total)
            if progress.disable:
                print(text, file=sys.stderr)

        try:
            return reproduce(
                name, options.workdir, options.scale, directories, options.jobs, show
            )
        except ValueError as error:
            if (text := _with_option(str(error))) == str(error):
                raise
            raise ValueError(text) from error


@contextmanager
def _quiet_workers(folder):
    """Give the processes that start meanwhile a file for their standard error.

    TensorFlow writes some lines there while it is imported, over the bar.
    """
    make_folder(folder)
    ours, kept = sys.stderr, os.dup(2)
    with (folder / "workers.log").open("a") as log, os.fdopen(kept, "w", 1) as shown:
        os.dup2(log.fileno(), 2)
        sys.stderr = shown
        try:
            yield
        finally:
            sys.stderr = ours
            os.dup2(kept, 2)


def _with_option(text):
    """The words of a data set's error, with the option that this command has."""
    for name, option in _OPTIONS.items():
        if text.startswith((f"Cannot download {name}:", f"{name} must be")):
            return text.replace("--data-dir", option)
    return text


def _show(rows, title):
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from bn_keras.experiments.rows import Row, cells

    columns = (Column(name, overflow="fold") for name in Row._fields)
    table = Table(*columns, title=Text(title))
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    Console().print(table)


def _say(text):
    print(f"bn-keras: {text}", file=sys.stderr)
