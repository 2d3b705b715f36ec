"""The log of requests."""

import json
import re
import urllib.error
import urllib.request

import grpc
import pytest
from served_process import wait_until
from serving_models import request_of, rpc_error, status_request
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    inference_pb2,
    model_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration.settings import RequestLog
from bn_keras_serving.dispatch.request_log import (
    RequestLogger,
    RequestRecord,
    trace_id,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def logged(doubling, tmp_path_factory):
    """A server, and a function that returns what it has logged since the last call."""
    path = tmp_path_factory.mktemp("logs") / "requests.jsonl"
    with PredictionServer(
        doubling, "multiply", port=0, rest_port=0, request_log=RequestLog(path)
    ) as server:
        start = 0

        def read(count):
            nonlocal start
            wait_until(lambda: path.read_text()[start:].count("\n") >= count)
            text = path.read_text()[start:]
            start += len(text)
            return [json.loads(line) for line in text.splitlines()]

        yield server, read


def test_a_call_is_logged_with_its_trace(logged):
    server, read = logged
    request = request_of()
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=20, metadata=[("traceparent", PARENT)])
        rpc_error(stub.Predict, request_of({}))
    call, failed = read(2)
    assert re.match(r"\d{4}-\d\d-\d\dT.*\+00:00$", call.pop("time"))
    assert 0 < call.pop("microseconds") < 20e6
    assert call.pop("peer").startswith("ipv4:127.0.0.1:")
    assert call == {
        "entrypoint": "GRPC",
        "api": "Predict",
        "model": "multiply",
        "version": 2,
        "signature": "serving_default",
        "status": "OK",
        "request_bytes": request.ByteSize(),
        "response_bytes": response.ByteSize(),
        "trace_id": TRACE,
    }
    assert (failed["status"], failed["model"]) == ("INVALID_ARGUMENT", "multiply")
    assert re.fullmatch("[0-9a-f]{32}", failed["trace_id"])


def test_a_document_is_logged_with_its_trace(logged):
    server, read = logged
    read(0)
    body = b'{"instances": [[1, 2, 3, 4]]}'
    request = urllib.request.Request(
        f"http://{server.rest_address}/v1/models/multiply:predict",
        body,
        {"X-Request-Id": "order-17"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        answer = response.read()
    (call,) = read(1)
    assert (call["entrypoint"], call["api"]) == ("REST", "predict")
    assert (call["model"], call["status"]) == ("multiply", "OK")
    assert (call["version"], call["signature"]) == (2, "serving_default")
    assert call["request_bytes"] == len(body)
    assert call["response_bytes"] == len(answer)
    assert call["trace_id"] == "order-17"


def test_every_line_names_the_model(logged):
    server, read = logged
    read(0)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "multiply"}, metadata_field=["signature_def"]
    )
    several = inference_pb2.MultiInferenceRequest(
        tasks=[
            {"model_spec": {"name": "multiply", "signature_name": name}}
            for name in ("one", "two")
        ]
    )
    with grpc.insecure_channel(server.address) as channel:
        predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        states = model_service_pb2_grpc.ModelServiceStub(channel)
        predictions.GetModelMetadata(metadata, timeout=20)
        states.GetModelStatus(status_request(version=2), timeout=20)
        rpc_error(predictions.MultiInference, several)
    root = f"http://{server.rest_address}/v1/models/multiply"
    for path in ("/metadata", "/versions/2"):
        with urllib.request.urlopen(root + path, timeout=20):
            pass
    body = b'{"signature_name": "pair", "instances": [{"a": 1}]}'
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{root}/versions/2:predict", body, timeout=20)
    calls = read(6)
    assert [call["model"] for call in calls] == ["multiply"] * 6
    assert [call["version"] for call in calls] == [2, 2, None, 2, 2, 2]
    assert [call["api"] for call in calls[3:]] == ["metadata", "status", "predict"]
    assert [call["signature"] for call in calls] == ["", "", "one,two", "", "", ""]


@pytest.mark.fast
def test_a_share_of_the_requests_is_logged(tmp_path):
    logger = RequestLogger(RequestLog(tmp_path / "log", 0.25))
    for _ in range(2000):
        logger.write(RequestRecord("GRPC", "Predict"))
    logger.close()
    # Six standard deviations of a binomial distribution.
    assert abs(len((tmp_path / "log").read_text().splitlines()) - 500) < 117
    with pytest.raises(ValueError, match="between 0 and 1"):
        RequestLogger(RequestLog(tmp_path / "log", 1.5))


@pytest.mark.fast
def test_a_long_name_does_not_fill_the_log(tmp_path):
    logger = RequestLogger(RequestLog(tmp_path / "log"))
    record = RequestRecord("GRPC", "Predict")
    name = "x" * 1_000_000
    record.read_spec(model_pb2.ModelSpec(name=name, signature_name=name))
    logger.write(record)
    logger.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert len(line) < 1000


@pytest.mark.fast
def test_a_log_that_is_moved_away_is_started_again(tmp_path):
    path = tmp_path / "log"
    logger = RequestLogger(RequestLog(path))
    logger.write(RequestRecord("GRPC", "Predict"))
    wait_until(lambda: path.read_text())
    path.rename(tmp_path / "log.1")
    logger.write(RequestRecord("GRPC", "Classify"))
    logger.close()
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["api"] == "Classify"


@pytest.mark.fast
def test_a_full_disk_is_reported_once_and_stops_nothing(caplog):
    logger = RequestLogger(RequestLog("/dev/full"))
    for _ in range(3):
        logger.write(RequestRecord("GRPC", "Predict"))
    logger.close()
    assert caplog.text.count("Requests are not logged: ") == 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": PARENT, "x-request-id": "7"}, TRACE),
        ({"traceparent": "00-xyz", "x-request-id": "7"}, "7"),
        ({"traceparent": b"00-xyz"}, None),
        ({"x-request-id": 'a"\n'}, None),
        ({"x-request-id": "x" * 200}, None),
        ({}, None),
    ],
)
def test_a_trace_is_taken_from_the_headers_or_new(headers, expected):
    trace = trace_id(headers)
    if expected is None:
        assert re.fullmatch("[0-9a-f]{32}", trace)
        assert trace != trace_id(headers)
    else:
        assert trace == expected
