"""The command `predict`.

Knows its options, which signature a file is for and what is printed; no protocol.
"""

import functools
import itertools
import json
import operator
import sys

from bn_keras.cli import argument_types
from bn_keras.cli.command import command, progress_bar
from bn_keras.cli.messages import error_message
from bn_keras.images.pixels import JPEG, PNG

_ARRAYS = (".npy", ".npz")


def add(commands):
    """Add this command to the parser.

    Args:
        commands: what `argparse`'s `add_subparsers` returned.
    """
    sub = command(
        commands,
        predict,
        "Ask a server (this one or TensorFlow Serving) about .npy, .npz and image "
        "files, several at a time. Prints a line of JSON for each, in their order, "
        "null where a value is not finite.",
        "bn-keras predict --address 127.0.0.1:8500 --model-name digits batch.npy",
    )
    sub.add_argument(
        "--address",
        type=_address,
        required=True,
        metavar="HOST:PORT",
        help="or unix:PATH",
    )
    sub.add_argument("--model-name", required=True, metavar="NAME")
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--version",
        type=argument_types.positive,
        metavar="N",
        help="default: the latest that the server has",
    )
    which.add_argument("--version-label", metavar="LABEL", help="such as stable")
    sub.add_argument(
        "--signature",
        metavar="NAME",
        help="default: serving_default, and for images that of the export's which "
        "takes images",
    )
    sub.add_argument(
        "--timeout",
        type=argument_types.seconds,
        default=10.0,
        metavar="SECONDS",
        help="of each file; default: %(default)s",
    )
    tls = sub.add_argument_group("encryption; any of these turns it on")
    tls.add_argument(
        "--tls", action="store_true", help="trust the authorities that gRPC brings"
    )
    tls.add_argument(
        "--ca",
        type=argument_types.path,
        metavar="FILE",
        help="trust those of this PEM file instead",
    )
    tls.add_argument(
        "--client-key",
        type=argument_types.path,
        metavar="FILE",
        help="PEM, not encrypted",
    )
    tls.add_argument(
        "--client-cert",
        type=argument_types.path,
        metavar="FILE",
        help="PEM, for a server that asks who calls",
    )
    tls.add_argument(
        "--server-name",
        metavar="NAME",
        help="in the server's certificate, where it is not that of the address",
    )
    sub.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        type=argument_types.path,
        help=".npy: a batch as the model takes it (float64 is sent as float32); .npz: "
        "one array for each input, its key the input's name; an image: one example, "
        "which the server turns into inputs as the export says, or black 0 and white 1 "
        "of the model's size. Models trained on the digits here know light ink on "
        "black",
    )


def predict(options):
    """Ask a server about files, print its answers."""
    import grpc

    from bn_keras_serving import PredictionClient

    which = {"version": options.version, "version_label": options.version_label}
    out = sys.stdout  # the bar puts another in its place
    bar = progress_bar()
    # On one terminal the lines would run into the bar, and tell as much.
    bar.disable = bar.disable or out.isatty()
    with PredictionClient(
        options.address, options.model_name, options.timeout, tls=_tls(options)
    ) as client:
        signatures = client.metadata(**which)
        name = options.signature or "serving_default"
        if name not in signatures:
            raise ValueError(
                f"Expected a model with the signature {name}. Received: the "
                f"signatures {', '.join(signatures)}; choose one with --signature"
            )
        requests = (
            _request(file, signatures, options.signature) for file in options.files
        )
        unanswered = iter(options.files)
        try:
            with bar:
                task = bar.add_task("predicting", total=len(options.files))
                for name, group in itertools.groupby(requests, operator.itemgetter(0)):
                    inputs = (inputs for _, inputs in group)
                    for answer in client.predict_many(inputs, name, **which):
                        values = {key: _plain(array) for key, array in answer.items()}
                        line = {"file": str(next(unanswered)), **values}
                        print(json.dumps(line, allow_nan=False), file=out, flush=True)
                        bar.advance(task)
        except (ValueError, grpc.RpcError) as error:
            file = str(next(unanswered, ""))
            message = error_message(error)
            if file in message:
                raise
            raise ValueError(f"{file}: {message}") from error
    return 0


def _address(text):
    if text.startswith("unix:") and text != "unix:":
        return text
    return argument_types.address(text)


def _tls(options):
    """Whom to trust and who asks, or None for a plain connection."""
    from bn_keras_serving.client.channel import Tls

    files = (options.ca, options.client_key, options.client_cert)
    if not options.tls and (*files, options.server_name) == (None,) * 4:
        return None
    if (options.client_key is None) != (options.client_cert is None):
        raise ValueError(
            "--client-key and --client-cert must be given together. Received: "
            f"{options.client_key or options.client_cert} alone; add the other"
        )
    return Tls(*files, options.server_name)


def _request(file, signatures, wanted):
    """The signature to ask about a file, and its inputs.

    The server knows how pictures become the model's inputs, where it has been told.
    """
    from bn_keras.cli.user_files import read_inputs

    if wanted is not None:
        expected = signatures[wanted]["inputs"]
        if file.suffix not in _ARRAYS and [dtype for dtype, _ in expected.values()] == [
            object
        ]:
            return wanted, [file.read_bytes()]
        return wanted, read_inputs(file, expected)
    # A damaged picture is named here, where its file is known.
    inputs = read_inputs(file, signatures["serving_default"]["inputs"])
    if file.suffix in _ARRAYS:
        return "serving_default", inputs
    content = file.read_bytes()
    if "predict_encoded" in signatures and content.startswith((JPEG, PNG)):
        return "predict_encoded", [content]
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
