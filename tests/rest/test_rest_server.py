"""The HTTP server: load, slow and disappearing clients, and its shutdown."""

import gzip
import http.client
import json
import socket
import threading
import time
from concurrent import futures

import numpy as np
import pytest
from dispatcher_double import RunningRestServer

from bn_keras_serving.rest.server import RestServer


@pytest.fixture
def served():
    with RunningRestServer() as server:
        yield server


def test_a_body_above_the_limit_is_rejected():
    with RunningRestServer(limits={"message_bytes": 1000}) as served:
        document = b'{"instances": [[1, 2]]}'
        path = "/v1/models/m:predict"
        assert served.request("POST", path, document.ljust(1000))[0] == 200
        status, body, _ = served.request("POST", path, document.ljust(1001))
        assert status == 413
        assert json.loads(body) == {"error": "A body must have at most 1000 bytes."}
        bomb = gzip.compress(document.ljust(100_000))
        assert len(bomb) < 1000
        headers = {"Content-Encoding": "gzip"}
        status, body, _ = served.request("POST", path, bomb, **headers)
        assert (status, b"must contain at most 1000 bytes" in body) == (400, True)
        small = gzip.compress(document)
        assert served.request("POST", path, small, **headers)[0] == 200
        assert served.request_counts() == {
            "m": {"OK": 2, "RESOURCE_EXHAUSTED": 1, "INVALID_ARGUMENT": 1}
        }


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", b'{"instances": [[1, 2]]}', "must be in gzip format"),
        (
            "gzip",
            gzip.compress(b'{"instances": [[1, 2]]}')[:-9],
            "must be in gzip format",
        ),
        ("br", b"", "Received: 'br'"),
    ],
    ids=("plain", "cut", "br"),
)
def test_a_body_that_contradicts_its_encoding_is_rejected(
    served, encoding, body, message, caplog
):
    status, answer, _ = served.request(
        "POST", "/v1/models/m:predict", body, **{"Content-Encoding": encoding}
    )
    assert (status, message in json.loads(answer)["error"]) == (400, True)
    assert not caplog.records


def test_requests_beyond_the_threads_wait_and_the_state_stays_available():
    with RunningRestServer(workers=1) as served:
        served.dispatcher.hold = True
        document = {"instances": [[1, 2]]}
        with futures.ThreadPoolExecutor(8) as clients:
            waiting = [
                clients.submit(served.send, "/v1/models/m:predict", document)
                for _ in range(8)
            ]
            assert served.dispatcher.running.wait(30)
            assert served.send("/v1/models/m")[0] == 200
            assert not any(call.done() for call in waiting)
            served.dispatcher.release.set()
            assert [call.result()[0] for call in waiting] == [200] * 8


def test_a_late_answer_is_504_and_keeps_its_thread_until_it_ends():
    with RunningRestServer(timeout_seconds=0.3, workers=1) as served:
        served.dispatcher.hold = True
        document = {"instances": [[1, 2]]}
        late = (504, {"error": "No answer within 0.3 seconds."})
        assert served.send("/v1/models/m:predict", document) == late
        assert served.send("/v1/models/m:predict", document) == late
        served.dispatcher.hold = False
        served.dispatcher.release.set()
        assert served.send("/v1/models/m:predict", document)[0] == 200
        # The second one was dropped before it had begun.
        assert [api for api, _ in served.dispatcher.requests].count("Predict") == 2


def test_a_model_does_not_run_for_a_client_that_has_left():
    with RunningRestServer(workers=1) as served:
        served.dispatcher.hold = True
        document = json.dumps({"instances": [[1, 2]]}).encode()
        first = open_request(served.port, document, len(document))
        assert served.dispatcher.running.wait(30)
        second = open_request(served.port, document, len(document))
        until(lambda: served.workers._pending == 2)
        second.close()
        until(lambda: served.request_counts() == {"m": {"CANCELLED": 1}})
        served.dispatcher.release.set()
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        first.close()
        until(lambda: served.workers._pending == 0)
        assert [api for api, _ in served.dispatcher.requests].count("Predict") == 1


def test_slow_senders_do_not_delay_others_and_time_out():
    with RunningRestServer(timeout_seconds=0.5) as served:
        slow = [open_request(served.port, b'{"inst', 1000) for _ in range(20)]
        document = {"instances": [[1, 2]]}
        assert served.send("/v1/models/m:predict", document)[0] == 200
        for connection in slow:
            connection.settimeout(30)
            assert connection.recv(100).startswith(b"HTTP/1.1 504")
            connection.close()


def test_stop_finishes_running_requests_and_accepts_no_more():
    with RunningRestServer() as served:
        served.dispatcher.hold = True
        with futures.ThreadPoolExecutor(2) as clients:
            running = clients.submit(
                served.send, "/v1/models/m:predict", {"instances": [[1, 2]]}
            )
            assert served.dispatcher.running.wait(30)
            idle = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
            idle.request("GET", "/v1/models/m")
            idle.getresponse().read()
            stopped = clients.submit(served.server.stop, 30)
            until(lambda: not listens(served.port))
            assert not stopped.done()
            served.dispatcher.release.set()
            assert running.result() == (200, {"predictions": [[2.0, 4.0]]})
            start = time.monotonic()
            stopped.result()
            assert time.monotonic() - start < 5  # despite the idle connection
            idle.close()


def test_stop_takes_no_longer_than_its_grace_period():
    with RunningRestServer() as served:
        served.dispatcher.hold = True
        with futures.ThreadPoolExecutor(1) as clients:
            running = clients.submit(
                served.send, "/v1/models/m:predict", {"instances": [[1, 2]]}
            )
            assert served.dispatcher.running.wait(30)
            start = time.monotonic()
            served.server.stop(0.3)
            assert 0.2 < time.monotonic() - start < 3
            with pytest.raises((OSError, http.client.HTTPException)):
                running.result()
        served.server.stop(0)  # a second call does nothing


def test_the_server_is_unavailable_without_its_workers(served):
    served.workers.stop(1)
    assert served.send("/v1/models/m:predict", {"instances": [[1, 2]]}) == (
        503,
        {"error": "The server is stopping."},
    )


def test_a_port_in_use_is_reported_and_leaves_nothing_behind(served):
    threads = threading.active_count()
    taken = RestServer(
        served.dispatcher,
        "127.0.0.1",
        served.port,
        workers=served.workers,
        information=served.information,
        metrics_path=None,
    )
    with pytest.raises(OSError, match="address already in use"):
        taken.start()
    assert threading.active_count() == threads


def test_a_client_that_expects_100_continue_gets_it(served):
    """Check the header that curl sends for bodies above 1 MiB."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(head(23, "Expect: 100-continue\r\n"))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b'{"instances": [[1, 2]]}')
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    # The body of a request that is refused is not asked for.
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(head(2**30, "Expect: 100-continue\r\n"))
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_the_answer_to_a_large_image_is_exact(served):
    rng = np.random.default_rng(3)
    image = rng.random((1, 8192, 2), np.float32)
    status, answer = served.send(
        "/v1/models/m:predict", {"instances": image.astype(float).tolist()}
    )
    assert status == 200
    np.testing.assert_array_equal(
        np.array(answer["predictions"], np.float32), 2 * image
    )


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def head(length, more=""):
    return (
        f"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\n{more}"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def open_request(port, body, length):
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(head(length) + body)
    return client


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
