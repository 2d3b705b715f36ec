"""Clients that disappear, do not read, or connect in large numbers."""

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from served_process import ServedProcess, wait_until
from serving_models import ROWS, Model, function, request_of, write
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving.common.limits import Limits

NAME = "grown"
BIG = 100_000_000
# 50 MB as protocol buffers.
FLOATS = 12_500_000
# Descriptors by which an idle server's number may vary.
FEW = 12
PREDICT = "/tensorflow.serving.PredictionService/Predict"
HEALTH = "/grpc.health.v1.Health/Check"

SENDER = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:  # no limit on what it sends
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    print("sending", flush=True)
    while True:  # an unknown field of 100,000,000 bytes
        try:
            call(bytes.fromhex("7a80c2d72f") + bytes(100_000_000))
        except grpc.RpcError:
            pass
"""


class Grown(Model):
    """Has a signature that outputs as many values as requested."""

    def __init__(self):
        super().__init__(2)
        self.served["grown"] = function(
            lambda n: {"y": tf.fill(n, 1.5)}, n=([1], tf.int32)
        )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("clients") / NAME
    directory.mkdir()
    write(Grown(), directory, 1)
    return directory


@pytest.fixture(scope="module")
def served(directory):
    with serving(directory, "log") as process:
        yield process


@contextlib.contextmanager
def serving(directory, log, **options):
    """Start a server; at the end it must still run and have logged no traceback."""
    with ServedProcess(
        directory.parent / log, directory=directory, **options
    ) as process:
        predict_grpc(process)
        predict_rest(process)
        yield process
        assert process.exit_status() is None
        assert b"Traceback" not in process.log.read_bytes()


def predict_grpc(served):
    """Send a request over gRPC on a new connection, and check the answer."""
    with served.predict() as predict:
        answer = predict(request_of(name=NAME), timeout=60)
    np.testing.assert_array_equal(answer.outputs["y"].float_val, 2 * ROWS.ravel())


def predict_rest(served):
    """Send a request over REST on a new connection, and check the answer."""
    connection = http.client.HTTPConnection(served.rest_address, timeout=60)
    body = json.dumps({"instances": ROWS.tolist()})
    connection.request("POST", f"/v1/models/{NAME}:predict", body)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    outputs = [row["y"] for row in json.load(answer)["predictions"]]
    assert outputs == (2 * ROWS).tolist()
    connection.close()


def connect(address):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def reset(connection):
    """Close a connection without the handshake; the peer receives at most a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def frame(kind, flags, stream, payload=b""):
    """Build an HTTP/2 frame (RFC 9113, section 4.1)."""
    return (
        struct.pack(">I", len(payload))[1:]
        + struct.pack(">BBI", kind, flags, stream)
        + payload
    )


