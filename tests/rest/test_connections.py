"""Connections that wait for their clients: how long, how many, and who makes room."""

import contextlib
import http.client
import logging
import socket
import time

import numpy as np
import pytest
from dispatcher_double import METRICS, RunningRestServer
from served_process import wait_until

from bn_keras_serving.common import open_files
from bn_keras_serving.rest import connections

GET = b"GET /v1/models/m HTTP/1.1\r\nHost: localhost\r\n\r\n"
PREDICT = (
    b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 23\r\n\r\n"
)
DOCUMENT = b'{"instances": [[1, 2]]}'


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 4.0)
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.05)


@pytest.fixture
def long_times(short_times, monkeypatch):
    """No connection is closed because its time is over."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 60)


def connect(served, data=b"", **options):
    client = socket.socket()
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    client.settimeout(20)
    client.connect(("127.0.0.1", served.port))
    client.sendall(data)
    return client


def receive(client):
    """Return the next answer's status."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def seconds_until_closed(client):
    start = time.monotonic()
    try:
        while client.recv(2**16):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - start


def is_open(client):
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        client.settimeout(20)


def test_a_connection_that_sends_nothing_is_closed():
    with RunningRestServer() as served, connect(served) as silent:
        assert 0.3 < seconds_until_closed(silent) < 3


def test_a_header_that_arrives_slowly_is_cut_off():
    with RunningRestServer() as served, connect(served, GET[:-2] + b"X: ") as slow:
        start = time.monotonic()
        while is_open(slow) and time.monotonic() < start + 10:
            slow.sendall(b"x")
            time.sleep(0.05)
        assert 0.3 < time.monotonic() - start < 3


def test_a_further_request_has_the_same_time_for_its_header():
    with RunningRestServer() as served, connect(served, GET) as client:
        assert receive(client) == 200
        time.sleep(1)  # between two requests there is more time
        client.sendall(GET)
        assert receive(client) == 200
        client.sendall(GET[:10])
        assert 0.3 < seconds_until_closed(client) < 3


def test_a_connection_without_further_requests_is_closed():
    with RunningRestServer() as served, connect(served, GET) as client:
        assert receive(client) == 200
        assert 3.5 < seconds_until_closed(client) < 8


def test_no_time_is_over_while_the_server_works():
    with RunningRestServer() as served:
        served.dispatcher.hold = True
        with connect(served, PREDICT + DOCUMENT) as client:
            time.sleep(2)
            served.dispatcher.release.set()
            assert receive(client) == 200


@pytest.mark.parametrize("requests", [[GET], [PREDICT + DOCUMENT], [GET, GET, GET]])
def test_a_client_that_has_closed_its_side_is_answered(requests):
    with RunningRestServer() as served, connect(served, b"".join(requests)) as client:
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(2**16):
            received += part
    assert received.count(b"HTTP/1.1 200 OK") == len(requests)


def test_a_client_that_has_closed_its_side_waits_for_a_slow_answer(monkeypatch):
    monkeypatch.setattr(connections, "PROBE_SECONDS", 0.1)
    with RunningRestServer() as served:
        served.dispatcher.hold = True
        with connect(served, PREDICT + DOCUMENT) as client:
            client.shutdown(socket.SHUT_WR)
            time.sleep(1)
            served.dispatcher.release.set()
            assert receive(client) == 200
            assert client.recv(1) == b""
        # HTTP/1.0 has no interim answers, so that nothing may precede this one.
        served.dispatcher.release.clear()
        with connect(served, PREDICT.replace(b"/1.1", b"/1.0") + DOCUMENT) as client:
            client.shutdown(socket.SHUT_WR)
            time.sleep(0.5)
            served.dispatcher.release.set()
            assert client.recv(100).startswith(b"HTTP/1.0 200 OK")


def serve_document(served, document):
    served.server._documents["/x"] = (lambda: document, "text/plain")
    return GET.replace(b"/v1/models/m", b"/x")


def test_a_client_that_does_not_read_its_answer_is_dropped():
    with RunningRestServer(timeout_seconds=0.5) as served:
        request = serve_document(served, bytes(2**24))
        with connect(served, request, SO_RCVBUF=4096) as client:
            start = time.monotonic()
            wait_until(lambda: served.server._http._transfers)
            wait_until(lambda: not served.server._http._open)
            assert 0.3 < time.monotonic() - start < 3
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while part := client.recv(2**20):
                    received += len(part)
            # The system has not kept its own part of the answer.
            assert received < 2**18


