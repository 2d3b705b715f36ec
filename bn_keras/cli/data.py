"""The command `data convert`."""

from argparse import Namespace

from bn_keras import data, devices
from bn_keras.cli import argument_types
from bn_keras.cli.data_options import add_data_options, load_data, report_skipped_files
from bn_keras.cli.messages import progress_bar
from bn_keras.cli.parsers import OneLineParser


def add_options(parser: OneLineParser) -> None:
    """Add the command `convert` and its options."""
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=OneLineParser
    )
    summary = (
        "Write a data set as TFRecord shards, for --data records. Image files are "
        "stored unchanged. Each file is decoded once to find damaged ones."
    )
    convert = commands.add_parser(
        "convert",
        help=summary,
        description=summary,
        epilog=parser.epilog,
    )
    add_data_options(convert)
    convert.add_argument(
        "--out",
        type=argument_types.path,
        required=True,
        metavar="DIR",
        help="new folder; it is created when the conversion is complete",
    )
    convert.add_argument(
        "--shards",
        type=argument_types.positive_integer,
        metavar="N",
        help="number of shards of the training examples; default: one for every 1,024",
    )
    convert.add_argument(
        "--seed",
        type=argument_types.seed,
        default=0,
        help="seed of the order of the examples; default: %(default)s",
    )


def start(options: Namespace) -> None:
    """Start TensorFlow without GPUs: pictures are decoded on the CPU."""
    devices.start_tensorflow(gpus=False)


def run(options: Namespace) -> int:
    """Convert a data set."""
    # Each picture is decoded while it is written, so there is no need to do it before.
    bad_files = "skip" if options.skip_bad_files else "error"
    options.skip_bad_files = False
    examples = load_data(options)
    with progress_bar() as progress:
        total = len(examples.train) + len(examples.test)
        total += len(examples.validation or ())
        task = progress.add_task("converting", total=total)
        records = data.convert(
            examples,
            options.out,
            options.shards,
            options.seed,
            bad_files,
            lambda done: progress.update(task, completed=done),
        )
    report_skipped_files(records)
    print(
        f"wrote {len(records.train):,} training and {len(records.test):,} test "
        f"examples to {options.out}"
    )
    return 0
