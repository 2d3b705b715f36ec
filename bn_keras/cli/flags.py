"""Flags in the manner of TensorFlow Serving: spelled with underscores or hyphens."""

import argparse
from typing import Any

from bn_keras.cli import argument_types


def add_flag(group: argparse._ArgumentGroup, name: str, **settings: Any) -> None:
    """Add a flag that is spelled with underscores or with hyphens.

    Args:
        group: Where the help shows it.
        name: Name with underscores, which the help shows.
        settings: Keywords of `add_argument`.
    """
    group.add_argument(f"--{name}", **settings)
    settings |= {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    group.add_argument(f"--{name.replace('_', '-')}", dest=name, **settings)


def add_boolean(group: argparse._ArgumentGroup, name: str, **settings: Any) -> None:
    """Add a flag that is true if it has no value; the arguments are as for others."""
    settings = {
        "type": argument_types.boolean,
        "nargs": "?",
        "const": True,
        "default": False,
        "metavar": "true|false",
        **settings,
    }
    add_flag(group, name, **settings)
