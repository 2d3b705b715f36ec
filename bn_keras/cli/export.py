"""The command `export`."""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_keras import data, devices
from bn_keras.cli import argument_types
from bn_keras.cli.parsers import OneLineParser
from bn_keras.training import run_record

if TYPE_CHECKING:
    from bn_keras.images.preprocessing import Preprocessing

# The options that replace the field of the same name in the training's preprocessing.
_PREPROCESSING_OPTIONS = ("scale", "offset", "crop_fraction")
# How many images of a data set are used.
_CALIBRATION_EXAMPLES = 256


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
        "the next two is that of the training run, in MODEL.json, or 1/255, 0 and 1; "
        "1, 0 and 1 for a model that begins with a Rescaling from 0 to 255",
    )
    parser.add_argument("--offset", type=float, help="added to the scaled pixel values")
    parser.add_argument(
        "--crop-fraction",
        type=float,
        help="fraction of a resized picture that is kept",
    )
    parser.add_argument(
        "--constants",
        action="store_true",
        help="store weights as constants of the graph: requests take less time, "
        "mainly in small batches, but the server needs many times the memory",
    )
    parser.add_argument(
        "--precision",
        metavar="TYPE",
        default="float32",
        help="what layers in float32 compute in: float32; bfloat16, with weights of "
        "half the size; int8, with weights of a quarter, which needs one of the next "
        "two options",
    )
    calibration = parser.add_mutually_exclusive_group()
    calibration.add_argument(
        "--calibration",
        metavar="PATH",
        type=argument_types.path,
        help="examples for int8, some 100: a folder of images, or an .npy file with "
        "inputs of the model, or with pixels in uint8",
    )
    calibration.add_argument(
        "--calibration-data",
        metavar="NAME",
        choices=tuple(data.DATA_SETS),
        help="calibrate int8 with the training images of this data set instead: "
        f"{', '.join(data.DATA_SETS)}",
    )
    parser.add_argument(
        "--data-dir",
        type=argument_types.path,
        metavar="DIR",
        help="folder of the files of --calibration-data",
    )
    parser.add_argument(
        "--accuracy",
        type=argument_types.share,
        default=0.98,
        help="smallest share of the held-back examples for which both models must "
        "predict the same class, otherwise nothing is exported; 0 for no bound; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--reduce-range",
        action="store_true",
        help="round int8 weights to 7 bits, for processors without VNNI",
    )


def start(options: Namespace) -> None:
    """Start Keras."""
    devices.start_keras()


def run(options: Namespace) -> int:
    """Export a model with the preprocessing that it was trained with."""
    from bn_keras.cli.user_files import load_model
    from bn_keras.export import export_saved_model, read_manifest
    from bn_keras.export.contract import takes_images
    from bn_keras.images.preprocessing import Preprocessing

    record = run_record.read_for_model(options.model)
    labels = options.labels
    if labels in data.DATA_SETS and not Path(labels).exists():
        labels = data.load(labels).class_names
    elif labels is None and record is not None:
        labels = record.class_names
    model = load_model(options.model)
    values = {name: getattr(options, name) for name in _PREPROCESSING_OPTIONS}
    values = {name: value for name, value in values.items() if value is not None}
    preprocessing = None
    if record is not None and takes_images(model):
        preprocessing = record.preprocessing
    if values:
        preprocessing = replace(preprocessing or Preprocessing(), **values)
    path = export_saved_model(
        model,
        options.directory,
        version=options.version,
        labels=labels,
        preprocessing=preprocessing,
        constants=options.constants,
        precision=options.precision,
        calibration=_calibration(options),
        accuracy=options.accuracy,
        reduce_range=options.reduce_range,
    )
    if options.precision == "int8":
        facts = read_manifest(path)["quantization"]
        print(
            f"int8: {facts['int8_share']:.1%} of the multiply-adds; {facts['measure']} "
            f"{facts['score']:.4f} on {facts['examples']} held-back examples",
            file=sys.stderr,
        )
    print(path)
    return 0


def _calibration(options: Namespace) -> Any:
    """Return what the exporter is to calibrate with, or None."""
    if options.calibration_data is None:
        return options.calibration
    from bn_keras.data.orders import Shuffling

    examples = data.load(options.calibration_data, options.data_dir).train

    def read(preprocessing: "Preprocessing") -> Any:
        # The order in which they are stored is often by class.
        batches = examples.batches(16, Shuffling(0), preprocessing)
        return batches.take(_CALIBRATION_EXAMPLES // 16)

    return read
