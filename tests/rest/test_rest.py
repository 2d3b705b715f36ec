"""The REST interface that TensorFlow Serving's `g3doc/api_rest.md` describes."""

import base64
import json

import grpc
import pytest
import tensorflow as tf
from dispatcher_double import METRICS, DispatcherDouble, RunningRestServer, signature

from bn_keras_serving.dispatch.error_mapping import StatusError

pytestmark = pytest.mark.fast


@pytest.fixture
def served():
    with RunningRestServer() as server:
        yield server


def test_rows_are_answered_by_row_and_columns_by_column(served):
    rows = [[1.0, 2.5], [3.0, 4.0]]
    doubled = [[2.0, 5.0], [6.0, 8.0]]
    path = "/v1/models/m:predict"
    assert served.send(path, {"instances": rows}) == (200, {"predictions": doubled})
    assert served.send(path, {"inputs": rows}) == (200, {"outputs": doubled})
    assert served.send(path, {"inputs": {"x": rows}}) == (200, {"outputs": doubled})


def test_a_signature_with_several_outputs_returns_objects(served):
    document = {
        "signature_name": "pair",
        "instances": [{"a": [1, 2], "b": [3, 4]}, {"a": [5, 6], "b": [7, 8]}],
    }
    assert served.send("/v1/models/m:predict", document) == (
        200,
        {
            "predictions": [
                {"sum": [4.0, 6.0], "difference": [-2.0, -2.0]},
                {"sum": [12.0, 14.0], "difference": [-2.0, -2.0]},
            ]
        },
    )


def test_classify_and_regress_return_results(served):
    document = {"examples": [{"x": 1.0}, {"x": 2.0}]}
    assert served.send("/v1/models/m:classify", document) == (
        200,
        {"results": [[["cat", 1.0]], [["cat", 2.0]]]},
    )
    assert served.send("/v1/models/m:regress", document) == (
        200,
        {"results": [2.5, 3.0]},
    )


@pytest.mark.parametrize(
    ("path", "name", "version", "label"),
    [
        ("/v1/models/m", "m", None, None),
        ("/v1/models/m/versions/0123", "m", 123, None),
        ("/v1/models/m/labels/stable", "m", None, "stable"),
        ("/V1/Models/m/VERSIONS/7", "m", 7, None),
        ("/v1/models/a%2Fb%20c", "a/b c", None, None),
        ("/v1/models/m/labels/%E6%95%B0", "m", None, "数"),
    ],
)
@pytest.mark.parametrize("verb", ["", "/metadata", ":predict", ":CLASSIFY"])
def test_the_path_contains_model_version_and_label(path, name, version, label, verb):
    with RunningRestServer(DispatcherDouble(names=(name,))) as served:
        if verb.startswith(":"):
            document = {"instances": [[1, 2]], "examples": [{"x": 1.0}]}
            assert served.send(path + verb, document)[0] == 200
        else:
            assert served.send(path + verb)[0] == 200
        api, request = served.dispatcher.requests[-1]
        spec = request.model_spec
        assert (
            api
            == {
                "": "GetModelStatus",
                "/metadata": "GetModelMetadata",
                ":predict": "Predict",
                ":CLASSIFY": "Classify",
            }[verb]
        )
        assert spec.name == name
        assert (spec.version.value if spec.HasField("version") else None) == version
        assert (spec.version_label if spec.HasField("version_label") else None) == label


def test_status_and_metadata_are_the_protocol_buffers_as_json(served):
    assert served.send("/v1/models/m") == (
        200,
        {
            "model_version_status": [
                {
                    "version": "2",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        },
    )
    status, metadata = served.send("/v1/models/m/metadata")
    assert status == 200
    assert metadata["model_spec"] == {"name": "m", "signature_name": "", "version": "2"}
    definition = metadata["metadata"]["signature_def"]["signature_def"][
        "serving_default"
    ]
    assert definition["inputs"]["x"] == {
        "name": "x:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
            "unknown_rank": False,
        },
    }
    assert definition["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/v1/foo", "Malformed request: GET /v1/foo"),
        ("POST", "/v1/foo", "Malformed request: POST /v1/foo"),
        ("GET", "/v1/models", "Missing model name in request."),
        ("GET", "/v1/models/a/b", "Malformed request: GET /v1/models/a/b"),
        ("POST", "/v1/models", "Malformed request: POST /v1/models"),
        ("GET", "/v1/models/m:predict", "Malformed request: GET /v1/models/m:predict"),
        ("POST", "/v1/models/m/metadata", "Malformed request: POST"),
        ("POST", "/v1/models/m/version/5:regress", "Malformed request: POST"),
        ("POST", "/v1/models/m/versions/X:regress", "Malformed request: POST"),
        ("POST", "/v1/models/m:explain", "Malformed request: POST"),
        ("PUT", "/v1/models/m", "Malformed request: PUT /v1/models/m"),
        ("DELETE", "/v1/models/m", "Malformed request: DELETE /v1/models/m"),
        (
            "GET",
            f"/v1/models/m/versions/{2**63}",
            f"Failed to convert version: {2**63} to numeric.",
        ),
        ("GET", "/v1/models/m/versions/" + "9" * 5000, "Failed to convert version"),
        ("GET", "/v1/models/%FF", "Failed to decode model name:%FF"),
        (
            "OPTIONS",
            "/v1/models/m:predict",
            "Origin header is missing in CORS preflight",
        ),
    ],
)
def test_an_unknown_route_is_rejected_as_in_tensorflow_serving(
    served, method, path, message
):
    status, body, headers = served.request(method, path, b"{}")
    assert status == 400
    assert json.loads(body)["error"].startswith(message)
    assert headers["Content-Type"] == "application/json"
    assert served.dispatcher.requests == []
    assert served.request_counts() == {"": {next(iter(served.request_counts()[""])): 1}}


