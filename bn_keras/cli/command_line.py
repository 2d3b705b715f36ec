"""The command line `bn-keras`: parses, calls one function, prints what it returns.

Knows the arguments, the exit status and how an error becomes one line; no arithmetic.
"""

import argparse
import os
import sys
import textwrap
import warnings

from bn_keras import __version__
from bn_keras.cli import data, demonstration, export, predict, reproduce, serve, train
from bn_keras.cli.messages import error_message
from bn_keras.errors import DivergenceError

EXAMPLES = """\
examples:
  bn-keras demo
  bn-keras train bn-convnet --data mnist --data-dir mnist/ --workdir run/
  bn-keras train bn-x5 --data image_folder --data-dir photos/ --workdir run/
  bn-keras data convert --data image_folder --data-dir photos/ --out records/
  bn-keras evaluate run/bn-convnet.keras --data mnist --data-dir mnist/
  bn-keras export run/bn-convnet.keras models/mnist
  bn-keras serve models/mnist --port 8500
  bn-keras predict --address 127.0.0.1:8500 --model-name mnist digit.png
  bn-keras reproduce mnist --mnist-dir mnist/
"""


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line, and whose status is 2."""

    def error(self, message):
        """Print `message` in one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def build_parser():
    """The parser of `bn-keras` with all of its commands."""
    parser = OneLineParser(
        prog="bn-keras",
        description="Batch normalization for Keras, from layer to served model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for commands_of in (
        demonstration,
        train,
        export,
        serve,
        predict,
        data,
        reproduce,
    ):
        commands_of.add(commands)
    return parser


def start_backend():
    """Import what every command needs, and let TensorFlow look for its devices."""
    import keras

    # A cluster must be told to TensorFlow before it has looked for devices.
    if keras.backend.backend() == "tensorflow" and "TF_CONFIG" not in os.environ:
        import tensorflow as tf

        tf.config.list_logical_devices()


def _show_warning(message, *_):
    line = textwrap.shorten(str(message), 1000, placeholder=" ...")
    print(f"bn-keras: warning: {line}", file=sys.stderr)


def main(arguments=None):
    """Run one command.

    Args:
        arguments: list of strings; None for those of the process.

    Returns:
        The exit status: 0, 1 (a result misses its bound, or a training diverged), 2
        (an error, told in one line) or 130 (interrupted; `serve`, once it serves, ends
        with 0). With `BN_KERAS_TRACEBACK=1` in the environment an error is raised
        instead.
    """
    options = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.function(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("BN_KERAS_TRACEBACK") == "1":
            raise
        line = textwrap.shorten(error_message(error), 1000, placeholder=" ...")
        status = 1 if isinstance(error, DivergenceError) else 2
    print(f"bn-keras: error: {line}", file=sys.stderr)
    return status
