"""Limits on the size, number and duration of requests."""

import dataclasses
import http.client
import json
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import (
    ROWS,
    UNLIMITED,
    Echo,
    Model,
    request_of,
    rpc_error,
    status_request,
    write,
)
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from bn_keras_serving import PredictionServer
from bn_keras_serving.common.limits import Limits
from bn_keras_serving.servable.signature import Signature

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

LIMITS = Limits(
    message_bytes=100_000, elements=1000, string_bytes=50, concurrent_requests=2
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("multiply")
    model = Model(2)
    model.served["string"] = Echo().served["string"]
    write(model, directory, 1)
    with PredictionServer(
        directory, "multiply", port=0, rest_port=0, limits=LIMITS, rest_timeout=1.0
    ) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def post(server, document):
    connection = http.client.HTTPConnection(server.rest_address, timeout=30)
    try:
        path = "/v1/models/multiply:predict"
        connection.request("POST", path, json.dumps(document))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_message_above_the_limit_is_rejected(predictions):
    rows = np.ones((200, 4), np.float32)
    assert predictions.Predict(request_of({"x": rows}), timeout=30)
    rows = np.ones((25_000, 4), np.float32)
    code, details = rpc_error(predictions.Predict, request_of({"x": rows}))
    assert (code, "100000" in details) == (EXHAUSTED, True), details


def test_a_document_above_the_limit_is_rejected(server):
    assert post(server, {"instances": np.ones((200, 4)).tolist()})[0] == 200
    status, answer = post(server, {"instances": np.ones((25_000, 4)).tolist()})
    assert (status, "100000" in answer["error"]) == (413, True)


def test_a_tensor_above_the_limit_is_rejected(server, predictions):
    rows = np.ones((251, 4), np.float32)
    expected = 'Input "x" must have at most 1000 elements. Received: 1004 elements.'
    code, details = rpc_error(predictions.Predict, request_of({"x": rows}))
    assert (code, expected in details) == (INVALID, True), details
    # One value fills the whole shape, so there are fewer bytes than elements.
    filled = tf.make_tensor_proto(1.0, shape=(300, 4))
    code, details = rpc_error(predictions.Predict, request_of({"x": filled}))
    assert (code, "at most 1000 elements" in details) == (INVALID, True), details
    status, answer = post(server, {"instances": rows.tolist()})
    assert (status, expected in answer["error"]) == (400, True)


def test_a_string_above_the_limit_is_rejected(server, predictions):
    words = np.array([b"x" * 50, b""], object)
    request = request_of({"x": words}, signature="string")
    assert predictions.Predict(request, timeout=30)
    words = np.array([b"", b"x" * 51], object)
    code, details = rpc_error(
        predictions.Predict, request_of({"x": words}, signature="string")
    )
    expected = 'in input "x" must have at most 50 bytes. Received: a string of 51'
    assert (code, expected in details) == (INVALID, True), details
    document = {"signature_name": "string", "instances": ["", "x" * 51]}
    status, answer = post(server, document)
    assert (status, expected in answer["error"]) == (400, True)


def test_one_request_too_many_waits_for_its_turn(predictions, gate):
    running = [predictions.Predict.future(request_of(), timeout=60) for _ in range(2)]
    gate.wait_for(2)
    waiting = predictions.Predict.future(request_of(), timeout=60)
    assert not gate.has_arrival(seconds=0.3)
    gate.open()
    for call in (*running, waiting):
        assert call.result().outputs["y"]


def test_a_request_waits_no_longer_than_its_deadline(predictions, gate):
    running = [predictions.Predict.future(request_of(), timeout=60) for _ in range(2)]
    gate.wait_for(2)
    start = time.monotonic()
    with pytest.raises(grpc.RpcError) as raised:
        predictions.Predict(request_of(), timeout=0.3)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.25 < time.monotonic() - start < 10
    gate.open()
    for call in running:
        assert call.result().outputs["y"]
    # The third one has left the queue, and never reached a model.
    assert not gate.has_arrival(seconds=0.3)


def test_health_and_status_are_available_while_the_server_is_busy(
    channel, predictions, gate
):
    running = [predictions.Predict.future(request_of(), timeout=60) for _ in range(2)]
    gate.wait_for(2)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    assert models.GetModelStatus(status_request(), timeout=30)
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert not any(call.done() for call in running)


def test_documents_that_wait_or_run_too_long_are_504(server, gate):
    document = {"instances": ROWS.tolist()}
    with futures.ThreadPoolExecutor(3) as pool:
        running = [pool.submit(post, server, document) for _ in range(2)]
        gate.wait_for(2)
        waiting = pool.submit(post, server, document)
        # The time-out passes while the models of the first two run.
        assert {call.result()[0] for call in (*running, waiting)} == {504}
    gate.open()
    assert post(server, document)[0] == 200


def test_a_model_does_not_run_after_the_deadline(predictions, monkeypatch):
    ran, parsed = [], threading.Event()

    def parse_slowly(_, protos):
        time.sleep(0.3)
        parsed.set()
        return {alias: tf.make_ndarray(proto) for alias, proto in protos.items()}

    monkeypatch.setattr(Signature, "parse", parse_slowly)
    monkeypatch.setattr(Signature, "compute", lambda *_: ran.append(1) or {})
    with pytest.raises(grpc.RpcError) as raised:
        predictions.Predict(request_of(), timeout=0.1)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert parsed.wait(10)
    time.sleep(0.1)
    assert not ran


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("value", [0, 2**31])
def test_a_limit_out_of_range_is_rejected(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be .* {name}={value}"):
        Limits(**{name: value})
