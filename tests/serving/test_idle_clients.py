"""Clients that connect and send nothing, or wait forever, must not delay others."""

import socket
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_models import request_of
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer

# A liveness probe with a short time-out must always pass.
HEALTH_SECONDS = 0.1
# Channels of one process share a connection otherwise, and its limit of streams.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture(scope="module")
def server(doubling):
    with PredictionServer(doubling, "multiply", port=0) as server:
        yield server


def check_health(server):
    """Return the seconds that a new client waits for the answer of a health check."""
    with grpc.insecure_channel(server.address, OWN_CONNECTION) as channel:
        grpc.channel_ready_future(channel).result(20)
        stub = health_pb2_grpc.HealthStub(channel)
        start = time.monotonic()
        stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        return time.monotonic() - start


def predict(server):
    with grpc.insecure_channel(server.address, OWN_CONNECTION) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(request_of(), timeout=20).outputs["y"]


def assert_others_are_served(server):
    # The best of a few, since the test itself uses the same processors.
    assert min(check_health(server) for _ in range(5)) < HEALTH_SECONDS
    assert predict(server)


@pytest.fixture
def released():
    """An event that ends the idle streams of a test."""
    event = threading.Event()
    yield event
    event.set()


def send_nothing(event):
    event.wait()
    return
    yield  # a generator that never yields


def open_streams(channel, method, count, event):
    call = channel.stream_stream(method)
    return [call(send_nothing(event)) for _ in range(count)]


def test_predict_calls_without_a_message_delay_nobody(server, released):
    with grpc.insecure_channel(server.address) as channel:
        method = "/tensorflow.serving.PredictionService/Predict"
        streams = open_streams(channel, method, 1100, released)
        time.sleep(1)
        assert_others_are_served(server)
        assert not any(stream.done() for stream in streams[:10])
        for stream in streams:
            stream.cancel()


def test_idle_reflection_streams_delay_nobody(server, released):
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        streams = [
            stub.ServerReflectionInfo(send_nothing(released)) for _ in range(1100)
        ]
        time.sleep(1)
        assert_others_are_served(server)
        for stream in streams:
            stream.cancel()


def test_silent_connections_delay_nobody(server):
    host, port = server.address.split(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(1100)]
    try:
        assert_others_are_served(server)
    finally:
        for connection in connections:
            connection.close()


def test_a_silent_connection_is_closed(doubling, monkeypatch):
    monkeypatch.setattr("bn_keras_serving.grpc_api.server.HANDSHAKE_MILLISECONDS", 300)
    with PredictionServer(doubling, "multiply", port=0) as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            received = b"."
            while received:  # the server's settings, and then the end
                received = connection.recv(1000)
        assert_others_are_served(server)


def test_many_requests_at_once_are_all_answered(server):
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        calls = [stub.Predict.future(request_of(), timeout=60) for _ in range(2000)]
        assert {call.exception() for call in calls} == {None}


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
def test_reflection_answers_in_both_versions(server, version):
    with grpc.insecure_channel(server.address) as channel:
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        (answer,) = ask(iter(requests), timeout=20)
        names = {service.name for service in answer.list_services_response.service}
        assert names == {
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "tensorflow.serving.ModelService",
            "tensorflow.serving.PredictionService",
        }
        requests = [
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            for name in sorted(names)
        ]
        answers = list(ask(iter(requests), timeout=20))
        assert [answer.WhichOneof("message_response") for answer in answers] == [
            "file_descriptor_response"
        ] * len(names)


def test_health_lists_all_services(server):
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        statuses = stub.List(health_pb2.HealthListRequest(), timeout=20).statuses
        assert set(statuses) == {
            "",
            "ModelService",
            "PredictionService",
            "tensorflow.serving.ModelService",
            "tensorflow.serving.PredictionService",
        }
        assert {status.status for status in statuses.values()} == {1}
