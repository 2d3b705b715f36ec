"""What several commands share: how one is declared, its data set, its folder.

Knows `argparse`; no command.
"""

import argparse
import sys

from bn_keras import data
from bn_keras.cli import argument_types

# Bad files that are named, of many.
NAMED = 10


def command(commands, function, help, example):
    """Add one command to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
        function: takes the parsed options, returns the exit status; the command has
            its name.
        help: what it does, a sentence.
        example: a whole command line.

    Returns:
        The command's own parser.
    """
    sub = commands.add_parser(
        function.__name__,
        help=help,
        description=help,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(function=function)
    return sub


def add_data(parser):
    """Add the options that name a data set."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        choices=data.DATA_SETS,
        help=", ".join(data.DATA_SETS),
    )
    parser.add_argument(
        "--data-dir",
        type=argument_types.path,
        metavar="DIR",
        help="folder of the data set's files; without it, mnist and cifar10 are "
        "downloaded",
    )
    parser.add_argument(
        "--skip-bad-files",
        action="store_true",
        help="look at every picture first and leave out those that cannot be decoded",
    )


def load_data(options):
    """The data set that the options name; says which files it left out."""
    examples = data.load(
        options.data,
        options.data_dir,
        bad_files="skip" if options.skip_bad_files else "error",
    )
    show_skipped(examples)
    return examples


def show_skipped(examples):
    """Say which files a data set has left out."""
    if examples.skipped:
        names = ", ".join(map(str, examples.skipped[:NAMED]))
        more = (
            f" and {more:,} more" if (more := len(examples.skipped) - NAMED) > 0 else ""
        )
        print(
            f"skipped {len(examples.skipped):,} bad files: {names}{more}",
            file=sys.stderr,
        )


def progress_bar():
    """A bar on standard error, so that standard output holds results alone."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def make_folder(path):
    """Make the work directory, if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            "--workdir expects a folder, or the name of one to make. Received: "
            f"{path}, which is a file or in one; choose another"
        ) from None