def test_a_slow_reader_gets_a_large_answer_entirely():
    expected = np.random.default_rng(0).bytes(2**22)
    with RunningRestServer(timeout_seconds=1) as served:
        request = serve_document(served, expected)
        with connect(served, request, SO_RCVBUF=2**16) as client:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            parts = []
            start = time.monotonic()
            while part := answer.read(2**16):
                parts.append(part)
                time.sleep(0.03)
            assert time.monotonic() - start > 1.5
        assert b"".join(parts) == expected


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 2**20 + 7])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_an_answer_of_any_size_arrives_unchanged(size, kind):
    expected = np.random.default_rng(size).bytes(size)
    with RunningRestServer() as served:
        serve_document(served, kind(expected))
        status, body, headers = served.request("GET", "/x")
        assert (status, body) == (200, expected)
        assert headers["Content-Length"] == str(size)
        status, body, headers = served.request("HEAD", "/x")
        assert (status, body) == (200, b"")
        assert headers["Content-Length"] == str(size)


def test_the_connection_that_has_waited_longest_makes_room(long_times, caplog):
    with RunningRestServer(limits={"connections": 3}) as served:
        served.dispatcher.hold = True
        with (
            connect(served, PREDICT + DOCUMENT) as working,
            connect(served) as first,
            connect(served) as second,
        ):
            assert served.dispatcher.running.wait(20)
            with connect(served, GET) as third:
                assert receive(third) == 200
                assert seconds_until_closed(first) < 10
                assert is_open(second)
                with connect(served, GET) as fourth:
                    assert receive(fourth) == 200
                    assert seconds_until_closed(second) < 10
                    assert is_open(third)
            served.dispatcher.release.set()
            assert receive(working) == 200
        (record,) = caplog.records
        assert "All 3 connections of REST are in use" in record.message


def test_a_client_that_sends_no_body_makes_room_if_nobody_is_idle(long_times):
    with (
        RunningRestServer(limits={"connections": 2}) as served,
        connect(served, PREDICT) as first,
        connect(served, PREDICT) as second,
    ):
        wait_until(lambda: len(served.server._http._transfers) == 2)
        assert served.send("/v1/models/m")[0] == 200
        assert seconds_until_closed(first) < 10
        second.sendall(DOCUMENT)
        assert receive(second) == 200


def test_requests_in_progress_make_no_room(long_times):
    with RunningRestServer(limits={"connections": 1}) as served:
        served.dispatcher.hold = True
        with connect(served, PREDICT + DOCUMENT) as working:
            assert served.dispatcher.running.wait(20)
            with connect(served) as refused:
                assert seconds_until_closed(refused) < 10
            served.dispatcher.release.set()
            assert receive(working) == 200


def test_the_limit_leaves_files_for_others(monkeypatch):
    monkeypatch.setattr(open_files, "limit", lambda: 100)
    with RunningRestServer(limits={"connections": 1000}) as served:
        assert served.server._http._limit == 50


def test_the_limit_of_open_files_can_be_raised():
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1] // 2, limits[1]))
        open_files.raise_limit()
        assert open_files.limit() == limits[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_refused_connection_is_one_line_in_ten_seconds(caplog):
    with RunningRestServer() as served:
        loop = served.server._loop._loop
        context = {
            "message": "socket.accept() out of system resource",
            "exception": OSError(24, "Too many open files"),
            "socket": None,
        }
        for _ in range(1000):
            loop.call_soon_threadsafe(loop.call_exception_handler, context)
        assert served.send("/v1/models/m")[0] == 200
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert "Too many open files" in record.message


def test_other_errors_of_the_loop_are_logged_completely(caplog):
    with RunningRestServer() as served:
        loop = served.server._loop._loop
        context = {"message": "a fault", "exception": ValueError("x")}
        loop.call_soon_threadsafe(loop.call_exception_handler, context)
        wait_until(lambda: caplog.records)
    assert caplog.records[0].exc_info


def test_a_body_in_small_pieces_takes_no_more_memory_than_its_size():
    body = DOCUMENT.ljust(100_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with RunningRestServer() as served:
        head = PREDICT.replace(b"Content-Length: 23", b"Transfer-Encoding: chunked")
        parts = []
        answer = served.server._answer

        def keep(target, spec, encoding, received):
            parts.extend(received)
            return answer(target, spec, encoding, received)

        served.server._answer = keep
        with connect(served, head + chunks + b"0\r\n\r\n") as client:
            assert receive(client) == 200
        assert b"".join(parts) == body
        assert len(parts) <= 2


def test_the_page_and_the_metrics_are_answered_beside_silent_connections(long_times):
    with RunningRestServer(limits={"connections": 10}) as served:
        silent = [connect(served) for _ in range(30)]
        for path in ("/", "/status.json", METRICS):
            assert served.request("GET", path)[0] == 200
        assert sum(map(is_open, silent)) < 10
        for client in silent:
            client.close()
