"""The command line `bn-keras`: parses, calls one function, prints what it returns.

Knows the arguments, the exit status and how an error becomes one line; no arithmetic.
"""

import argparse
import json
import sys
from pathlib import Path

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
        "--workdir", type=Path, default=Path("bn-keras-demo"), help="made if missing"
    )
    sub.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there"
    )

    sub = command(
        _train,
        "Train a model by a recipe and save it as WORKDIR/RECIPE.keras.",
        "bn-keras train bn-mlp --data mnist --data-dir mnist/ --workdir run/",
    )
    sub.add_argument(
        "recipe", metavar="RECIPE", help="mlp, bn-mlp, convnet, bn-convnet"
    )
    _add_data(sub)
    sub.add_argument("--workdir", type=Path, required=True, help="made if missing")
    sub.add_argument("--epochs", type=_positive, help="instead of the recipe's")
    sub.add_argument("--seed", type=int, help="instead of the recipe's")

    sub = command(
        _evaluate,
        "Print top-1 and top-5 accuracy on the test examples.",
        "bn-keras evaluate run/bn-mlp.keras --data digits",
    )
    sub.add_argument("model", metavar="MODEL.keras", type=Path)
    _add_data(sub)

    sub = command(
        _export,
        "Fold the batch normalization and write DIR/<version>, a SavedModel.",
        "bn-keras export run/bn-mlp.keras models/digits",
    )
    sub.add_argument("model", metavar="MODEL.keras", type=Path)
    sub.add_argument("directory", metavar="DIR", type=Path, help="made if missing")
    sub.add_argument(
        "--version", type=_positive, help="default: one above the highest in DIR"
    )

    sub = command(
        _serve,
        "Serve the latest version in a directory over gRPC until interrupted.",
        "bn-keras serve models/digits --port 8500",
    )
    sub.add_argument("directory", metavar="DIR", type=Path, help="holds DIR/<version>")
    sub.add_argument("--model-name", metavar="NAME", help="default: last part of DIR")
    sub.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    sub.add_argument(
        "--port",
        type=_port,
        default=8500,
        help="0 for a free one; default: %(default)s",
    )

    sub = command(
        _predict,
        "Ask a server (this one or TensorFlow Serving) about .npy files and images.",
        "bn-keras predict --address 127.0.0.1:8500 --model-name digits batch.npy",
    )
    sub.add_argument("--address", required=True, metavar="HOST:PORT")
    sub.add_argument("--model-name", required=True, metavar="NAME")
    sub.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS")
    sub.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        type=Path,
        help=".npy: a batch as the model takes it; an image: fitted to the model's "
        "input size, its values divided by 255",
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
        line) or 130 (interrupted).
    """
    options = build_parser().parse_args(arguments)
    try:
        return options.function(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError) as error:
        message = str(error)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror}{where}" if error.strerror else str(error)
    except Exception as error:
        import grpc

        if not isinstance(error, grpc.RpcError):
            raise
        message = f"{error.code().name}: {error.details()}"
    line = " ".join(message.split())
    print(f"bn-keras: error: {line}", file=sys.stderr)
    return 2


def _demo(options):
    from bn_keras import demo
    from bn_keras.files import published

    options.workdir.mkdir(parents=True, exist_ok=True)
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"--json needs an existing folder. Received: {options.json}"
        )
    results, failures = demo.run(options.workdir)
    if options.json is not None:
        with published(options.json) as beside:
            beside.write_text(json.dumps(results, indent=2) + "\n")
    for failure in failures:
        print(f"bn-keras: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _train(options):
    from dataclasses import replace

    from bn_keras import data
    from bn_keras.recipes import RECIPES
    from bn_keras.training import train

    if options.recipe not in RECIPES:
        raise ValueError(
            f"The recipe must be one of {', '.join(RECIPES)}. "
            f"Received: {options.recipe!r}"
        )
    given = {"epochs": options.epochs, "seed": options.seed}
    recipe = replace(
        RECIPES[options.recipe],
        **{key: value for key, value in given.items() if value is not None},
    )
    examples = data.load(options.data, options.data_dir)
    options.workdir.mkdir(parents=True, exist_ok=True)
    train(recipe, examples, options.workdir)
    print(f"saved {options.workdir / recipe.name}.keras")
    return 0


def _evaluate(options):
    from bn_keras import data
    from bn_keras.evaluation import evaluate

    model = _load_model(options.model)
    examples = data.load(options.data, options.data_dir)
    for name, value in evaluate(model, examples.test).items():
        print(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}")
    return 0


def _export(options):
    from bn_keras.exporter import export_saved_model

    model = _load_model(options.model)
    print(export_saved_model(model, options.directory, version=options.version))
    return 0


def _serve(options):
    import signal

    from serving import PredictionServer

    with PredictionServer(
        options.directory, options.model_name, options.host, options.port
    ) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        print(f"serving at {server.address}, Ctrl-C stops", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            server.stop()
    return 0


def _predict(options):
    from serving import PredictionClient

    with PredictionClient(
        options.address, options.model_name, timeout=options.timeout
    ) as client:
        ((name, (_, shape)),) = client.metadata()["serving_default"]["inputs"].items()
        for file in options.files:
            outputs = client.predict({name: _read_batch(file, shape)})
            values = {key: array.tolist() for key, array in outputs.items()}
            print(json.dumps({"file": str(file), **values}))
    return 0


def _read_batch(path, shape):
    """A `.npy` file as it is, an image as a batch of one of that shape, in [0, 1]."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if path.suffix == ".npy":
        try:
            return np.load(path)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"Expected a .npy file of numbers. Received: {path}: {error}"
            ) from None
    if len(shape) != 4 or shape[-1] not in (1, 3):
        raise ValueError(
            "An image needs a model that takes (batch, height, width, 1 or 3). "
            f"Received: {path} for a model that takes {tuple(shape)}; send a .npy file"
        )
    _, height, width, channels = shape
    try:
        with Image.open(path) as image:
            image = image.convert("L" if channels == 1 else "RGB")
            if height and width:
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, np.float32) / 255
    except UnidentifiedImageError:
        raise ValueError(
            f"Expected a .npy file or an image. Received: {path}, which is neither"
        ) from None
    return pixels.reshape(1, *pixels.shape[:2], channels)


def _load_model(path):
    import keras

    import bn_keras  # noqa: F401 (registers the layer)

    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"Expected a model file that ends in .keras. Received: {path}"
            + ("" if path.exists() else ", which does not exist")
        )
    try:
        return keras.models.load_model(path)
    except Exception as error:
        raise ValueError(f"Cannot load {path} as a Keras model: {error}") from None


def _add_data(parser):
    parser.add_argument("--data", required=True, metavar="NAME", help="digits, mnist")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder of the data set's files"
    )


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, received {text}")
    return number


def _port(text):
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, received {text}")
    return number
