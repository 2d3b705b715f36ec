"""The command `export`."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from bn_keras import data, devices
from bn_keras.cli import argument_types
from bn_keras.cli.parsers import OneLineParser
from bn_keras.training import run_record

# The options that replace the field of the same name in the training's preprocessing.
_PREPROCESSING_OPTIONS = ("scale", "offset", "crop_fraction")


def add_options(parser: OneLineParser) -> None:
    """Add the options of `export`."""
    parser.add_argument("model", metavar="MODEL.keras", type=argument_types.path)
    parser.add_argument(
        "directory",
        metavar="DIR",
        type=argument_types.path,
        help="created if it does not exist",
    )
    parser.add_argument(
        "--version",
        type=argument_types.positive_integer,
        help="default: one more than the highest version in DIR",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="file with the names of the classes, one a line, or the name of a data "
        "set; default: the classes of the training run, in MODEL.json",
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="multiplier of the pixel values 0 to 255; the default of this option and "
        "the next two is that of the training run, in MODEL.json, or 1/255, 0 and 1",
    )
    parser.add_argument("--offset", type=float, help="added to the scaled pixel values")
    parser.add_argument(
        "--crop-fraction",
        type=float,
        help="fraction of a resized picture that is kept",
    )


def start(options: Namespace) -> None:
    """Start Keras."""
    devices.start_keras()


def run(options: Namespace) -> int:
    """Export a model with the preprocessing that it was trained with."""
    from bn_keras.cli.user_files import load_model
    from bn_keras.export import export_saved_model
    from bn_keras.images.preprocessing import Preprocessing

    record = run_record.read_for_model(options.model)
    labels = options.labels
    if labels in data.DATA_SETS and not Path(labels).exists():
        labels = data.load(labels).class_names
    elif labels is None and record is not None:
        labels = record.class_names
    values = {name: getattr(options, name) for name in _PREPROCESSING_OPTIONS}
    preprocessing = replace(
        Preprocessing() if record is None else record.preprocessing,
        **{name: value for name, value in values.items() if value is not None},
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
