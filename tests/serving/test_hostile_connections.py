"""Connections to REST that take and give nothing must not delay others.

The server may open 1,024 files, as is usual; the tests connect more often.
"""

import contextlib
import http.client
import json
import resource
import socket
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served_process import ServedProcess
from serving_models import ROWS, request_of
from tensorflow_serving.apis import prediction_service_pb2_grpc

CONNECTIONS = 1100
HEALTH_SECONDS = 0.1  # a liveness probe with a short time-out must always pass
GET = b"GET /v1/models/multiply HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Longer than what the system keeps for a client that does not read.
LONG_ANSWER = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30


@pytest.fixture(scope="module")
def server(doubling, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    with ServedProcess(
        log, descriptors=1024, directory=doubling, model_name="multiply"
    ) as server:
        yield server


@pytest.fixture(autouse=True)
def enough_files():
    """Let the tests themselves open as many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"needs 4096 open files, the system permits {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def connect(server):
    """A function that connects many clients, which send the same bytes."""
    host, port = server.rest_address.split(":")
    clients = []

    def connect_many(data=b"", receive_bytes=None):
        for _ in range(CONNECTIONS):
            client = socket.socket()
            clients.append(client)
            if receive_bytes is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            client.settimeout(20)
            client.connect((host, int(port)))
            client.sendall(data)
        return clients

    yield connect_many
    for client in clients:
        client.close()


def assert_others_are_served(server):
    for _ in range(5):
        # A connection of its own, as a probe has.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options) as channel:
            grpc.channel_ready_future(channel).result(20)
            health = health_pb2_grpc.HealthStub(channel)
            start = time.monotonic()
            health.Check(health_pb2.HealthCheckRequest(), timeout=20)
            seconds = time.monotonic() - start
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            assert predict(request_of(), timeout=20).outputs["y"]
        host, port = server.rest_address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        with contextlib.closing(connection):
            document = json.dumps({"instances": ROWS.tolist()})
            connection.request("POST", "/v1/models/multiply:predict", document)
            response = connection.getresponse()
            assert (response.status, b"predictions" in response.read()) == (200, True)
        if seconds < HEALTH_SECONDS:
            return
    # The best of a few, since the tests use the same processors.
    raise AssertionError(f"health answers in {seconds:.3f} seconds")


def test_silent_connections(server, connect):
    connect()
    assert_others_are_served(server)


def test_headers_of_one_byte_a_second(server, connect):
    clients = connect(GET[:20])
    stopped = threading.Event()

    def drip():
        while not stopped.wait(1):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        time.sleep(2)
        assert_others_are_served(server)
    finally:
        stopped.set()
        thread.join()


def test_bodies_that_do_not_come(server, connect):
    head = b"POST /v1/models/multiply:predict HTTP/1.1\r\nHost: localhost\r\n"
    connect(head + b"Content-Length: 100\r\n\r\n{")
    assert_others_are_served(server)


def test_idle_connections_after_a_request(server, connect):
    connect(GET)
    assert_others_are_served(server)


def test_answers_that_are_not_read(server, connect):
    connect(LONG_ANSWER, receive_bytes=4096)
    assert_others_are_served(server)


def test_the_log_stays_short_and_no_file_stays_open(server, connect):
    before = server.log.stat().st_size
    clients = connect()
    time.sleep(2)
    assert server.log.stat().st_size - before < 1000
    assert "Traceback" not in server.log.read_text()
    assert server.descriptors() < 800
    for client in clients:
        client.close()
    end = time.monotonic() + 20
    while server.descriptors() > 100 and time.monotonic() < end:
        time.sleep(0.05)
    assert server.descriptors() <= 100
