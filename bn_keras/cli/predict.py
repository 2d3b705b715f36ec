"""The command `predict`, a gRPC client that imports neither Keras nor TensorFlow."""

import functools
import itertools
import json
import operator
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_keras.cli import argument_types, messages
from bn_keras.cli.parsers import OneLineParser

if TYPE_CHECKING:
    import numpy as np

    from bn_keras_serving.client import Tls

_DEFAULT_SIGNATURE = "serving_default"
_ARRAY_SUFFIXES = (".npy", ".npz")


def add_options(parser: OneLineParser) -> None:
    """Add the options of `predict`."""
    parser.add_argument(
        "--address",
        type=_address,
        required=True,
        metavar="HOST:PORT",
        help="address of the server, or unix:PATH",
    )
    parser.add_argument("--model-name", required=True, metavar="NAME")
    version = parser.add_mutually_exclusive_group()
    version.add_argument(
        "--version",
        type=argument_types.positive_integer,
        metavar="N",
        help="default: the latest version that the server has",
    )
    version.add_argument("--version-label", metavar="LABEL", help="such as stable")
    parser.add_argument(
        "--signature",
        metavar="NAME",
        help=f"default: {_DEFAULT_SIGNATURE}, and for images the signature of the "
        "export that takes images",
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.seconds,
        default=10.0,
        metavar="SECONDS",
        help="time limit for each file; default: %(default)s",
    )
    tls = parser.add_argument_group("encryption, which any of these options turns on")
    tls.add_argument(
        "--tls",
        action="store_true",
        help="trust the certificate authorities that gRPC ships with",
    )
    tls.add_argument(
        "--ca",
        type=argument_types.path,
        metavar="FILE",
        help="trust the authorities in this PEM file instead",
    )
    tls.add_argument(
        "--client-key",
        type=argument_types.path,
        metavar="FILE",
        help="PEM file of a private key without a password",
    )
    tls.add_argument(
        "--client-cert",
        type=argument_types.path,
        metavar="FILE",
        help="PEM file of its certificate, for a server that requires one",
    )
    tls.add_argument(
        "--server-name",
        metavar="NAME",
        help="name in the server's certificate, if it differs from the address",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        type=argument_types.path,
        help=".npy: a batch in the shape of the model's input (float64 is sent as "
        "float32); .npz: an array for each input, under the input's name; an image: "
        "one example, which the server preprocesses as the export says, or else is "
        "resized to the model's size and scaled to 0 for black and 1 for white. Models "
        "trained on the digits of this package expect light ink on black",
    )


def _address(text: str) -> str:
    if text.startswith("unix:") and text != "unix:":
        return text
    return argument_types.address(text)


def start(options: Namespace) -> None:
    """Start nothing: the server computes."""


def run(options: Namespace) -> int:
    """Query a server about files and print its answers."""
    import grpc

    from bn_keras_serving.client import PredictionClient

    version = {"version": options.version, "version_label": options.version_label}
    # The bar replaces sys.stdout while it is shown.
    output = sys.stdout
    bar = messages.progress_bar()
    # On the same terminal the printed lines show the progress, and would break the bar.
    bar.disable = bar.disable or output.isatty()
    with PredictionClient(
        options.address, options.model_name, options.timeout, tls=_tls(options)
    ) as client:
        signatures = client.metadata(**version)
        signature = options.signature or _DEFAULT_SIGNATURE
        if signature not in signatures:
            raise ValueError(
                f"The model must have the signature {signature}. Received: a model "
                f"with the signatures {', '.join(signatures)}. Choose one of these "
                "with --signature"
            )
        requests = (
            _request(file, signatures, options.signature) for file in options.files
        )
        unanswered = iter(options.files)
        try:
            with bar:
                task = bar.add_task("predicting", total=len(options.files))
                # A stream of requests has one signature, so neighbors of the same
                # signature share a stream, and the answers keep the files' order.
                for signature, group in itertools.groupby(
                    requests, operator.itemgetter(0)
                ):
                    inputs = (inputs for _, inputs in group)
                    for answer in client.predict_many(inputs, signature, **version):
                        line = {"file": str(next(unanswered))}
                        line |= {name: _plain(array) for name, array in answer.items()}
                        text = json.dumps(line, allow_nan=False)
                        print(text, file=output, flush=True)
                        bar.advance(task)
        except (ValueError, grpc.RpcError) as error:
            # Answers come in order: the error is that of the first file without one.
            file = str(next(unanswered, ""))
            message = messages.error_message(error)
            if file in message:
                raise
            raise ValueError(f"{file}: {message}") from error
    return 0


def _tls(options: Namespace) -> "Tls | None":
    """Return the certificates of the connection, None for a plain one."""
    from bn_keras_serving.client import Tls

    files = (options.ca, options.client_key, options.client_cert)
    if not options.tls and (*files, options.server_name) == (None,) * 4:
        return None
    if (options.client_key is None) != (options.client_cert is None):
        raise ValueError(
            "--client-key and --client-cert must be given together. Received: "
            f"{options.client_key or options.client_cert} alone. Add the other"
        )
    return Tls(*files, options.server_name)


def _request(
    file: Path, signatures: Mapping[str, Any], signature: str | None
) -> tuple[str, Any]:
    """Return the signature that a file is sent to, and its inputs.

    Images are sent as they are, if the export can decode and preprocess them.
    """
    from bn_keras.cli.user_files import read_inputs
    from bn_keras.images.pixels import JPEG, PNG

    is_array = file.suffix in _ARRAY_SUFFIXES
    if signature is not None:
        specs = signatures[signature]["inputs"]
        if not is_array and [dtype for dtype, _ in specs.values()] == [object]:
            return signature, [file.read_bytes()]
        return signature, read_inputs(file, specs)
    # Reading an image here too finds a damaged one, and names the file.
    inputs = read_inputs(file, signatures[_DEFAULT_SIGNATURE]["inputs"])
    if is_array:
        return _DEFAULT_SIGNATURE, inputs
    content = file.read_bytes()
    if "predict_encoded" in signatures and content.startswith((JPEG, PNG)):
        return "predict_encoded", [content]
    if "predict_uint8" in signatures:
        specs = signatures["predict_uint8"]["inputs"]
        return "predict_uint8", read_inputs(file, specs)
    return _DEFAULT_SIGNATURE, inputs


def _plain(array: "np.ndarray") -> Any:
    """Return an array as JSON can represent it.

    Bytes become text, complex numbers become pairs, and values that are not finite
    become None.
    """
    import numpy as np

    if array.dtype == object:
        decode = functools.partial(bytes.decode, errors="backslashreplace")
        return np.vectorize(decode, otypes=[object])(array).tolist()
    if array.dtype.kind in "biu":
        return array.tolist()
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    # JSON cannot represent the scalars of bfloat16, so every float becomes Python's.
    values = np.asarray(array, np.float64).astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()
