"""The command `diagnose`."""

import json
from argparse import Namespace

from bn_keras import devices
from bn_keras.cli import argument_types
from bn_keras.cli.data_options import add_data_options, load_data
from bn_keras.cli.parsers import OneLineParser

_PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


def add_options(parser: OneLineParser) -> None:
    """Add the options of `diagnose`."""
    parser.add_argument("model", metavar="MODEL.keras", type=argument_types.path)
    add_data_options(parser)
    parser.add_argument(
        "--batch-size",
        type=argument_types.positive_integer,
        default=32,
        metavar="N",
        help="examples in a mini-batch, as in training; default: %(default)s",
    )
    parser.add_argument(
        "--steps",
        type=argument_types.positive_integer,
        default=50,
        metavar="N",
        help="mini-batches to look at, at most; default: %(default)s",
    )
    parser.add_argument(
        "--json",
        type=argument_types.path,
        metavar="FILE",
        help="also write everything to this file",
    )
    parser.add_argument(
        "--plot",
        type=argument_types.path,
        metavar="FILE",
        help="draw the drift of each layer in this .png, .svg or .pdf file",
    )


def start(options: Namespace) -> None:
    """Start Keras."""
    devices.start_keras()


def run(options: Namespace) -> int:
    """Diagnose the batch normalization of a model on training examples."""
    from bn_keras.atomic_files import atomic_write
    from bn_keras.cli.user_files import load_model
    from bn_keras.diagnosis import diagnose
    from bn_keras.training import run_record

    for name, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None and (
            not path.absolute().parent.is_dir()
            or (name == "--plot" and path.suffix not in _PICTURE_SUFFIXES)
        ):
            kinds = f" named {', '.join(_PICTURE_SUFFIXES)}" * (name == "--plot")
            raise ValueError(
                f"{name} must be a file{kinds} in a folder that exists. Received: "
                f"{path}. Choose another name"
            )
    model = load_model(options.model)
    record = run_record.read_for_model(options.model)
    batches = load_data(options).train.batches(
        options.batch_size, preprocessing=record and record.preprocessing
    )
    diagnosis = diagnose(model, batches, steps=options.steps)
    print(diagnosis)
    if options.json is not None:
        text = json.dumps(diagnosis.to_dict(), indent=1) + "\n"
        with atomic_write(options.json) as path:
            path.write_text(text)
    if options.plot is not None:
        with atomic_write(options.plot) as path:
            diagnosis.plot(path)
    return 0