def test_other_paths_are_not_found(served):
    for path in ("/v2/models", "/index", "/../etc/passwd", "//x", "/v1"):
        assert served.request("GET", path)[0] == 404
    assert served.request("POST", "/")[0] == 405
    assert served.request("POST", METRICS)[0] == 405


def test_a_preflight_without_cors_gets_an_empty_response(served):
    status, body, headers = served.request(
        "OPTIONS", "/v1/models/m:predict", Origin="https://example.org"
    )
    assert (status, body) == (200, b"")
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"instances = [1, 2]", "JSON Parse error: Expecting value at offset: 0"),
        (b'{"instances": [1,', "JSON Parse error: Expecting value at offset: 17"),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b"\xff\xfe", "JSON Parse error: Invalid UTF-8 at offset: 0"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b"[" * 1_000_000, "JSON Parse error: Lists or objects are nested too deep"),
        (b'{"a":' * 200_000, "JSON Parse error: Lists or objects are nested too deep"),
        (b'{"signature_name": 100}', "'signature_name' key must be a string value."),
        (
            b'{"signature_name": "no", "instances": [1]}',
            'Serving signature name: "no" not found in signature def',
        ),
        (
            b'{"signature_name": "__saved_model_init_op", "instances": [1]}',
            "Failed to get input map for signature: __saved_model_init_op",
        ),
    ],
    ids=range(11),
)
def test_a_malformed_body_is_400(served, body, message):
    status, answer, _ = served.request("POST", "/v1/models/m:predict", body)
    assert status == 400
    assert message in json.loads(answer)["error"]
    assert served.request_counts() == {"m": {"INVALID_ARGUMENT": 1}}


CODES = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


@pytest.mark.parametrize("code", [*grpc.StatusCode][1:], ids=lambda code: code.name)
def test_every_status_code_has_its_http_status(served, code):
    served.dispatcher.error = StatusError(code, 'it "failed"\n')
    assert served.send("/v1/models/m:predict", {"instances": [[1, 2]]}) == (
        CODES[code.name],
        {"error": 'it "failed"\n'},
    )
    assert served.request_counts() == {"m": {code.name: 1}}


def test_an_unexpected_error_is_500_and_reveals_nothing(served, caplog):
    served.dispatcher.error = RuntimeError("/srv/secret")
    status, answer = served.send("/v1/models/m:predict", {"instances": [[1, 2]]})
    assert status == 500
    assert "secret" not in answer["error"]
    assert "secret" in caplog.text


def test_an_unknown_model_is_404_and_adds_no_metric(served):
    assert served.send("/v1/models/half:predict", {"instances": [1.0]}) == (
        404,
        {"error": "Servable not found for request: Latest(half)"},
    )
    assert served.send("/v1/models/half")[0] == 404
    assert served.request_counts() == {"": {"NOT_FOUND": 2}}


def test_requests_are_counted_with_the_labels_of_tensorflow_serving(served):
    served.send("/v1/models/m:predict", {"instances": [[1, 2]]})
    served.send("/v1/models/m:Classify", {"examples": [{"x": 1.0}]})
    served.send("/v1/models/m")
    served.send("/v1/models/m:predict", {"instances": "1"})
    status, body, headers = served.request("GET", METRICS)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    lines = body.decode().splitlines()
    count = ":tensorflow:serving:request_count"
    assert f'{count}{{model_name="m",status="OK"}} 3' in lines
    assert f'{count}{{model_name="m",status="INVALID_ARGUMENT"}} 1' in lines
    for api in ("predict", "classify", ""):
        assert (
            ":tensorflow:serving:request_latency_count"
            f'{{model_name="m",API="{api}",entrypoint="REST"}} 1'
        ) in lines


def test_metrics_can_be_disabled():
    with RunningRestServer(metrics_path=None) as served:
        assert served.request("GET", METRICS)[0] == 404


def test_images_and_byte_outputs_are_in_base64(served):
    picture = bytes(range(256))
    served.dispatcher.signatures = {
        "serving_default": signature(
            {"image": (tf.string, [None])}, {"image_bytes": (tf.string, [None])}
        )
    }
    served.dispatcher.functions[""] = lambda image: {"image_bytes": image}
    encoded = {"b64": base64.b64encode(picture).decode()}
    assert served.send("/v1/models/m:predict", {"instances": [encoded]}) == (
        200,
        {"predictions": [encoded]},
    )
    (_, request) = served.dispatcher.requests[-1]
    assert request.inputs["image"].tolist() == [picture]
