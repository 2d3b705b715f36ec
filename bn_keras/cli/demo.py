"""The command `demo`: train, fold, export, serve and query a classifier of digits."""

import json
import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_keras import devices
from bn_keras.cli import argument_types, messages
from bn_keras.cli.parsers import OneLineParser
from bn_keras.training.recipes import BN_MLP, MLP

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from bn_keras.experiments.digits import Measurements

LARGEST_DIFFERENCE = 1e-5
SMALLEST_ACCURACY = 0.93
# A pixel is drawn as one of these characters, from black to white.
_SHADES = " .:-=+*#%@"


def add_options(parser: OneLineParser) -> None:
    """Add the options of `demo`."""
    parser.add_argument(
        "--workdir",
        type=argument_types.path,
        default=Path("bn-keras-demo"),
        metavar="DIR",
        help="created if it does not exist; default: %(default)s",
    )
    parser.add_argument(
        "--json",
        type=argument_types.path,
        metavar="FILE",
        help="write the results to this file",
    )


def start(options: Namespace) -> None:
    """Start Keras."""
    devices.start_keras()


def run(options: Namespace) -> int:
    """Run the demo and write its results."""
    from bn_keras.atomic_files import atomic_write
    from bn_keras.cli.user_files import make_folder

    if options.json is not None:
        folder = options.json.absolute().parent
        if options.json.is_dir():
            raise ValueError(
                f"--json must be a file. Received: {options.json}, which is a folder. "
                "Choose a file in it"
            )
        if not folder.is_dir() and folder != options.workdir.absolute():
            raise ValueError(
                "--json must be a file in a folder that exists. Received: "
                f"{options.json}. Create {folder} first"
            )
    make_folder(options.workdir)
    results, failures = run_demo(options.workdir, command=_typed_command())
    if options.json is not None:
        with atomic_write(options.json) as temporary_path:
            temporary_path.write_text(json.dumps(results, indent=2) + "\n")
    for failure in failures:
        messages.report(failure)
    return 1 if failures else 0