def preamble(address, path=PREDICT):
    """Build what a gRPC client sends before a message: preface, settings, headers."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # Literal fields without indexing (RFC 7541, section 6.2.2).
    headers = b"".join(
        b"\0"
        + bytes([len(name)])
        + name.encode()
        + bytes([len(value)])
        + value.encode()
        for name, value in fields.items()
    )
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0)  # SETTINGS
        + frame(1, 4, 1, headers)  # HEADERS, all of them
    )


def send_part(served, path=PREDICT):
    """Begin a gRPC call with a message of 100 MB, and send the first 60 kB of it."""
    message = b"\0" + struct.pack(">I", BIG) + bytes(60_000)
    parts = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
    data = b"".join(frame(0, 0, 1, part) for part in parts)
    connection = connect(served.address)
    connection.sendall(preamble(served.address, path) + data)
    return connection


def send_part_rest(served, content=b'{"instances": [' + b"[1, 2, 3, 4], " * 5000):
    """Begin an HTTP request with a body of 100 MB, and send the first 70 kB of it."""
    connection = connect(served.rest_address)
    head = f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
    connection.sendall(f"{head}{BIG}\r\n\r\n".encode() + content)
    return connection


def request_unread(served, values):
    """Send a gRPC request without reading the answer."""
    request = request_of({"n": np.array([values], np.int32)}, NAME, "grown")
    message = request.SerializeToString()
    message = b"\0" + struct.pack(">I", len(message)) + message
    connection = connect(served.address)
    connection.sendall(preamble(served.address) + frame(0, 1, 1, message))
    return connection


def request_unread_rest(served, values):
    """Send an HTTP request without reading the answer."""
    connection = connect(served.rest_address)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = json.dumps({"signature_name": "grown", "inputs": [values]})
    head = f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
    connection.sendall(f"{head}{len(body)}\r\n\r\n{body}".encode())
    return connection


def stable_memory(served):
    """Return the memory once it has not changed for three seconds."""
    memory = [served.memory()]
    while len(memory) < 4 or max(memory[-4:]) - min(memory[-4:]) > 2**20:
        time.sleep(1)
        memory.append(served.memory())
    return memory[-1]


def wait_for_descriptors(served, descriptors):
    """Wait until the descriptors of earlier clients have been closed."""
    wait_until(lambda: served.descriptors() <= descriptors + FEW)


@pytest.mark.parametrize("start", [send_part, send_part_rest])
@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_clients_that_disappear_during_a_request_leave_nothing_behind(
    served, start, count
):
    descriptors, memory = served.descriptors(), served.memory()
    for _ in range(count // 50):
        for connection in [start(served) for _ in range(50)]:
            reset(connection)
    wait_for_descriptors(served, descriptors)
    predict_grpc(served)
    assert served.memory() - memory < 64 * 2**20


@pytest.mark.parametrize("path", [PREDICT, HEALTH])
def test_incomplete_messages_do_not_delay_others(served, path):
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(send_part(served, path))
        with served.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            predict(request_of(name=NAME), timeout=5)


def test_a_client_that_is_killed_while_it_sends_100_megabytes_does_no_harm(served):
    descriptors = served.descriptors()
    for seconds in (0.05, 0.2):
        sender = subprocess.Popen(
            [sys.executable, "-c", SENDER, served.address], stdout=subprocess.PIPE
        )
        assert sender.stdout.readline() == b"sending\n"
        time.sleep(seconds)
        os.kill(sender.pid, signal.SIGKILL)
        sender.wait()
        sender.stdout.close()
    predict_grpc(served)
    wait_for_descriptors(served, descriptors)


def test_calls_that_are_cancelled_at_once_occupy_no_worker(served):
    with served.predict() as predict:
        for _ in range(300):
            predict.future(request_of(name=NAME), timeout=60).cancel()
        predict_grpc(served)
        predict_rest(served)


def leave_unread(served, floats):
    """Request answers that nobody reads, and meanwhile some that are read."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(request_unread(served, floats))
            stack.enter_context(request_unread_rest(served, floats // 5))
        for _ in range(10):
            predict_grpc(served)
            predict_rest(served)


def test_clients_that_do_not_read_do_not_delay_others(served):
    descriptors = served.descriptors()
    leave_unread(served, 1_000_000)
    wait_for_descriptors(served, descriptors)
    predict_grpc(served)


@pytest.mark.slow
def test_answers_that_nobody_reads_are_freed(directory):
    memory = []
    with serving(directory, "unread.log", return_memory=True) as served:
        descriptors = served.descriptors()
        for _ in range(12):
            leave_unread(served, FLOATS)
            wait_for_descriptors(served, descriptors)
            predict_grpc(served)
            memory.append(stable_memory(served))
    # With one gRPC answer kept per round, the medians would be six answers apart.
    grown = statistics.median(memory[8:]) - statistics.median(memory[2:6])
    assert grown < 2 * 4 * FLOATS, [size >> 20 for size in memory]


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_many_idle_connections_do_not_delay_others(served, count):
    descriptors = served.descriptors()
    with contextlib.ExitStack() as stack:
        for number in range(count):
            for address in (served.address, served.rest_address):
                connection = stack.enter_context(connect(address))
                if number % 2:
                    connection.sendall(
                        b"PRI * HT" if address == served.address else b"GE"
                    )
        kept = count + min(count, Limits().connections)  # REST closes the oldest
        wait_until(lambda: served.descriptors() > descriptors + 0.9 * kept)
        predict_grpc(served)
        predict_rest(served)
    wait_for_descriptors(served, descriptors)


@pytest.mark.parametrize("junk", [b"\0" * 5000, b"\x16\x03\x01\x02\0" * 99, b"GET"])
def test_bytes_of_no_protocol_close_the_connection(served, junk):
    descriptors = served.descriptors()
    for address in (served.address, served.rest_address) * 20:
        with connect(address) as connection, contextlib.suppress(OSError):
            connection.sendall(junk + b"\r\n\r\n")
            connection.recv(10_000)
    predict_grpc(served)
    predict_rest(served)
    wait_for_descriptors(served, descriptors)


def test_a_server_out_of_descriptors_recovers(directory):
    with ServedProcess(
        directory.parent / "starved.log", directory=directory, descriptors=200
    ) as served:
        predict_grpc(served)
        predict_rest(served)
        with served.predict() as predict, contextlib.ExitStack() as stack:
            predict(request_of(name=NAME), timeout=60)
            for _ in range(150):
                stack.enter_context(connect(served.address))
                stack.enter_context(connect(served.rest_address))
            wait_until(lambda: served.descriptors() >= 199)
            time.sleep(1)
            # Clients that are connected are still answered.
            predict(request_of(name=NAME), timeout=60)
        wait_until(lambda: served.descriptors() < 150)
        predict_grpc(served)
        predict_rest(served)
        assert served.exit_status() is None
        assert served.log.stat().st_size < 2**20
