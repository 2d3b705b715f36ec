"""The command `completion`."""

import argparse

from bn_keras.cli import argument_types, command_line
from bn_keras.cli.parsers import CommandParser, OneLineParser

_PATHS = (argument_types.path, argument_types.optional_path)


def add_options(parser: OneLineParser) -> None:
    """Add the name of the shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def start(options: argparse.Namespace) -> None:
    """Start nothing: the script is made of the parsers."""


def run(options: argparse.Namespace) -> int:
    """Print the script for one shell."""
    import shtab

    parser = command_line.build_parser()
    _prepare(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))
    return 0


def _prepare(parser: argparse.ArgumentParser, complete_file: object) -> None:
    """Add the options of all commands, and mark those that take a file or folder."""
    if isinstance(parser, CommandParser):
        parser.load()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _prepare(command, complete_file)
        elif action.type in _PATHS:
            # The attribute by which shtab knows how to complete a value.
            action.complete = complete_file  # pyright: ignore
