"""The command `evaluate`."""

import textwrap
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from bn_keras import devices
from bn_keras.cli import argument_types, messages
from bn_keras.cli.data_options import add_data_options, load_data
from bn_keras.cli.messages import progress_bar
from bn_keras.cli.parsers import OneLineParser
from bn_keras.images.crops import CROPS

if TYPE_CHECKING:
    from bn_keras.evaluation import Evaluation
    from bn_keras.images.preprocessing import Preprocessing

_PICTURE_SUFFIXES = (".png", ".svg")


def add_options(parser: OneLineParser) -> None:
    """Add the options of `evaluate`."""
    parser.add_argument(
        "models", metavar="MODEL.keras", type=argument_types.path, nargs="+"
    )
    add_data_options(parser)
    parser.add_argument(
        "--crops",
        type=int,
        choices=CROPS,
        default=1,
        help="number of crops of each picture; default: %(default)s",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="also print a line for each class"
    )
    parser.add_argument(
        "--confusion",
        type=argument_types.path,
        metavar="FILE",
        help="draw the confusion matrix in this .png or .svg file",
    )
    parser.add_argument(
        "--predictions",
        type=argument_types.path,
        metavar="FILE",
        help="write this .csv file: for each picture its class, the predicted one and "
        "their probabilities",
    )


def start(options: Namespace) -> None:
    """Start Keras."""
    devices.start_keras()


def run(options: Namespace) -> int:
    """Evaluate a model, or several as an ensemble."""
    from bn_keras.cli.user_files import load_model
    from bn_keras.data.summary import summarize
    from bn_keras.evaluation import evaluate, predict_probabilities
    from bn_keras.evaluation.prediction_table import prediction_table
    from bn_keras.training.distribution import OneDevice

    if options.predictions is not None and (
        options.predictions.suffix != ".csv"
        or not options.predictions.absolute().parent.is_dir()
    ):
        raise ValueError(
            "--predictions must be a file named .csv in a folder that exists. "
            f"Received: {options.predictions}. Choose another name"
        )
    if options.confusion is not None and (
        options.confusion.suffix not in _PICTURE_SUFFIXES
        or not options.confusion.absolute().parent.is_dir()
    ):
        raise ValueError(
            f"--confusion must be a file named {' or '.join(_PICTURE_SUFFIXES)} in a "
            f"folder that exists. Received: {options.confusion}. Choose another name"
        )
    models = [load_model(path) for path in options.models]
    examples = load_data(options)
    preprocessing = _shared_preprocessing(options.models, examples.class_names)
    # Checks the models; nothing is computed before the probabilities are asked for.
    predict_probabilities(models, examples.test, options.crops, preprocessing)
    for line in (*summarize(examples), OneDevice().describe()):
        messages.report(line)
    table = nullcontext()
    if options.predictions is not None:
        table = prediction_table(
            options.predictions, examples.test, examples.class_names
        )
    with table as write, progress_bar() as progress:
        task = progress.add_task("evaluating", total=len(examples.test))
        evaluation = evaluate(
            models,
            examples.test,
            options.crops,
            preprocessing,
            on_batch_end=lambda done: progress.update(task, completed=done),
            on_predictions=write,
        )
    print(evaluation)
    if options.per_class:
        _show_classes(evaluation, examples.class_names)
    if options.confusion is not None:
        _draw_confusion(evaluation, examples.class_names, options.confusion)
    return 0


def _shared_preprocessing(
    paths: Sequence[Path], class_names: Sequence[str]
) -> "Preprocessing | None":
    """Return the preprocessing of the models' training runs, None if not recorded."""
    from bn_keras.training import run_record

    records = [run_record.read_for_model(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record is not None and record.class_names != class_names:
            raise ValueError(
                f"The classes of the data set must be those of {path.stem}.json, "
                f"{_shorten(record.class_names)}. Received: "
                f"{_shorten(class_names)}. Choose the data set that the model was "
                "trained on"
            )
    preprocessing = [record and record.preprocessing for record in records]
    for path, other in zip(paths, preprocessing, strict=True):
        if other != preprocessing[0]:
            raise ValueError(
                "The models of an ensemble must have the same preprocessing. Received: "
                f"{paths[0]} and {path}, whose files {paths[0].stem}.json and "
                f"{path.stem}.json differ in it or are missing. Evaluate the models "
                "one by one"
            )
    return preprocessing[0]


def _shorten(names: Sequence[str]) -> str:
    return textwrap.shorten(f"{len(names)} classes ({', '.join(names)})", 200)


def _show_classes(evaluation: "Evaluation", class_names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "images", "top-1", "top-5")
    scores = evaluation.per_class
    # A model may have more outputs than the data set has classes.
    names = [*class_names, *map(str, range(len(class_names), len(scores)))]
    for name, score in zip(names, scores, strict=False):
        table.add_row(
            name, f"{score.images:,}", f"{score.top1:.4f}", f"{score.top5:.4f}"
        )
    Console().print(table)


def _draw_confusion(
    evaluation: "Evaluation", class_names: Sequence[str], path: Path
) -> None:
    from bn_keras.atomic_files import atomic_write
    from bn_keras.evaluation import plot_confusion

    with atomic_write(path) as temporary_path:
        plot_confusion(evaluation, class_names).savefig(temporary_path)
