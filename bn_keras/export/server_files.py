"""Files beside the graph: server configuration, warm-up requests and the manifest."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from bn_keras.atomic_files import atomic_write
from bn_keras.export.contract import Contract
from bn_keras.export.samples import (
    draw_image_files,
    draw_pixels,
    encode_examples,
)

WARM_UP = "tf_serving_warmup_requests"
MANIFEST = "manifest.json"


def write_server_files(
    directory: str | PathLike[str],
    *,
    name: str | None = None,
    base_path: str | PathLike[str] | None = None,
    batch_size: int = 8,
    batch_timeout_micros: int = 2000,
    threads: int | None = None,
    metrics_path: str = "/monitoring/prometheus/metrics",
    server_key: str | None = None,
    server_cert: str | None = None,
    custom_ca: str | None = None,
    client_verify: bool = False,
    overwrite: bool = True,
) -> list[Path]:
    """Write the configuration files of TensorFlow Serving into a folder of versions.

    | File | Flags of the server |
    |---|---|
    | `models.config` | `--model_config_file` |
    | `batching_parameters.txt` | `--enable_batching --batching_parameters_file` |
    | `monitoring.config` | `--monitoring_config_file` |
    | `ssl.config`, if there is a key | `--ssl_config_file` |

    There is a single allowed batch size, so that an output does not depend on which
    requests share a batch. Only its owner can read `ssl.config`.

    Args:
        directory: An existing folder of versions. TensorFlow Serving ignores the files
            in it.
        name: Name of the model; None for the name of the folder.
        base_path: Absolute path of the folder on the machine of the server; None for
            its path on this machine.
        batch_size: Number of examples in every execution.
        batch_timeout_micros: Longest time to wait for a batch to fill, in microseconds.
        threads: Number of batches to run at the same time; None for the number of
            processors of this machine.
        metrics_path: Path of the Prometheus metrics on the REST port.
        server_key: The private key as PEM text; None for no TLS.
        server_cert: The certificate as PEM text; required with `server_key`.
        custom_ca: The authority that signs the certificates of clients, as PEM text.
        client_verify: Whether clients must present a certificate.
        overwrite: Whether to replace files that exist.

    Returns:
        The paths that were written.

    Raises:
        ValueError: If `base_path` is relative, `batch_size` is below 1, there is only
            one of `server_key` and `server_cert`, `client_verify` is set without
            `custom_ca`, or `custom_ca` without `server_key`.
        OSError: If the directory cannot be written.

    Example:
    ```python
    import pathlib, tempfile
    from bn_keras.export import write_server_files

    with tempfile.TemporaryDirectory() as folder:
        write_server_files(folder, name="digits", base_path="/models/digits")
        text = (pathlib.Path(folder) / "models.config").read_text()
    assert 'base_path: "/models/digits"' in text
    ```
    """
    directory = Path(directory)
    name = name or directory.resolve().name
    base_path = str(base_path or directory.resolve())
    if not Path(base_path).is_absolute():
        raise ValueError(
            f"`base_path` must be an absolute path. Received: base_path={base_path!r}"
        )
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: batch_size={batch_size!r}"
        )
    if bool(server_key) != bool(server_cert):
        raise ValueError(
            "`server_key` and `server_cert` must be passed together, or neither. "
            f"Received: only {'server_key' if server_key else 'server_cert'}"
        )
    if (client_verify and not custom_ca) or (custom_ca and not server_key):
        raise ValueError(
            "`client_verify` requires `custom_ca`, and both require `server_key` and "
            f"`server_cert`. Received: client_verify={client_verify}, custom_ca "
            f"{'set' if custom_ca else 'missing'}, server_key "
            f"{'set' if server_key else 'missing'}"
        )
    threads = threads or os.cpu_count() or 1
    texts = {
        "models.config": f"""\
