"""The command `recipes`."""

from argparse import Namespace

from bn_keras.cli.parsers import OneLineParser
from bn_keras.training.recipes import RECIPES


def add_options(parser: OneLineParser) -> None:
    """Add nothing: `recipes` has no options."""


def start(options: Namespace) -> None:
    """Start nothing: a recipe consists of numbers and names."""


def run(options: Namespace) -> int:
    """Print a line for each recipe."""
    header = ("recipe", "network", "learning rate", "batch size", "epochs")
    rows = [
        (
            recipe.name,
            recipe.model + (" with BN" if recipe.batch_normalization else ""),
            f"{recipe.learning_rate:g}",
            str(recipe.batch_size),
            str(recipe.epochs),
        )
        for recipe in RECIPES.values()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [
            # Names to the left, numbers to the right.
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells))
    return 0
