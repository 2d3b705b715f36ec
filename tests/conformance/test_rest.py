"""REST: paths, documents and the HTTP status of each rpc_error."""

import base64
import json
from concurrent import futures

import numpy as np
import pytest

ROWS = [[1.0, 2.5, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
DOUBLED = [[2.0, 5.0, 6.0, 8.0], [10.0, 12.0, 14.0, 16.0]]


def test_rows_are_answered_by_row(rest):
    status, answer = rest.post("/v1/models/multiply:predict", {"instances": ROWS})
    assert status == 200
    assert answer == {
        "predictions": [
            {"total": sum(row), "y": doubled}
            for row, doubled in zip(ROWS, DOUBLED, strict=True)
        ]
    }


def test_columns_are_answered_by_column(rest):
    status, answer = rest.post("/v1/models/multiply:predict", {"inputs": {"x": ROWS}})
    assert status == 200
    assert answer == {"outputs": {"total": [sum(row) for row in ROWS], "y": DOUBLED}}


def test_a_single_input_or_output_needs_no_name(rest):
    document = {"instances": [1, 2]}
    answer = rest.post("/v1/models/all:predict", document)
    assert answer == (200, {"predictions": [125.0, 250.0]})
    answer = rest.post("/v1/models/all:predict", {"inputs": [1, 2]})
    assert answer == (200, {"outputs": [125.0, 250.0]})


@pytest.mark.parametrize(
    ("part", "factor"),
    [("", 125), ("/versions/123", 123), ("/labels/stable", 123)],
)
def test_the_path_may_contain_a_version_or_label(rest, part, factor):
    path = f"/v1/models/all{part}:predict"
    document = {"signature_name": "serving_default", "instances": [1.0]}
    assert rest.post(path, document) == (200, {"predictions": [float(factor)]})


def test_a_signature_with_several_inputs_can_be_chosen(rest):
    document = {
        "signature_name": "pair",
        "instances": [{"a": row, "b": row} for row in ROWS],
    }
    status, answer = rest.post("/v1/models/multiply:predict", document)
    assert (status, answer) == (200, {"predictions": DOUBLED})


def test_bytes_are_in_base64_in_both_directions(rest):
    picture = bytes(range(256))
    encoded = {"b64": base64.b64encode(picture).decode()}
    document = {
        "signature_name": "picture",
        "instances": [{"picture_bytes": encoded, "size": 4}],
    }
    status, answer = rest.post("/v1/models/all:predict", document)
    assert status == 200
    assert answer == {"predictions": [{"length": 260, "picture_bytes": encoded}]}


def test_nan_and_infinity_pass_in_both_directions(rest):
    body = b'{"instances": [[NaN, Infinity, -Infinity, 1.1]]}'
    status, answer, _ = rest.request("POST", "/v1/models/multiply:predict", body)
    assert status == 200
    (row,) = json.loads(answer)["predictions"]
    np.testing.assert_array_equal(row["y"][:3], [np.nan, np.inf, -np.inf])
    assert np.float32(row["y"][3]) == np.float32(1.1) * 2


def test_classify_and_regress_accept_examples(rest):
    examples = [{"x": [1.0, 2.0]}, {"x": [3.5, 4.0]}]
    assert rest.post("/v1/models/judge:classify", {"examples": examples}) == (
        200,
        {"results": [[["low", 1.0], ["high", 2.0]], [["low", 3.5], ["high", 4.0]]]},
    )
    document = {"signature_name": "sum", "examples": examples}
    path = "/v1/models/judge/versions/7:regress"
    assert rest.post(path, document) == (200, {"results": [3.0, 7.5]})
    document = {
        "signature_name": "sum",
        "context": {"x": [1.0, 1.0]},
        "examples": [{}, {"x": [2.0, 2.0]}],
    }
    answer = rest.post("/v1/models/judge:regress", document)
    assert answer == (200, {"results": [2.0, 4.0]})


def test_status_is_available(rest):
    version = {
        "version": "2",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    expected = (200, {"model_version_status": [version]})
    assert rest.get("/v1/models/multiply") == expected
    assert rest.get("/v1/models/multiply/versions/2") == expected
    _, several = rest.get("/v1/models/all")
    versions = [status["version"] for status in several["model_version_status"]]
    assert versions == ["125", "124", "123"]


@pytest.mark.parametrize("part", ["", "/versions/2"])
def test_metadata_is_available(rest, part):
    status, answer = rest.get(f"/v1/models/multiply{part}/metadata")
    assert status == 200
    spec = answer["model_spec"]
    assert (spec["name"], spec["version"]) == ("multiply", "2")
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "4", "name": ""}],
            "unknown_rank": False,
        },
        "name": "serving_default_x:0",
    }


@pytest.mark.parametrize(
    ("path", "document", "status", "error"),
    [
        (
            "/v1/models/multiply:predict",
            {"instances": ROWS, "inputs": ROWS},
            400,
            "Not formatted correctly",
        ),
        ("/v1/models/multiply:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        (
            "/v1/models/multiply:predict",
            {"instances": [[1, 2, 3, "four"]]},
            400,
            'JSON Value: "four"',
        ),
        (
            "/v1/models/multiply:predict",
            {"signature_name": "nope", "instances": ROWS},
            400,
            'Serving signature name: "nope" not found in signature def',
        ),
        (
            "/v1/models/other:predict",
            {"instances": ROWS},
            404,
            "Servable not found for request: Latest(other)",
        ),
        (
            "/v1/models/all/versions/7:predict",
            {"instances": [1.0]},
            404,
            "Servable not found for request: Specific(all, 7)",
        ),
        (
            "/v1/models/all/labels/best:predict",
            {"instances": [1.0]},
            400,
            "Unrecognized servable version label: best",
        ),
        ("/v1/models/multiply:dream", {}, 400, "Malformed request: POST"),
        ("/v1/models/judge:classify", {"examples": []}, 400, ""),
    ],
    ids=range(9),
)
def test_an_error_is_a_document_with_its_status(rest, path, document, status, error):
    received, answer = rest.post(path, document)
    assert (received, list(answer)) == (status, ["error"])
    assert error in answer["error"]


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v1/models/other", 404, "Could not find any versions of model other"),
        ("/v1/models/all/versions/7", 404, "Could not find version 7 of model all"),
        ("/v1/models/other/metadata", 404, "Latest(other)"),
        ("/v1/models", 400, "Missing model name in request."),
    ],
)
def test_unknown_models_and_versions_are_not_found(rest, path, status, error):
    received, answer = rest.get(path)
    assert received == status
    assert error in answer["error"]


def test_a_failed_precondition_is_400(rest):
    status, answer, _ = rest.request("OPTIONS", "/v1/models/multiply:predict", b"")
    assert status == 400
    assert "CORS preflight" in json.loads(answer)["error"]


def test_a_full_queue_is_503(batching):
    if batching.rest is None:
        pytest.skip("TFS_BATCHING_REST_ENDPOINT is not set")
    document = {"signature_name": "slow", "instances": [500_000] * 4}
    with futures.ThreadPoolExecutor(6) as pool:
        path = "/v1/models/all:predict"
        answers = pool.map(lambda _: batching.post(path, document), range(6))
        statuses = {status for status, _ in answers}
    assert statuses == {200, 503}