model_config_list {{
  config {{
    name: {_quote(name)}
    base_path: {_quote(base_path)}
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
""",
        "batching_parameters.txt": f"""\
max_batch_size {{ value: {batch_size} }}
allowed_batch_sizes: {batch_size}
batch_timeout_micros {{ value: {batch_timeout_micros} }}
max_enqueued_batches {{ value: {64 * threads} }}
num_batch_threads {{ value: {threads} }}
""",
        "monitoring.config": f"""\
prometheus_config {{
  enable: true
  path: {_quote(metrics_path)}
}}
""",
    }
    if server_key:
        texts["ssl.config"] = (
            f"server_key: {_quote(server_key)}\nserver_cert: {_quote(server_cert)}\n"
            + (f"custom_ca: {_quote(custom_ca)}\n" if custom_ca else "")
            + f"client_verify: {json.dumps(bool(client_verify))}\n"
        )
    written = []
    try:
        for file, text in texts.items():
            path = directory / file
            if path.exists() and not overwrite:
                continue
            with atomic_write(path) as temporary_path:
                temporary_path.touch(0o600 if file == "ssl.config" else 0o666)
                temporary_path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError:
        if not overwrite:  # then these are new
            for path in written:
                path.unlink()
        raise
    return written


def write_warm_up(
    folder: str | PathLike[str],
    name: str,
    contract: Contract,
    signatures: Iterable[str],
    samples: Sequence[np.ndarray],
) -> None:
    """Write a warm-up request with one example for every signature.

    A server that has run them answers its first request as fast as the others.

    Args:
        folder: Folder of the SavedModel.
        name: Name of the model.
        contract: The contract of the export.
        signatures: Names of the signatures of the graph.
        samples: A flat list of inputs that the model was run on.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    extra = Path(folder) / "assets.extra"
    extra.mkdir(exist_ok=True)
    inputs_by_signature = warm_up_inputs(contract, signatures, samples)
    with tf.io.TFRecordWriter(str(extra / WARM_UP)) as file:
        for signature, inputs in inputs_by_signature.items():
            log = prediction_log_pb2.PredictionLog()
            if signature == "classify":
                request = log.classify_log.request
                (examples,) = inputs.values()
                for example in examples:
                    message = request.input.example_list.examples.add()
                    message.ParseFromString(example)
            else:
                request = log.predict_log.request
                for key, array in inputs.items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            file.write(log.SerializeToString(deterministic=True))


def warm_up_inputs(
    contract: Contract, signatures: Iterable[str], samples: Sequence[np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Return the inputs of each signature by name, with one example if possible."""
    inputs_by_signature = {}
    for signature in signatures:
        if signature == "serving_default":
            # Random strings may be no inputs of the model, but these are.
            arrays = [x[: contract.batch_size or 1] for x in samples]
            inputs = dict(zip(contract.inputs, arrays, strict=True))
        elif signature == "classify":
            inputs = {"inputs": encode_examples(draw_image_files(contract, 1))}
        else:
            (name,) = contract.inputs
            is_encoded = signature == "predict_encoded"
            draw = draw_image_files if is_encoded else draw_pixels
            inputs = {name: draw(contract, 1)}
        inputs_by_signature[signature] = inputs
    return inputs_by_signature


def write_manifest(folder: str | PathLike[str], facts: Mapping[str, Any]) -> None:
    """Write `assets.extra/manifest.json`.

    Args:
        folder: Folder of the SavedModel.
        facts: The content, which must be serializable as JSON.
    """
    extra = Path(folder) / "assets.extra"
    extra.mkdir(exist_ok=True)
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (extra / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(path: str | PathLike[str]) -> dict[str, Any]:
    """Return the manifest of an exported version.

    It holds the names, shapes and dtypes of inputs, outputs and signatures, the
    preprocessing, the labels, what became of each batch normalization, a checksum of
    the weights, the versions of the libraries, and how well the export agreed with the
    model.

    Args:
        path: Folder of the version, as `export_saved_model` returns it.

    Raises:
        OSError: If there is no manifest.
    """
    text = (Path(path) / "assets.extra" / MANIFEST).read_text(encoding="utf-8")
    return json.loads(text)


def _quote(text: str | None) -> str:
    # Text protobufs quote strings as JSON does.
    return json.dumps(text, ensure_ascii=False)
