"""Run the command line in this process and return what it prints."""

import os
import sys
from pathlib import Path

from bn_keras.cli import command_line

# The installed console script.
COMMAND = str(Path(sys.executable).with_name("bn-keras"))


def run(capsys, *arguments):
    """Return the exit status, standard output and standard error of a command."""
    try:
        status = command_line.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def error_line(capsys, *arguments):
    """Return the single line of a command that must fail with status 2."""
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert error.startswith("bn-keras")
    assert error.count("\n") == 1
    return error


def user_environment():
    """Return this environment without the variables that silence TensorFlow."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TF_CPP", "GRPC_"))
    }
