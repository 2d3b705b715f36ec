"""Parsers whose errors are one line, and which import a command when it is chosen."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps names with hyphens on one line, so that they can be copied."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line with status 2.

    An error suggests the nearest name that exists and points at the parser's own
    `--help`. Options must be spelled out: an abbreviation that is unique today may not
    be so in the next release.
    """

    def __init__(self, *, description: str, **settings: Any):
        # The formatter keeps the lines of the examples, so the text is wrapped here.
        super().__init__(
            description=textwrap.fill(description, 79, break_on_hyphens=False),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            **settings,
        )

    def error(self, message: str) -> Any:
        """Print the message in one line and exit with status 2."""
        message = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse, and make an unknown option an error of this parser.

        `argparse` would first complain about required arguments that are missing, and
        of an unknown option only at the end, in the name of the outermost parser.
        """
        args = sys.argv[1:] if args is None else list(args)
        for argument in args:
            if argument in self._commands() or argument == "--":
                break  # what follows is for the command, or is not an option
            option = argument.partition("=")[0]
            if (
                option.startswith("--")
                and " " not in option
                and option not in self._option_string_actions
            ):
                visible = [
                    name
                    for name, action in self._option_string_actions.items()
                    if action.help != argparse.SUPPRESS
                ]
                self.error(f"unrecognized option {argument}{_suggest(option, visible)}")
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return options, rest

    def _commands(self) -> Iterable[str]:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse calls this to check `choices`. Its own message has no suggestion.
        if action.choices is not None and value not in action.choices:
            names = [str(choice) or "''" for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {value!r}{_suggest(str(value), names)} "
                f"(choose from {', '.join(names)})",
            )


class CommandModule(Protocol):
    """What the module of a command has.

    It imports neither Keras nor TensorFlow nor NumPy at its top, because its options
    are needed for `--help`.
    """

    def add_options(self, parser: "CommandParser") -> None:
        """Add the command's options to its parser."""
        ...

    def start(self, options: argparse.Namespace) -> None:
        """Import the backend that the command needs and open its devices."""
        ...

    def run(self, options: argparse.Namespace) -> int:
        """Run the command and return the exit status."""
        ...


class CommandParser(OneLineParser):
    """The parser of one command.

    Args:
        module: A function that imports and returns the command's module, a
            `CommandModule`. It is called when the command is chosen or its help
            is shown, so that no other command's module is imported.
        settings: The keywords of `argparse.ArgumentParser`.
    """

    def __init__(self, *, module: Callable[[], Any], **settings: Any):
        super().__init__(**settings)
        self._import: Callable[[], Any] | None = module

    def load(self) -> None:
        """Import the command's module and add its options, once."""
        if self._import is not None:
            module: CommandModule = self._import()
            self._import = None
            module.add_options(self)
            self.set_defaults(command=module)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse after the options have been added."""
        self.load()
        return super().parse_known_args(args, namespace)


def _suggest(name: str, names: Iterable[str]) -> str:
    import difflib

    matches = difflib.get_close_matches(name, names, 1)
    return f", did you mean {matches[0]}?" if matches else ""
