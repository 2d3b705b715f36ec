"""The command `data convert`.

Knows its options and its progress bar; no file format.
"""

from bn_keras import data
from bn_keras.cli import argument_types
from bn_keras.cli.command import (
    add_data,
    command,
    load_data,
    progress_bar,
    show_skipped,
)


def add(commands):
    """Add this command to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    group = commands.add_parser("data", help="Work on a data set: data convert.")
    sub = command(
        group.add_subparsers(required=True, metavar="COMMAND"),
        convert,
        "Write a data set as TFRecord shards, for --data records. Files keep their "
        "bytes; each is decoded once, and a bad one named.",
        "bn-keras data convert --data image_folder --data-dir photos/ --out records/",
    )
    add_data(sub)
    sub.add_argument(
        "--out",
        type=argument_types.path,
        required=True,
        metavar="DIR",
        help="to be made; it appears when all is written",
    )
    sub.add_argument(
        "--shards",
        type=argument_types.positive,
        metavar="N",
        help="of the training examples; default: one for each 1,024",
    )
    sub.add_argument(
        "--seed",
        type=argument_types.seed,
        default=0,
        help="of the order of examples; default: %(default)s",
    )


def convert(options):
    """Convert a data set."""
    # Each file is decoded while it is written, not before that too.
    bad_files = "skip" if options.skip_bad_files else "error"
    options.skip_bad_files = False
    examples = load_data(options)
    with progress_bar() as progress:
        total = len(examples.train) + len(examples.test)
        task = progress.add_task("converting", total=total)
        written = data.convert(
            examples,
            options.out,
            options.shards,
            options.seed,
            bad_files,
            lambda done: progress.update(task, completed=done),
        )
    show_skipped(written)
    print(
        f"wrote {len(written.train):,} training and {len(written.test):,} test "
        f"examples to {options.out}"
    )
    return 0
