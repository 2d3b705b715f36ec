"""The requests in TensorFlow Serving's documents, with the answers given there."""

import json
import time

import numpy as np
import pytest
import tensorflow as tf
from serving_examples import example_of, input_of
from serving_models import predict_log, request_of
from tensorflow_serving.apis import classification_pb2

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration import read_batching, read_monitoring
from conformance.documented_models import (
    HALF_PLUS_THREE,
    HALF_PLUS_TWO,
    write_half_plus,
)
from conformance.endpoint import METRICS_PATH, Endpoint, embedded_only

INSTANCES = '{"instances": [1.0, 2.0, 5.0]}'


def post(rest, path, body):
    """Send text as `curl -d` does; return status and document."""
    status, answer, _ = rest.request("POST", path, body.encode())
    return status, json.loads(answer)


# docker.md


def test_docker_the_first_request_of_every_user(rest):
    path = f"/v1/models/{HALF_PLUS_TWO}:predict"
    assert post(rest, path, INSTANCES) == (200, {"predictions": [2.5, 3.0, 4.5]})


# api_rest.md


def test_api_rest_the_status_of_the_model(rest):
    status, body, headers = rest.request("GET", f"/v1/models/{HALF_PLUS_THREE}")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "model_version_status": [
            {
                "version": "123",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_api_rest_predict(rest):
    path = f"/v1/models/{HALF_PLUS_THREE}:predict"
    assert post(rest, path, INSTANCES) == (200, {"predictions": [3.5, 4.0, 5.5]})


@pytest.mark.parametrize("part", ["", "/versions/123"])
def test_api_rest_regress(rest, part):
    body = (
        '{"signature_name": "tensorflow/serving/regress", '
        '"examples": [{"x": 1.0}, {"x": 2.0}]}'
    )
    path = f"/v1/models/{HALF_PLUS_THREE}{part}:regress"
    assert post(rest, path, body) == (200, {"results": [3.5, 4.0]})


def test_api_rest_an_unknown_model(rest):
    body = b'{"instances": [1.0,5.0]}'
    status, answer, headers = rest.request("POST", "/v1/models/half:predict", body)
    assert (status, headers["Content-Type"]) == (404, "application/json")
    expected = {"error": "Servable not found for request: Latest(half)"}
    assert json.loads(answer) == expected


def test_api_rest_one_named_input_needs_no_name(rest):
    body = '{"signature_name": "words", "instances": ["foo", "bar", "baz"]}'
    answer = {"predictions": ["foo!", "bar!", "baz!"]}
    assert post(rest, "/v1/models/signals:predict", body) == (200, answer)
    body = '{"signature_name": "pairs", "instances": [[[1, 2]], [[3, 4]]]}'
    answer = {"predictions": [[[2, 4]], [[6, 8]]]}
    assert post(rest, "/v1/models/signals:predict", body) == (200, answer)


def test_api_rest_several_inputs_by_row_and_by_column(rest):
    # The document has a superfluous bracket after the second signal.
    body = """{
      "instances": [
        {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
        {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]}
      ]
    }"""
    rows = [{"tag": "foo", "sum": 25.0}, {"tag": "bar", "sum": 38.0}]
    assert post(rest, "/v1/models/signals:predict", body) == (
        200,
        {"predictions": rows},
    )
    body = """{
      "inputs": {
        "tag": ["foo", "bar"],
        "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
        "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]]
      }
    }"""
    columns = {"outputs": {"tag": ["foo", "bar"], "sum": [25.0, 38.0]}}
    assert post(rest, "/v1/models/signals:predict", body) == (200, columns)


def test_api_rest_a_request_has_rows_or_columns_but_not_both(rest):
    body = '{"instances": [1.0], "inputs": [1.0]}'
    status, answer = post(rest, f"/v1/models/{HALF_PLUS_TWO}:predict", body)
    assert (status, list(answer)) == (400, ["error"])


def test_api_rest_binary_values_are_in_base64(rest):
    body = """{
      "signature_name": "classify_objects",
      "examples": [
        {"image": { "b64": "aW1hZ2UgYnl0ZXM=" }, "caption": "seaside"},
        {"image": { "b64": "YXdlc29tZSBpbWFnZSBieXRlcw==" }, "caption": "mountains"}
      ]
    }"""
    # The model's scores are the lengths of the images.
    results = [[["seaside", 11.0]], [["mountains", 19.0]]]
    answer = (200, {"results": results})
    assert post(rest, "/v1/models/signals:classify", body) == answer
    body = """{
      "signature_name": "picture", "instances": [{"b64": "aW1hZ2UgYnl0ZXM="}]
    }"""
    answer = (200, {"predictions": [{"b64": "aW1hZ2UgYnl0ZXPDvw=="}]})
    assert post(rest, "/v1/models/signals:predict", body) == answer


def test_api_rest_a_number_is_rounded_to_the_type_of_the_input(rest):
    body = '{"instances": [1435774380]}'
    status, answer = post(rest, f"/v1/models/{HALF_PLUS_TWO}:predict", body)
    assert status == 200
    assert np.float32(answer["predictions"]) == np.float32(1435774336) / 2 + 2


def test_api_rest_numbers_may_be_infinite(rest):
    # The document spells one of them "Nan", which its own parser refuses.
    body = '{"instances": [1.0, -3.14, NaN, Infinity, -Infinity, 1e3]}'
    status, answer = post(rest, f"/v1/models/{HALF_PLUS_TWO}:predict", body)
    assert status == 200
    expected = [2.5, 0.43, np.nan, np.inf, -np.inf, 502.0]
    np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-6)


def test_api_rest_metadata_names_the_signatures(rest):
    status, answer = rest.get(f"/v1/models/{HALF_PLUS_TWO}/versions/123/metadata")
    assert status == 200
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    x = signatures["serving_default"]["inputs"]["x"]
    assert [dimension["size"] for dimension in x["tensor_shape"]["dim"]] == ["-1", "1"]
    method = "tensorflow/serving/regress"
    assert signatures["regress_x_to_y"]["method_name"] == method


# serving_basic.md


def test_serving_basic_the_client_of_the_digits(endpoint):
    image = np.zeros((1, 784), np.float32)
    image[0, 7] = 1.0
    request = request_of({"images": image}, "mnist", "predict_images")
    scores = endpoint.predictions.Predict(request, 5.0).outputs["scores"].float_val
    assert np.argmax(scores) == 7


def test_classify_over_grpc_as_in_the_test_of_tensorflow_serving(endpoint):
    request = classification_pb2.ClassificationRequest(input=input_of(example_of(2.0)))
    request.model_spec.name = HALF_PLUS_TWO
    request.model_spec.signature_name = "classify_x_to_y"
    response = endpoint.predictions.Classify(request, timeout=30)
    assert response.result.classifications[0].classes[0].score == 3.0


# serving_config.md

MODELS = """
model_config_list {{
  config {{
    name: 'my_first_model'
    base_path: '{path}'
    model_platform: 'tensorflow'
    model_version_policy {{
      specific {{
        versions: 42
        versions: 43
      }}
    }}
    version_labels {{
      key: 'stable'
      value: {stable}
    }}
    version_labels {{
      key: 'canary'
      value: 43
    }}
  }}
  config {{
    name: 'my_second_model'
    base_path: '{path}'
    model_platform: 'tensorflow'
  }}
}}
"""


@pytest.fixture
def configured(tmp_path):
    """A server with the configuration of `serving_config.md`, polled as a file."""
    models = tmp_path / "models"
    for version in (42, 43):
        write_half_plus(models, str(version), float(version))
    config = tmp_path / "models.config"
    config.write_text(MODELS.format(path=models, stable=42))
    with PredictionServer(
        config=config, port=0, rest_port=0, config_poll_seconds=0.05
    ) as server:
        endpoint = Endpoint(server.address, server.rest_address, tmp_path)
        yield endpoint
        endpoint.channel.close()


@embedded_only("the configuration differs from that of the suite")
def test_serving_config_labels_are_assigned_and_promoted(configured):
    def answer(part, name="my_first_model"):
        _, document = post(configured, f"/v1/models/{name}{part}:predict", INSTANCES)
        return document["predictions"][0] - 0.5

    parts = ("/versions/42", "/versions/43", "/labels/stable", "/labels/canary", "")
    assert [answer(part) for part in parts] == [42, 43, 42, 43, 43]
    assert answer("", "my_second_model") == 43
    promoted = MODELS.format(path=configured.disk / "models", stable=43)
    (configured.disk / "models.config").write_text(promoted)
    for _ in range(1000):
        if answer("/labels/stable") == 43:
            break
        time.sleep(0.01)
    assert [answer(part) for part in parts] == [42, 43, 43, 43, 43]


def test_serving_config_the_files_of_monitoring_and_batching_are_read(tmp_path):
    file = tmp_path / "file"
    file.write_text(
        'prometheus_config {\n  enable: true,\n  path: "/monitoring/prometheus/metrics"'
        "\n}\n"
    )
    monitoring = read_monitoring(file)
    assert (monitoring.enable, monitoring.path) == (True, METRICS_PATH)
    file.write_text(
        "max_batch_size { value: 128 }\nbatch_timeout_micros { value: 0 }\n"
        "max_enqueued_batches { value: 1000000 }\nnum_batch_threads { value: 8 }\n"
    )
    batching = read_batching(file)
    assert (batching.max_batch_size, batching.batch_timeout_micros) == (128, 0)
    assert (batching.max_enqueued_batches, batching.num_batch_threads) == (1000000, 8)


# saved_model_warmup.md


@embedded_only("it writes a model of its own")
def test_saved_model_warmup_records_are_run_as_tensorflow_serving_runs_them(tmp_path):
    write_half_plus(tmp_path, "1", 2.0)
    extra = tmp_path / "1" / "assets.extra"
    extra.mkdir()
    # A shape unlike the signature's, (None, 1), is no reason to refuse a version.
    record = predict_log(x=np.float32([1.0, 2.0, 5.0])).SerializeToString()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        file.write(record)
    with PredictionServer(tmp_path, "m", port=0, rest_port=0) as server:
        endpoint = Endpoint(server.address, server.rest_address)
        answer = {"predictions": [2.5, 3.0, 4.5]}
        assert post(endpoint, "/v1/models/m:predict", INSTANCES) == (200, answer)
        endpoint.channel.close()
