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
        "one example. The server preprocesses it if the export has a signature for "
        "images; otherwise it is resized and cropped at the center to the model's "
        "size, with 0 for black and 1 for white. Models trained on the digits "
        "of this package expect light ink on black",
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

    for file in options.files:
        file.stat()  # report a missing file before anything is sent
    version = {"version": options.version, "version_label": options.version_label}
    # The bar replaces sys.stdout while it is shown.
    output = sys.stdout
    bar = messages.progress_bar()
    # On the same terminal the printed lines show the progress, and would break the bar.
    bar.disable = bar.disable or output.isatty()
    with PredictionClient(
        options.address, options.model_name, options.timeout, tls=_tls(options)
    ) as client:
        try:
            signatures = client.metadata(**version)
        except grpc.RpcError as error:
            if error.code() not in (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNAVAILABLE,
            ):
                raise
            raise ValueError(
                f"A server must answer at {options.address} within "
                f"{options.timeout:g} seconds. Received: no answer "
                f"({messages.error_message(error)}). Start the server, or correct "
                "--address"
            ) from error
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
    from bn_keras.cli.user_files import read_encoded, read_inputs

    if signature is None:
        signature = _DEFAULT_SIGNATURE
        if file.suffix not in _ARRAY_SUFFIXES:
            # The server preprocesses images as they were in training, if it can.
            image_signatures = ("predict_encoded", "predict_uint8", _DEFAULT_SIGNATURE)
            signature = next(name for name in image_signatures if name in signatures)
    specs = signatures[signature]["inputs"]
    if file.suffix not in _ARRAY_SUFFIXES and (
        [dtype for dtype, _ in specs.values()] == [object]
    ):
        return signature, [read_encoded(file, _channels(signatures))]
    return signature, read_inputs(file, specs)


def _channels(signatures: Mapping[str, Any]) -> int:
    """Return the number of channels of the model's images."""
    shapes = [
        shape
        for signature in signatures.values()
        for _, shape in signature["inputs"].values()
        if shape is not None and len(shape) == 4
    ]
    return shapes[0][-1] if shapes and shapes[0][-1] == 1 else 3


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
