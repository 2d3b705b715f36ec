"""The command line `bn-keras`: parse, start the backend, run one command."""

import functools
import importlib
import os
import select
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

from bn_keras import __version__
from bn_keras.cli.parsers import CommandParser, OneLineParser

EXAMPLES = """\
examples:
  bn-keras demo
  bn-keras train bn-convnet --data mnist --data-dir mnist/ --workdir run/
  bn-keras train bn-x5 --data image_folder --data-dir photos/ --workdir run/
  bn-keras data convert --data image_folder --data-dir photos/ --out records/
  bn-keras evaluate run/bn-convnet.keras --data mnist --data-dir mnist/
  bn-keras diagnose run/bn-convnet.keras --data mnist --data-dir mnist/
  bn-keras export run/bn-convnet.keras models/mnist
  bn-keras serve models/mnist --port 8500
  bn-keras predict --address 127.0.0.1:8500 --model-name mnist digit.png
  bn-keras reproduce mnist --mnist-dir mnist/
"""


class Command(NamedTuple):
    """What is known of a command before its module is imported.

    Args:
        help: What the command does, one or two sentences.
        example: A complete command line.
    """

    help: str
    example: str


# The module of a command has the command's name.
COMMANDS = {
    "demo": Command(
        "Train, fold, export, serve and query a classifier of digits. No network is "
        "needed.",
        "bn-keras demo --workdir bn-keras-demo --json results.json",
    ),
    "recipes": Command(
        "List the recipes that can be trained.",
        "bn-keras recipes",
    ),
    "train": Command(
        "Train a model by a recipe and save it as WORKDIR/RECIPE.keras. The same "
        "command resumes an interrupted run from its last checkpoint.",
        "bn-keras train bn-mlp --data mnist --data-dir mnist/ --workdir run/",
    ),
    "evaluate": Command(
        "Print top-1 and top-5 accuracy on the test examples, with 95 percent "
        "confidence intervals. Several models are evaluated as an ensemble, by the "
        "mean of their probabilities.",
        "bn-keras evaluate run/bn-mlp.keras --data digits",
    ),
    "diagnose": Command(
        "Say what is wrong with the batch normalization of a model, and what to do: "
        "statistics that do not fit the data, dead channels, mini-batches that are too "
        "small. Training examples are used.",
        "bn-keras diagnose run/bn-mlp.keras --data digits --plot drift.png",
    ),
    "export": Command(
        "Fold the batch normalization and write DIR/<version>, a SavedModel.",
        "bn-keras export run/bn-mlp.keras models/digits",
    ),
    "serve": Command(
        "Serve models over gRPC, and over REST if asked, until interrupted. All flags "
        "of tensorflow_model_server are known, with their names and meanings. An empty "
        "file name means no file.",
        "bn-keras serve models/digits --port 8500 --rest_api_port 8501",
    ),
    "predict": Command(
        "Send .npy, .npz and image files to a server (this one or TensorFlow Serving), "
        "several at a time. Print one line of JSON for each file, in the order of the "
        "files, with null for values that are not finite.",
        "bn-keras predict --address 127.0.0.1:8500 --model-name digits batch.npy",
    ),
    "data": Command(
        "Convert a data set (data convert).",
        "bn-keras data convert --data image_folder --data-dir photos/ --out records/",
    ),
    "reproduce": Command(
        "Repeat the experiments of the papers and write measurements (JSON), figures "
        "(SVG, PNG) and WORKDIR/SCALE/report.html. The same command resumes an "
        "interrupted run.",
        "bn-keras reproduce all --scale default --mnist-dir mnist/",
    ),
    "completion": Command(
        "Print a script that completes the commands and options in a shell.",
        'eval "$(bn-keras completion bash)"',
    ),
}


def build_parser() -> OneLineParser:
    """Return the parser of `bn-keras` with all of its commands."""
    parser = OneLineParser(
        prog="bn-keras",
        description="Batch normalization for Keras, from the layer to the served "
        "model.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for name, command in COMMANDS.items():
        commands.add_parser(
            name,
            # The list of commands shows the first sentence.
            help=command.help.partition(". ")[0].removesuffix(".") + ".",
            description=command.help,
            epilog=f"example:\n  {command.example}",
            module=functools.partial(importlib.import_module, f"bn_keras.cli.{name}"),
        )
    return parser


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Parse the arguments, without importing the backend.

    Args:
        arguments: Strings, or None for the arguments of the process.

    Returns:
        The options. `options.command` is the module of the command.

    Raises:
        SystemExit: With status 2 for wrong arguments, and 0 after `--help` and
            `--version`.
    """
    return build_parser().parse_args(arguments)


def run(options: Namespace) -> int:
    """Run the command that was parsed, after its `start`.

    Returns:
        The exit status: 0, 1 (a result misses its bound, or a training run diverged),
        2 (an error, printed in one line), 130 (interrupted; `serve` ends with 0 once
        it serves) or 141 (the reader of the output has gone). With
        `BN_KERAS_TRACEBACK=1` in the environment an error is raised instead.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = options.command.run(options)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError as error:
        return 141 if _is_output_closed() else report_error(error)
    except Exception as error:
        return report_error(error)


def report_error(error: Exception) -> int:
    """Print an error in one line and return its exit status, or raise it if asked."""
    from bn_keras import errors
    from bn_keras.cli import messages

    if os.environ.get("BN_KERAS_TRACEBACK") == "1":
        raise error
    line = messages.one_line(messages.error_message(error))
    messages.report(f"error: {line}")
    return 1 if isinstance(error, errors.DivergenceError) else 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, start the backend and run one command.

    Args:
        arguments: Strings, or None for the arguments of the process.

    Returns:
        The exit status, as `run` returns it.

    Raises:
        SystemExit: As `parse` raises it.
    """
    options = parse(arguments)
    options.command.start(options)
    return run(options)


def _is_output_closed() -> bool:
    """Return whether the reader of the output has gone, as in `... | head`.

    The output then goes nowhere, so that the end of the process does not fail on it.
    """
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # not a file of the operating system
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    if not any(
        events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)
    ):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return True


def _show_warning(message: Warning | str, *_: Any) -> None:
    from bn_keras.cli import messages

    messages.report(f"warning: {messages.one_line(str(message))}")