def _typed_command() -> str:
    """Return the command as the user typed it, for the lines to copy."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "bn-keras" else "python -m bn_keras"


def run_demo(
    workdir: Path, console: "Console | None" = None, command: str = "bn-keras"
) -> tuple[dict[str, Any], list[str]]:
    """Run the demo in a folder.

    Args:
        workdir: An existing folder. It receives the models, their learning curves, a
            picture of these, one digit of the test set and `models/digits/<version>`.
        console: The console to print on. A new one by default.
        command: The name of the command line in the lines to copy.

    Returns:
        `(results, failures)`: a dict of the results that `bn-keras demo --json` writes,
        and a sentence for each result that misses its bound.
    """
    import numpy as np
    from rich.console import Console

    from bn_keras import data
    from bn_keras.evaluation import evaluate
    from bn_keras.export import export_saved_model
    from bn_keras.folding import fold_batch_normalization
    from bn_keras_serving import PredictionClient, PredictionServer

    console = console or Console()
    start_time = time.perf_counter()
    examples = data.digits()
    console.rule(
        f"1  Train 3 x 100 sigmoid units on {len(examples.train.labels):,} "
        "handwritten digits"
    )
    measurements = _train(workdir, console)
    _show_learning_curves(measurements, workdir, console)
    model = measurements.models[BN_MLP.name]
    test = examples.test

    console.rule("2  Fold the batch normalization, export a SavedModel")
    folding = fold_batch_normalization(model)
    console.print(str(folding.report), markup=False, highlight=False)
    saved_model = export_saved_model(model, workdir / "models" / "digits")
    console.print(f"exported to {saved_model}", soft_wrap=True)

    console.rule(f"3  Serve it, ask for {len(test.labels):,} held-out digits")
    unfolded, folded = (
        # Keras annotates `verbose` as text, although it documents numbers too.
        network.predict(test.images, verbose=0)  # pyright: ignore[reportArgumentType]
        for network in (model, folding.model)
    )
    with (
        PredictionServer(saved_model.parent, port=0) as server,
        PredictionClient(server.address, "digits") as client,
    ):
        console.print(
            f"tensorflow.serving.PredictionService at {server.address}: "
            f"model 'digits', version {saved_model.name}",
            soft_wrap=True,
        )
        (served,) = client.predict(test.images).values()
    _show_digits(test.images, test.labels, served, console)

    results = {
        "test_accuracy_bn": evaluate(model, test).top1,
        "test_accuracy_baseline": evaluate(measurements.models[MLP.name], test).top1,
        "fold_max_abs_difference": float(np.max(np.abs(folded - unfolded))),
        "grpc_max_abs_difference": float(np.max(np.abs(served - unfolded))),
        "bn_layers_folded": folding.report.folded,
        "bn_layers_left": folding.report.left,
        "saved_model_path": str(saved_model),
        "seconds": time.perf_counter() - start_time,
    }
    console.rule("4  Compare")
    _show_results(results, len(test.labels), console)
    _draw_digit(test.images[0], workdir / "digit.png")
    _show_next_commands(command, workdir, console)
    return results, _failures(results)


def _train(workdir: Path, console: "Console") -> "Measurements":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeRemainingColumn,
    )

    from bn_keras.experiments import digits

    columns = (
        "{task.description:>20}",
        BarColumn(),
        MofNCompleteColumn(),
        "epochs, left:",
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {
            MLP.name: progress.add_task("without BN", total=MLP.epochs),
            BN_MLP.name: progress.add_task("with BN", total=BN_MLP.epochs),
        }
        return digits.run(
            workdir, on_epoch_end=lambda name: progress.advance(tasks[name])
        )


def _show_learning_curves(
    measurements: "Measurements", workdir: Path, console: "Console"
) -> None:
    from rich.table import Table

    from bn_keras.experiments import digits

    table = Table("epoch", title="Learning curves (test accuracy)")
    epochs = [epoch for epoch in (1, 2, 5, 10, 20, 40, 60) if epoch <= BN_MLP.epochs]
    for epoch in epochs:
        table.add_column(str(epoch), justify="right")
    for name, label in ((MLP.name, "without BN"), (BN_MLP.name, "with BN")):
        accuracies = measurements.accuracy[name]
        table.add_row(label, *(f"{accuracies[epoch - 1]:.1%}" for epoch in epochs))
    console.print(table)
    path = workdir / "learning_curves.png"
    digits.plot(measurements).savefig(path, dpi=120)
    console.print(f"drawn in {path}", soft_wrap=True)


def _show_digits(
    images: "np.ndarray",
    labels: "np.ndarray",
    probabilities: "np.ndarray",
    console: "Console",
) -> None:
    import numpy as np

    indices = [int(np.argmax(labels == digit)) for digit in (0, 3, 5, 8)]
    pictures = [_text_picture(images[index]) for index in indices]
    captions = [
        f"{labels[index]} -> {probabilities[index].argmax()} "
        f"{probabilities[index].max():.1%}"
        for index in indices
    ]
    console.print("true digit -> answer and its probability", highlight=False)
    for row in zip(*pictures, strict=True):
        console.print("    ".join(row), markup=False, highlight=False)
    console.print(
        "    ".join(f"{caption:<16}" for caption in captions), highlight=False
    )


def _text_picture(image: "np.ndarray") -> list[str]:
    import numpy as np

    levels = np.rint(image[..., 0] * (len(_SHADES) - 1)).astype(int)
    # A character is about twice as high as wide.
    return ["".join(_SHADES[level] * 2 for level in row) for row in levels]


def _draw_digit(image: "np.ndarray", path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.rint(image[..., 0] * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def _show_results(
    results: dict[str, Any], example_count: int, console: "Console"
) -> None:
    from rich.table import Table

    table = Table(f"held-out digits ({example_count:,})", "figure", "bound")
    accuracy, difference = f">= {SMALLEST_ACCURACY}", f"<= {LARGEST_DIFFERENCE}"
    for label, key, bound in (
        ("accuracy with BN", "test_accuracy_bn", accuracy),
        ("accuracy without BN", "test_accuracy_baseline", ""),
        ("folded - unfolded, largest", "fold_max_abs_difference", difference),
        ("served - unfolded, largest", "grpc_max_abs_difference", difference),
    ):
        table.add_row(label, f"{results[key]:.3g}", bound)
    console.print(table)
    console.print(f"{results['seconds']:.0f} s")


def _show_next_commands(command: str, workdir: Path, console: "Console") -> None:
    console.rule("What next, with a model of your own")
    recipe, directory = "bn-convnet", workdir / "models" / "mine"
    server = ["--address", "127.0.0.1:8500", "--model-name", directory.name]
    for arguments in (
        ["train", recipe, "--data", "digits", "--workdir", workdir],
        ["export", workdir / f"{recipe}.keras", directory],
        ["serve", directory, "--port", 8500],
        ["predict", *server, workdir / "digit.png"],
    ):
        line = f"{command} {shlex.join(map(str, arguments))}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _failures(results: dict[str, Any]) -> list[str]:
    # `not <=` is also true of NaN.
    failures = [
        f"{key} is {results[key]:.3g}, more than {LARGEST_DIFFERENCE}"
        for key in ("fold_max_abs_difference", "grpc_max_abs_difference")
        if not results[key] <= LARGEST_DIFFERENCE
    ]
    if not results["test_accuracy_bn"] >= SMALLEST_ACCURACY:
        failures.append(
            f"test_accuracy_bn is {results['test_accuracy_bn']:.3f}, less than "
            f"{SMALLEST_ACCURACY}"
        )
    return failures
