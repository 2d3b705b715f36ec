"""The command `export`.

Knows its options; nothing of graphs.
"""

from dataclasses import replace
from pathlib import Path

from bn_keras import data
from bn_keras.cli import argument_types
from bn_keras.cli.command import command
from bn_keras.training import run_record

_PIXELS = ("scale", "offset", "crop_fraction")


def add(commands):
    """Add these commands to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    sub = command(
        commands,
        export,
        "Fold the batch normalization and write DIR/<version>, a SavedModel.",
        "bn-keras export run/bn-mlp.keras models/digits",
    )
    sub.add_argument("model", metavar="MODEL.keras", type=argument_types.path)
    sub.add_argument(
        "directory", metavar="DIR", type=argument_types.path, help="made if missing"
    )
    sub.add_argument(
        "--version",
        type=argument_types.positive,
        help="default: one above the highest in DIR",
    )
    sub.add_argument(
        "--labels",
        metavar="FILE",
        help="the classes' names, one a line; or a data set's name; default: those of "
        "the training, in MODEL.json",
    )
    sub.add_argument(
        "--scale",
        type=float,
        help="factor of the pixels 0 to 255 of a picture; this and the next two are by "
        "default those of the training, in MODEL.json, or 1/255, 0 and 1",
    )
    sub.add_argument("--offset", type=float, help="added after it")
    sub.add_argument(
        "--crop-fraction",
        type=float,
        help="share of a resized picture that is kept",
    )


def export(options):
    """Export a model as it was trained to be used."""
    from bn_keras.cli.user_files import load_model
    from bn_keras.export import export_saved_model
    from bn_keras.images.preprocessing import Preprocessing

    run = run_record.beside(options.model)
    labels = options.labels
    if labels in data.DATA_SETS and not Path(labels).exists():
        labels = data.load(labels).class_names
    elif labels is None and run is not None:
        labels = run.class_names
    given = {name: getattr(options, name) for name in _PIXELS}
    preprocessing = replace(
        Preprocessing() if run is None else run.preprocessing,
        **{name: value for name, value in given.items() if value is not None},
    )
    path = export_saved_model(
        load_model(options.model),
        options.directory,
        version=options.version,
        labels=labels,
        preprocessing=None if preprocessing == Preprocessing() else preprocessing,
    )
    print(path)
    return 0
