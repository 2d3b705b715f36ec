"""What a server and an operator find beside the graph.

Knows the formats of TensorFlow Serving's configuration, warm-up records and of the
manifest; no graph and no version numbers.
"""

import hashlib
import json
import os
from pathlib import Path

from bn_keras.atomic_files import atomic_write
from bn_keras.export.samples import (
    draw_samples,
    examples_of,
    picture_samples,
    pixel_samples,
)

WARM_UP = "tf_serving_warmup_requests"
MANIFEST = "manifest.json"


def write_server_files(
    directory,
    *,
    name=None,
    base_path=None,
    batch_size=8,
    batch_timeout_micros=2000,
    threads=None,
    metrics_path="/monitoring/prometheus/metrics",
    server_key=None,
    server_cert=None,
    custom_ca=None,
    client_verify=False,
    overwrite=True,
):
    """Write the configuration of a TensorFlow Serving process beside the versions.

    `models.config` (`--model_config_file`), `batching_parameters.txt`
    (`--enable_batching --batching_parameters_file`) with one allowed batch size, which
    makes an answer independent of who shares the batch, `monitoring.config`
    (`--monitoring_config_file`) and, with a key, `ssl.config` (`--ssl_config_file`,
    readable by its owner only).

    Args:
        directory: an existing folder of versions; TensorFlow Serving ignores files in
            it.
        name: of the model; None for the folder's name.
        base_path: absolute path of the folder where the server runs; None for here.
        batch_size: examples an execution has, always.
        batch_timeout_micros: longest wait for a batch to fill, in microseconds.
        threads: batches run at a time; None for the number of processors here.
        metrics_path: HTTP path, on the REST port, of the metrics for Prometheus.
        server_key: PEM text of the private key, None for no TLS.
        server_cert: PEM text of the certificate, with `server_key`.
        custom_ca: PEM text of the authority that signs clients' certificates.
        client_verify: whether a client must show a certificate.
        overwrite: whether files that are there are replaced.

    Returns:
        The list of paths written.

    Raises:
        ValueError: for a relative base path, a batch size below 1, or a key without a
            certificate.
        OSError: where the directory cannot be written.

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
            f"`batch_size` must be 1 or more. Received: batch_size={batch_size!r}"
        )
    if bool(server_key) != bool(server_cert):
        raise ValueError(
            "`server_key` and `server_cert` belong together: give both PEM texts or "
            f"none. Received: only {'server_key' if server_key else 'server_cert'}"
        )
    if (client_verify and not custom_ca) or (custom_ca and not server_key):
        raise ValueError(
            "`client_verify` needs `custom_ca`, and both need `server_key` and "
            f"`server_cert`. Received: client_verify={client_verify}, custom_ca "
            f"{'given' if custom_ca else 'missing'}, server_key "
            f"{'given' if server_key else 'missing'}"
        )
    threads = threads or os.cpu_count() or 1
    texts = {
        "models.config": f"""\
model_config_list {{
  config {{
    name: {_quoted(name)}
    base_path: {_quoted(base_path)}
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
  path: {_quoted(metrics_path)}
}}
""",
    }
    if server_key:
        texts["ssl.config"] = (
            f"server_key: {_quoted(server_key)}\nserver_cert: {_quoted(server_cert)}\n"
            + (f"custom_ca: {_quoted(custom_ca)}\n" if custom_ca else "")
            + f"client_verify: {json.dumps(bool(client_verify))}\n"
        )
    written = []
    for file, text in texts.items():
        path = directory / file
        if path.exists() and not overwrite:
            continue
        with atomic_write(path) as temporary_path:
            temporary_path.touch(0o600 if file == "ssl.config" else 0o666)
            temporary_path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def write_warm_up(folder, name, contract, signatures):
    """Write one record of one example for every signature into `assets.extra`.

    A server that has run them answers its first request as fast as the others.

    Args:
        folder: of the SavedModel.
        name: of the model.
        contract: a `Contract`.
        signatures: names of those that the graph has.

    Raises:
        OSError: where the file cannot be written.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    extra = Path(folder) / "assets.extra"
    extra.mkdir(exist_ok=True)
    arrays = warm_up_inputs(contract, signatures)
    try:
        with tf.io.TFRecordWriter(str(extra / WARM_UP)) as file:
            for signature, inputs in arrays.items():
                log = prediction_log_pb2.PredictionLog()
                if signature == "classify":
                    request = log.classify_log.request
                    (examples,) = inputs.values()
                    for one in examples:
                        request.input.example_list.examples.add().ParseFromString(one)
                else:
                    request = log.predict_log.request
                    for key, array in inputs.items():
                        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                file.write(log.SerializeToString(deterministic=True))
    except tf.errors.OpError as error:
        reason = " ".join(error.message.split())
        raise OSError(f"Cannot write {extra / WARM_UP}: {reason}") from None


def warm_up_inputs(contract, signatures):
    """Dict from signature to dict from input to an array of one example."""
    found = {}
    for signature in signatures:
        if signature == "serving_default":
            arrays = draw_samples(contract, 1)
            found[signature] = dict(zip(contract.inputs, arrays, strict=True))
            continue
        (name,) = contract.inputs
        if signature == "predict_uint8":
            found[signature] = {name: pixel_samples(contract, 1)}
        elif signature == "predict_encoded":
            found[signature] = {name: picture_samples(contract, 1)}
        else:
            found[signature] = {"inputs": examples_of(picture_samples(contract, 1))}
    return found


def write_manifest(folder, facts):
    """Write `assets.extra/manifest.json`.

    Args:
        folder: of the SavedModel.
        facts: a dict that JSON can hold.
    """
    extra = Path(folder) / "assets.extra"
    extra.mkdir(exist_ok=True)
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (extra / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(path):
    """The manifest of an exported version, a dict.

    Args:
        path: folder of the version.
    """
    text = (Path(path) / "assets.extra" / MANIFEST).read_text(encoding="utf-8")
    return json.loads(text)


def checksum(graph_def):
    """SHA-256 and size in bytes of a graph's constants, whatever they are called.

    Args:
        graph_def: a `GraphDef` that holds constants only.

    Returns:
        Dict of `sha256` and `bytes`.
    """
    import tensorflow as tf

    digest, size = hashlib.sha256(), 0
    for node in graph_def.node:
        if node.op == "Const" and node.name.startswith("weights/"):
            array = tf.make_ndarray(node.attr["value"].tensor)
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(array.tobytes())
            size += array.nbytes
    return {"sha256": digest.hexdigest(), "bytes": size}


def _quoted(text):
    # Text protos quote as JSON does.
    return json.dumps(text, ensure_ascii=False)
