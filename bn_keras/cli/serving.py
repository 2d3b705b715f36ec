"""The commands `serve` and `predict`.

Knows their options and what they print; no protocol.
"""

import functools
import json

from bn_keras import arguments
from bn_keras.cli.command import command
from bn_keras.pictures import JPEG, PNG


def add(commands):
    """Add these commands to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    sub = command(
        commands,
        serve,
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
        commands,
        predict,
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
        "which the server turns into inputs as the export says, or black 0 and white 1 "
        "of the model's size. Models trained on the digits here know light ink on "
        "black",
    )


def serve(options):
    """Serve versions until interrupted."""
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


def predict(options):
    """Ask a server about files, print its answers."""
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
            name, inputs = _request(file, signatures)
            outputs = client.predict(inputs, name)
            values = {key: _plain(array) for key, array in outputs.items()}
            print(json.dumps({"file": str(file), **values}, allow_nan=False))
    return 0


def _request(file, signatures):
    """The signature to ask about a file, and its inputs.

    The server knows how pictures become the model's inputs, where it has been told.
    """
    import numpy as np

    from bn_keras.inputs import read_inputs

    # A damaged picture is named here, where its file is known.
    inputs = read_inputs(file, signatures["serving_default"]["inputs"])
    if file.suffix in (".npy", ".npz"):
        return "serving_default", inputs
    content = file.read_bytes()
    if "predict_encoded" in signatures and content.startswith((JPEG, PNG)):
        return "predict_encoded", np.array([content], object)
    if "predict_uint8" in signatures:
        expected = signatures["predict_uint8"]["inputs"]
        return "predict_uint8", read_inputs(file, expected)
    return "serving_default", inputs


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
