"""The command line `bn-keras`: parses, calls one function, prints what it returns.

Knows the arguments, the exit status and how an error becomes one line; no arithmetic.
"""

import argparse
import functools
import json
import os
import sys
import textwrap
from pathlib import Path

from bn_keras import __version__, arguments, data, errors, recipes

EXAMPLES = """\
examples:
  bn-keras demo
  bn-keras train bn-convnet --data mnist --data-dir mnist/ --workdir run/
  bn-keras evaluate run/bn-convnet.keras --data mnist --data-dir mnist/
  bn-keras export run/bn-convnet.keras models/mnist
  bn-keras serve models/mnist --port 8500
  bn-keras predict --address 127.0.0.1:8500 --model-name mnist digit.png
"""


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line, and whose status is 2."""

    def error(self, message):
        """Print `message` in one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def build_parser():
    """The parser of `bn-keras` with all of its commands."""
    parser = OneLineParser(
        prog="bn-keras",
        description="Batch normalization for Keras, from layer to served model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, help, example):
        sub = commands.add_parser(
            function.__name__.strip("_"),
            help=help,
            description=help,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(function=function)
        return sub

    sub = command(
        _demo,
        "Train, fold, export, serve and ask a digit classifier; no network needed.",
        "bn-keras demo --workdir bn-keras-demo --json results.json",
    )
    sub.add_argument(
        "--workdir",
        type=arguments.path,
        default=Path("bn-keras-demo"),
        help="made if missing",
    )
    sub.add_argument(
        "--json", type=arguments.path, metavar="FILE", help="write the figures there"
    )

    sub = command(
        _train,
        "Train a model by a recipe and save it as WORKDIR/RECIPE.keras.",
        "bn-keras train bn-mlp --data mnist --data-dir mnist/ --workdir run/",
    )
    sub.add_argument(
        "recipe",
        metavar="RECIPE",
        choices=recipes.RECIPES,
        help=", ".join(recipes.RECIPES),
    )
    _add_data(sub)
    sub.add_argument(
        "--workdir", type=arguments.path, required=True, help="made if missing"
    )
    sub.add_argument(
        "--epochs", type=arguments.positive, help="instead of the recipe's"
    )
    sub.add_argument("--seed", type=arguments.seed, help="instead of the recipe's")

    sub = command(
        _evaluate,
        "Print top-1 and top-5 accuracy on the test examples.",
        "bn-keras evaluate run/bn-mlp.keras --data digits",
    )
    sub.add_argument("model", metavar="MODEL.keras", type=arguments.path)
    _add_data(sub)

    sub = command(
        _export,
        "Fold the batch normalization and write DIR/<version>, a SavedModel.",
        "bn-keras export run/bn-mlp.keras models/digits",
    )
    sub.add_argument("model", metavar="MODEL.keras", type=arguments.path)
    sub.add_argument(
        "directory", metavar="DIR", type=arguments.path, help="made if missing"
    )
    sub.add_argument(
        "--version",
        type=arguments.positive,
        help="default: one above the highest in DIR",
    )
    sub.add_argument(
        "--labels",
        metavar="FILE",
        help="the classes' names, one a line; or a data set's name",
    )
    sub.add_argument(
        "--scale",
        type=float,
        default=1 / 255,
        help="factor of the pixels 0 to 255 of a picture; default: 1/255",
    )
    sub.add_argument(
        "--offset", type=float, default=0.0, help="added after it; default: %(default)s"
    )
    sub.add_argument(
        "--crop-fraction",
        type=float,
        default=1.0,
        help="share of a resized picture that is kept; default: %(default)s",
    )

    sub = command(
        _serve,
        "Serve the latest version in a directory over gRPC until interrupted.",
        "bn-keras serve models/digits --port 8500",
    )
    sub.add_argument(
        "directory", metavar="DIR", type=arguments.path, help="holds DIR/<version>"
    )
    sub.add_argument("--model-name", metavar="NAME", help="default: last part of DIR")
    sub.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    sub.add_argument(
        "--port",
        type=arguments.port,
        default=8500,
        help="0 for a free one; default: %(default)s",
    )

    sub = command(
        _predict,
        "Ask a server (this one or TensorFlow Serving) about .npy, .npz and image "
        "files. Prints a line of JSON for each, null where a value is not finite.",
        "bn-keras predict --address 127.0.0.1:8500 --model-name digits batch.npy",
    )
    sub.add_argument(
        "--address", type=arguments.address, required=True, metavar="HOST:PORT"
    )
    sub.add_argument("--model-name", required=True, metavar="NAME")
    sub.add_argument(
        "--timeout",
        type=arguments.seconds,
        default=10.0,
        metavar="SECONDS",
        help="of each call; default: %(default)s",
    )
    sub.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        type=arguments.path,
        help=".npy: a batch as the model takes it (float64 is sent as float32); .npz: "
        "one array for each input, its key the input's name; an image: one example, "
        "fitted to the model's input size, black 0 and white 1. Models trained on the "
        "data sets here know light ink on black",
    )
    return parser


def start_backend():
    """Import what every command needs, and let TensorFlow look for its devices."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.list_logical_devices()


def main(arguments=None):
    """Run one command.

    Args:
        arguments: list of strings; None for those of the process.

    Returns:
        The exit status: 0, 1 (a result misses its bound), 2 (an error, told in one
        line) or 130 (interrupted; `serve`, once it serves, ends with 0). With
        `BN_KERAS_TRACEBACK=1` in the environment an error is raised instead.
    """
    options = build_parser().parse_args(arguments)
    try:
        return options.function(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("BN_KERAS_TRACEBACK") == "1":
            raise
        line = textwrap.shorten(errors.message(error), 1000, placeholder=" ...")
    print(f"bn-keras: error: {line}", file=sys.stderr)
    return 2


def _demo(options):
    from bn_keras import demo
    from bn_keras.files import published

    if options.json is not None:
        folder = options.json.absolute().parent
        if options.json.is_dir():
            raise ValueError(
                f"--json expects a file. Received: {options.json}, a folder; name a "
                "file in it"
            )
        if not folder.is_dir() and folder != options.workdir.absolute():
            raise ValueError(
                f"--json expects a file in a folder that exists. Received: "
                f"{options.json}; make {folder} first"
            )
    _make_folder(options.workdir)
    results, failures = demo.run(options.workdir, command=_command())
    if options.json is not None:
        with published(options.json) as beside:
            beside.write_text(json.dumps(results, indent=2) + "\n")
    for failure in failures:
        print(f"bn-keras: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _train(options):
    from dataclasses import replace

    from bn_keras.training import train

    given = {"epochs": options.epochs, "seed": options.seed}
    recipe = replace(
        recipes.RECIPES[options.recipe],
        **{key: value for key, value in given.items() if value is not None},
    )
    path = options.workdir / f"{recipe.name}.keras"
    if path.is_dir():
        raise ValueError(
            f"Expected {path} to be free, or an earlier model to replace. Received: a "
            "folder; choose another --workdir"
        )
    examples = data.load(options.data, options.data_dir)
    _make_folder(options.workdir)
    train(recipe, examples, options.workdir)
    print(f"saved {path}")
    return 0


def _evaluate(options):
    from bn_keras.evaluation import evaluate
    from bn_keras.inputs import load_model

    model = load_model(options.model)
    examples = data.load(options.data, options.data_dir)
    for name, value in evaluate(model, examples.test).items():
        print(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}")
    return 0


def _export(options):
    from bn_keras import data
    from bn_keras.exporter import export_saved_model
    from bn_keras.inputs import load_model
    from bn_keras.preprocessing import Preprocessing

    labels = options.labels
    if labels in data.DATA and not Path(labels).exists():
        labels = data.load(labels).class_names
    preprocessing = Preprocessing(
        scale=options.scale,
        offset=options.offset,
        crop_fraction=options.crop_fraction,
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


def _serve(options):
    import signal

    from serving import PredictionServer

    with PredictionServer(
        options.directory, options.model_name, options.host, options.port
    ) as server:
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            everywhere = options.host in ("0.0.0.0", "::")
            print(
                f"serving at {server.address}"
                + (" and this machine's other addresses" if everywhere else "")
                + ", Ctrl-C stops",
                flush=True,
            )
            server.wait()
        except KeyboardInterrupt:
            pass
    return 0


def _predict(options):
    from bn_keras.inputs import read_inputs
    from serving import PredictionClient

    with PredictionClient(
        options.address, options.model_name, timeout=options.timeout
    ) as client:
        signatures = client.metadata()
        if "serving_default" not in signatures:
            raise ValueError(
                "Expected a model with the signature serving_default. Received: the "
                f"signatures {', '.join(signatures)}; export it anew, or ask these "
                "with serving.PredictionClient"
            )
        for file in options.files:
            expected = signatures["serving_default"]["inputs"]
            outputs = client.predict(read_inputs(file, expected))
            values = {key: _plain(array) for key, array in outputs.items()}
            print(json.dumps({"file": str(file), **values}, allow_nan=False))
    return 0


def _plain(array):
    """Lists as JSON has them: text of bytes, pairs of complex, null of NaN."""
    import numpy as np

    if array.dtype == object:
        decode = functools.partial(bytes.decode, errors="backslashreplace")
        return np.vectorize(decode, otypes=[object])(array).tolist()
    if array.dtype.kind in "biu":
        return array.tolist()
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    # Also bfloat16, whose scalars JSON does not know.
    values = np.asarray(array, np.float64).astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()


def _make_folder(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            "--workdir expects a folder, or the name of one to make. Received: "
            f"{path}, which is a file or in one; choose another"
        ) from None


def _command():
    """The running command as it was typed, for the lines that a user copies."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "bn-keras" else "python -m bn_keras"


def _add_data(parser):
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        choices=data.DATA,
        help=", ".join(data.DATA),
    )
    parser.add_argument(
        "--data-dir",
        type=arguments.path,
        metavar="DIR",
        help="folder of the data set's files; without it, mnist is downloaded",
    )
