"""The main job on bundled digits: train, fold, export, serve, ask, compare, show.

Knows the order of the steps and how to show them; each step is another module's.
"""

import shlex
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from bn_keras import data
from bn_keras.evaluation import evaluate
from bn_keras.experiments import digits as experiment
from bn_keras.export import export_saved_model
from bn_keras.folding import fold_batch_normalization
from bn_keras.training.recipes import BN_MLP, MLP

LARGEST_DIFFERENCE = 1e-5
LEAST_ACCURACY = 0.93
SHADES = " .:-=+*#%@"


def run(workdir, console=None, command="bn-keras"):
    """Run the demo in a folder.

    Args:
        workdir: an existing folder; receives the models, learning curves, the picture
            of these, one held-out digit and `models/digits/<version>`.
        console: a `rich.console.Console` to show the run on; None for a new one.
        command: how the command line is called here, for the lines to copy.

    Returns:
        `(results, failures)`: a dict of the figures that `bn-keras demo --json` writes,
        and a list of sentences on those that miss their bounds.
    """
    from bn_keras_serving import PredictionClient, PredictionServer

    console = console or Console()
    workdir = Path(workdir)
    start = time.perf_counter()
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
    unfolded = model.predict(test.images, verbose=0)
    folded = folding.model.predict(test.images, verbose=0)
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
    _show_digits(test, served, console)

    results = {
        "test_accuracy_bn": evaluate(model, test).top1,
        "test_accuracy_baseline": evaluate(measurements.models[MLP.name], test).top1,
        "fold_max_abs_difference": float(np.max(np.abs(folded - unfolded))),
        "grpc_max_abs_difference": float(np.max(np.abs(served - unfolded))),
        "bn_layers_folded": folding.report.folded,
        "bn_layers_left": folding.report.left,
        "saved_model_path": str(saved_model),
        "seconds": time.perf_counter() - start,
    }
    console.rule("4  Compare")
    _show_results(results, len(test.labels), console)
    _draw_digit(test.images[0], workdir / "digit.png")
    _show_what_next(command, workdir, console)
    return results, _failures(results)


def _train(workdir, console):
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
        return experiment.run(
            workdir, on_epoch_end=lambda name: progress.advance(tasks[name])
        )


def _show_learning_curves(measurements, workdir, console):
    table = Table("epoch", title="Learning curves (test accuracy)")
    epochs = [epoch for epoch in (1, 2, 5, 10, 20, 40, 60) if epoch <= BN_MLP.epochs]
    for epoch in epochs:
        table.add_column(str(epoch), justify="right")
    for name, label in ((MLP.name, "without BN"), (BN_MLP.name, "with BN")):
        values = measurements.accuracy[name]
        table.add_row(label, *(f"{values[epoch - 1]:.1%}" for epoch in epochs))
    console.print(table)
    picture = workdir / "learning_curves.png"
    experiment.plot(measurements).savefig(picture, dpi=120)
    console.print(f"drawn in {picture}", soft_wrap=True)


def _show_digits(test, probabilities, console):
    shown = [int(np.argmax(test.labels == digit)) for digit in (0, 3, 5, 8)]
    pictures = [_text_picture(test.images[index]) for index in shown]
    captions = [
        f"{test.labels[index]} -> {probabilities[index].argmax()} "
        f"{probabilities[index].max():.1%}"
        for index in shown
    ]
    console.print("true digit -> answer and its probability", highlight=False)
    for row in zip(*pictures, strict=True):
        console.print("    ".join(row), markup=False, highlight=False)
    console.print(
        "    ".join(f"{caption:<16}" for caption in captions), highlight=False
    )


def _text_picture(image):
    levels = np.rint(image[..., 0] * (len(SHADES) - 1)).astype(int)
    return ["".join(SHADES[level] * 2 for level in row) for row in levels]


def _draw_digit(image, path):
    pixels = np.rint(image[..., 0] * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def _show_results(results, examples, console):
    table = Table(f"held-out digits ({examples:,})", "figure", "bound")
    accuracy, difference = f">= {LEAST_ACCURACY}", f"<= {LARGEST_DIFFERENCE}"
    for label, key, bound in (
        ("accuracy with BN", "test_accuracy_bn", accuracy),
        ("accuracy without BN", "test_accuracy_baseline", ""),
        ("folded - unfolded, largest", "fold_max_abs_difference", difference),
        ("served - unfolded, largest", "grpc_max_abs_difference", difference),
    ):
        table.add_row(label, f"{results[key]:.3g}", bound)
    console.print(table)
    console.print(f"{results['seconds']:.0f} s")


def _show_what_next(command, workdir, console):
    console.rule("What next, with a model of your own")
    recipe, mine = "bn-convnet", workdir / "models" / "mine"
    server = ["--address", "127.0.0.1:8500", "--model-name", mine.name]
    for line in (
        ["train", recipe, "--data", "digits", "--workdir", workdir],
        ["export", workdir / f"{recipe}.keras", mine],
        ["serve", mine, "--port", 8500],
        ["predict", *server, workdir / "digit.png"],
    ):
        copied = f"{command} {shlex.join(map(str, line))}"
        console.print(copied, soft_wrap=True, highlight=False, markup=False)


def _failures(results):
    failures = [
        f"{key} is {results[key]:.3g}, more than {LARGEST_DIFFERENCE}"
        for key in ("fold_max_abs_difference", "grpc_max_abs_difference")
        if not results[key] <= LARGEST_DIFFERENCE
    ]
    if not results["test_accuracy_bn"] >= LEAST_ACCURACY:
        failures.append(
            f"test_accuracy_bn is {results['test_accuracy_bn']:.3f}, less than "
            f"{LEAST_ACCURACY}"
        )
    return failures
