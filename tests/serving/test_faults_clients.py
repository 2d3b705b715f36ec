"""Clients that vanish, do not read, or come in floods."""

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

NAME = "grown"
BIG = 100_000_000
# 50 MB in protocol buffers.
FLOATS = 12_500_000
FEW = 12
# What is freed goes back at once: else glibc's malloc keeps hundreds of MiB of it, in
# steps of 100 MiB, and what a leak adds is not seen.
PLAIN_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
PREDICT = "/tensorflow.serving.PredictionService/Predict"
HEALTH = "/grpc.health.v1.Health/Check"

SENDER = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:  # sends without a limit
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    print("sending", flush=True)
    while True:  # a field that nobody knows, of 100,000,000 bytes
        try:
            call(bytes.fromhex("7a80c2d72f") + bytes(100_000_000))
        except grpc.RpcError:
            pass
"""


class Grown(Model):
    """Answers as many values as it is asked for."""

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
    """Start a server that answers; at the end it must still run, with no traceback."""
    with ServedProcess(
        directory.parent / log, directory=directory, **options
    ) as process:
        ask(process)
        ask_rest(process)
        yield process
        assert process.exit_status() is None
        assert b"Traceback" not in process.log.read_bytes()


def ask(served):
    """Be answered over gRPC, on a connection of its own."""
    with served.predict() as predict:
        answer = predict(request_of(name=NAME), timeout=60)
    np.testing.assert_array_equal(answer.outputs["y"].float_val, 2 * ROWS.ravel())


def ask_rest(served):
    connection = http.client.HTTPConnection(served.rest_address, timeout=60)
    body = json.dumps({"instances": ROWS.tolist()})
    connection.request("POST", f"/v1/models/{NAME}:predict", body)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    found = [row["y"] for row in json.load(answer)["predictions"]]
    assert found == (2 * ROWS).tolist()
    connection.close()


def connected(address):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def vanish(connection):
    """Close without a word: the peer is told by a reset, if at all."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def frame(kind, flags, stream, payload=b""):
    """Build a frame of HTTP/2 (RFC 9113, section 4.1)."""
    return (
        struct.pack(">I", len(payload))[1:]
        + struct.pack(">BBI", kind, flags, stream)
        + payload
    )


def opening(address, path=PREDICT):
    """What a gRPC client sends before its message: preface, settings and headers."""
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
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(one)]) + one.encode()
        for name, one in fields.items()
    )
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0)  # SETTINGS
        + frame(1, 4, 1, headers)  # HEADERS, all of them
    )


def begun(served, path=PREDICT):
    """A gRPC call of 100 MB, of which the first 60 kB are sent."""
    message = b"\0" + struct.pack(">I", BIG) + bytes(60_000)
    parts = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
    data = b"".join(frame(0, 0, 1, part) for part in parts)
    connection = connected(served.address)
    connection.sendall(opening(served.address, path) + data)
    return connection


def begun_rest(served, content=b'{"instances": [' + b"[1, 2, 3, 4], " * 5000):
    """An HTTP request of 100 MB, of which the first 70 kB are sent."""
    connection = connected(served.rest_address)
    head = f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
    connection.sendall(f"{head}{BIG}\r\n\r\n".encode() + content)
    return connection


def asked(served, values):
    """A gRPC call whose answer nobody reads."""
    request = request_of({"n": np.array([values], np.int32)}, NAME, "grown")
    message = request.SerializeToString()
    message = b"\0" + struct.pack(">I", len(message)) + message
    connection = connected(served.address)
    connection.sendall(opening(served.address) + frame(0, 1, 1, message))
    return connection


def asked_rest(served, values):
    connection = connected(served.rest_address)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = json.dumps({"signature_name": "grown", "inputs": [values]})
    head = f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
    connection.sendall(f"{head}{len(body)}\r\n\r\n{body}".encode())
    return connection


def settled(served):
    """Return its memory when that has not changed for three seconds."""
    found = [served.memory()]
    while len(found) < 4 or max(found[-4:]) - min(found[-4:]) > 2**20:
        time.sleep(1)
        found.append(served.memory())
    return found[-1]


