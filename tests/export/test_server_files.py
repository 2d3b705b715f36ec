"""Configuration files, warm-up requests and the manifest can be parsed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_checks import LoadedExport, image_model
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from bn_keras import export_saved_model
from bn_keras.export import read_manifest, write_server_files
from bn_keras_serving.configuration.text_messages import new_message

NAME = 'gr"öße'  # A quotation mark and letters that are not ASCII must be quoted.


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a model of images and the path of its export."""
    model = image_model()
    directory = tmp_path_factory.mktemp("models") / NAME
    return model, export_saved_model(model, directory)


def test_an_export_writes_the_configuration_of_a_server(exported):
    path = exported[1]
    directory = path.parent
    config = text_format.Parse(
        (directory / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (served,) = config.model_config_list.config
    assert (served.name, served.base_path) == (NAME, str(directory))
    assert served.model_platform == "tensorflow"
    assert served.model_version_policy.latest.num_versions == 1
    batching = text_format.Parse(
        (directory / "batching_parameters.txt").read_text(),
        new_message("BatchingParameters"),
    )
    # With one batch size an output does not depend on which requests share the batch.
    assert list(batching.allowed_batch_sizes) == [batching.max_batch_size.value] == [8]
    assert batching.num_batch_threads.value >= 1
    monitoring = text_format.Parse(
        (directory / "monitoring.config").read_text(), new_message("MonitoringConfig")
    )
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    assert not (directory / "ssl.config").exists()
    assert path.name == "1"


def test_an_export_does_not_overwrite_the_configuration(tmp_path):
    (tmp_path / "models.config").write_text("# mine\n")
    export_saved_model(image_model(), tmp_path)
    assert (tmp_path / "models.config").read_text() == "# mine\n"
    write_server_files(tmp_path, base_path="/models/m", name="m", batch_size=32)
    assert 'base_path: "/models/m"' in (tmp_path / "models.config").read_text()
    text = (tmp_path / "batching_parameters.txt").read_text()
    assert "allowed_batch_sizes: 32" in text


@pytest.mark.fast
def test_keys_and_certificates_are_written_and_private(tmp_path):
    pem = '-----BEGIN KEY-----\n+/=\\"\n-----END KEY-----\n'
    written = write_server_files(
        tmp_path, server_key=pem, server_cert="c\n", custom_ca="a\n", client_verify=True
    )
    assert tmp_path / "ssl.config" in written
    text = (tmp_path / "ssl.config").read_text()
    ssl = text_format.Parse(text, new_message("SSLConfig"))
    assert (ssl.server_key, ssl.server_cert, ssl.custom_ca) == (pem, "c\n", "a\n")
    assert ssl.client_verify
    assert (tmp_path / "ssl.config").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_path": "models/m"}, r"absolute path\. Received: base_path='models/m'"),
        ({"batch_size": 0}, r"at least 1\. Received: batch_size=0"),
        ({"server_key": "k"}, r"passed together.*Received: only server_key"),
        ({"server_cert": "c"}, r"passed together.*Received: only server_cert"),
    ],
)
@pytest.mark.fast
def test_configuration_that_a_server_would_reject_is_rejected(
    tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        write_server_files(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def records(path):
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(file))
    ]


def test_every_signature_has_a_warm_up_request_that_succeeds(exported):
    path = exported[1]
    loaded, signatures = LoadedExport(path), set()
    for log in records(path):
        request = getattr(log, log.WhichOneof("log_type")).request
        signature = request.model_spec.signature_name
        if signature == "classify":
            examples = request.input.example_list.examples
            serialized = [example.SerializeToString() for example in examples]
            inputs = {"inputs": np.array(serialized, object)}
        else:
            inputs = {name: tf.make_ndarray(x) for name, x in request.inputs.items()}
        assert all(len(array) == 1 for array in inputs.values())
        assert len(loaded(signature, **inputs)["scores"]) == 1
        assert request.model_spec.name == NAME
        signatures.add(signature)
    assert signatures == set(loaded.signatures)


def test_a_warm_up_request_has_all_inputs(tmp_path):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b", dtype="int32")
    model = keras.Model(
        [a, b], keras.layers.Concatenate()([a, keras.ops.cast(b, "float32")])
    )
    (log,) = records(export_saved_model(model, tmp_path / "m"))
    request = log.predict_log.request
    arrays = {name: tf.make_ndarray(x) for name, x in request.inputs.items()}
    assert {name: (x.shape, x.dtype) for name, x in arrays.items()} == {
        "a": ((1, 2), np.float32),
        "b": ((1, 3), np.int32),
    }


def test_the_manifest_describes_the_export_and_its_origin(exported):
    model, path = exported
    manifest = read_manifest(path)
    assert manifest["inputs"] == {
        "image": {"shape": [None, 6, 6, 3], "dtype": "float32"}
    }
    assert manifest["outputs"] == {"scores": {"shape": [None, 3], "dtype": "float32"}}
    assert manifest["signatures"]["classify"] == {
        "method": "tensorflow/serving/classify",
        "inputs": {"inputs": {"shape": [None], "dtype": "string"}},
        "outputs": {
            "classes": {"shape": [None, 3], "dtype": "string"},
            "scores": {"shape": [None, 3], "dtype": "float32"},
        },
    }
    (entry,) = manifest["folding"]
    assert (entry["outcome"], entry["into"]) == (
        "folded",
        [model.layers[0].name],
    )
    assert manifest["libraries"]["tensorflow"] == tf.__version__
    assert len(manifest["weights"]["sha256"]) == 64
    # 4 x (3 x 3 x 3 + 1) and 3 x (4 x 4 x 4 + 1) floats, and a few other constants.
    assert 4 * (112 + 195) <= manifest["weights"]["bytes"] < 4 * (112 + 195) + 400
