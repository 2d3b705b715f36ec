"""The options that name a data set, for every command that reads one."""

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from bn_keras import data
from bn_keras.cli import argument_types

if TYPE_CHECKING:
    from bn_keras.data import Data

# How many of the bad files that were skipped are named.
_NAMED_FILES = 10


def add_data_options(parser: ArgumentParser) -> None:
    """Add `--data`, `--data-dir` and `--skip-bad-files`."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        choices=tuple(data.DATA_SETS),
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
        help="check every picture first and leave out those that cannot be decoded",
    )


def load_data(options: Namespace) -> "Data":
    """Return the data set that the options name, and report skipped files."""
    examples = data.load(
        options.data,
        options.data_dir,
        bad_files="skip" if options.skip_bad_files else "error",
    )
    report_skipped_files(examples)
    return examples


def report_skipped_files(examples: "Data") -> None:
    """Report which files a data set has left out."""
    from bn_keras.data.layouts import count_noun

    count = len(examples.skipped)
    if count:
        names = ", ".join(map(str, examples.skipped[:_NAMED_FILES]))
        more = f" and {count - _NAMED_FILES:,} more" if count > _NAMED_FILES else ""
        files = count_noun(count, "bad file")
        print(f"skipped {files}: {names}{more}", file=sys.stderr)