def returned(served, descriptors):
    wait_until(lambda: served.descriptors() <= descriptors + FEW)


@pytest.mark.parametrize("start", [begun, begun_rest])
@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_clients_that_vanish_in_a_request_leave_nothing(served, start, count):
    descriptors, memory = served.descriptors(), served.memory()
    for _ in range(count // 50):
        for one in [start(served) for _ in range(50)]:
            vanish(one)
    returned(served, descriptors)
    ask(served)
    assert served.memory() - memory < 64 * 2**20


@pytest.mark.parametrize("path", [PREDICT, HEALTH])
def test_half_messages_hold_up_nobody(served, path):
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(begun(served, path))
        with served.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            predict(request_of(name=NAME), timeout=5)


def test_a_client_killed_while_it_sends_100_megabytes_takes_nothing_with_it(served):
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
    ask(served)
    returned(served, descriptors)


def test_calls_that_are_given_up_at_once_keep_no_worker(served):
    with served.predict() as predict:
        for _ in range(300):
            predict.future(request_of(name=NAME), timeout=60).cancel()
        ask(served)
        ask_rest(served)


def leave_unread(served, floats):
    """Ask for answers that nobody reads, and beside them for some that are."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(asked(served, floats))
            stack.enter_context(asked_rest(served, floats // 5))
        for _ in range(10):
            ask(served)
            ask_rest(served)


def test_clients_that_do_not_read_hold_up_nobody(served):
    descriptors = served.descriptors()
    leave_unread(served, 1_000_000)
    returned(served, descriptors)
    ask(served)


@pytest.mark.slow
def test_answers_that_nobody_reads_are_not_kept(directory):
    memory = []
    with serving(directory, "unread.log", return_memory=True) as served:
        descriptors = served.descriptors()
        for _ in range(12):
            leave_unread(served, FLOATS)
            returned(served, descriptors)
            ask(served)
            memory.append(settled(served))
    # One gRPC answer kept in each round would be six from median to median.
    grown = statistics.median(memory[8:]) - statistics.median(memory[2:6])
    assert grown < 2 * 4 * FLOATS, [one >> 20 for one in memory]


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_flood_of_idle_connections_holds_up_nobody(served, count):
    descriptors = served.descriptors()
    with contextlib.ExitStack() as stack:
        for number in range(count):
            for address in (served.address, served.rest_address):
                one = stack.enter_context(connected(address))
                if number % 2:
                    one.sendall(b"PRI * HT" if address == served.address else b"GE")
        wait_until(lambda: served.descriptors() > descriptors + 1.8 * count)
        ask(served)
        ask_rest(served)
    returned(served, descriptors)


@pytest.mark.parametrize("junk", [b"\0" * 5000, b"\x16\x03\x01\x02\0" * 99, b"GET"])
def test_what_is_no_protocol_is_hung_up_on(served, junk):
    descriptors = served.descriptors()
    for address in (served.address, served.rest_address) * 20:
        with connected(address) as one, contextlib.suppress(OSError):
            one.sendall(junk + b"\r\n\r\n")
            one.recv(10_000)
    ask(served)
    ask_rest(served)
    returned(served, descriptors)


def test_a_server_out_of_descriptors_recovers(directory):
    with ServedProcess(
        directory.parent / "starved.log", directory=directory, descriptors=200
    ) as served:
        ask(served)
        ask_rest(served)
        with served.predict() as predict, contextlib.ExitStack() as stack:
            predict(request_of(name=NAME), timeout=60)
            for _ in range(150):
                stack.enter_context(connected(served.address))
                stack.enter_context(connected(served.rest_address))
            wait_until(lambda: served.descriptors() >= 199)
            time.sleep(1)
            # Who is connected is still answered.
            predict(request_of(name=NAME), timeout=60)
        wait_until(lambda: served.descriptors() < 150)
        ask(served)
        ask_rest(served)
        assert served.exit_status() is None
        assert served.log.stat().st_size < 2**20
