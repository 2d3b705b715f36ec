"""HTTP itself: broken requests, headers, hosts and other web pages."""

import json
import socket
import time

import pytest
from dispatcher_double import METRICS, RunningRestServer

from bn_keras_serving.configuration.settings import Access
from bn_keras_serving.rest.server import RestServer

pytestmark = pytest.mark.fast

PREDICT = "/v1/models/m:predict"


@pytest.fixture(scope="module")
def served():
    with RunningRestServer() as server:
        yield server


def exchange(port, *parts):
    """Send parts of a request one after the other; return status, headers and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(0.05 if len(parts) > 1 else 0)
        answer = b""
        while True:
            head, _, body = answer.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:])
            if len(body) >= int(headers.get("content-length", 2**31)):
                return int(lines[0].split()[1]), headers, body
            received = client.recv(2**16)
            assert received, answer
            answer += received


def request(line="GET /v1/models/m HTTP/1.1", *headers, body=b""):
    return "\r\n".join((line, "Host: localhost", *headers, "", "")).encode() + body


POST = f"POST {PREDICT} HTTP/1.1"
LONG_CHUNK = b"400001\r\n" + b"x" * 0x400001


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (400, [request("G@T / HTTP/1.1")]),
        (400, [request("GET / HTTP/9.9")]),
        (400, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]),
        (400, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]),
        (400, [request(f"GET /{'a' * 20_000} HTTP/1.1")]),
        (400, [request("GET / HTTP/1.1", "X: " + "x" * 20_000)]),
        (400, [b"GET / HTTP/1.1\r\n", b"x" * 100_000, b"\r\n\r\n"]),
        (400, [request("GET / HTTP/1.1", *(f"X{i}: 1" for i in range(300)))]),
        (400, [request("GET / HTTP/1.1", "no colon")]),
        (400, [request("GET / HTTP/1.1", "Host: other")]),
        (400, [request("GET /v1/models/\0 HTTP/1.1")]),
        (400, [request(POST, "Content-Length: x")]),
        (400, [request(POST, "Content-Length: -1")]),
        (400, [request(POST, "Content-Length: 1", "Content-Length: 2", body=b"ab")]),
        (400, [request(POST, "Transfer-Encoding: chunked", body=b"xyz\r\n")]),
        (400, [request(POST, "Transfer-Encoding: something", body=b"{}")]),
        (400, [request(), request("G@T / HTTP/1.1")]),
        (400, [request(POST, "Content-Encoding: br", "Content-Length: 2", body=b"{}")]),
        (413, [request(POST, f"Content-Length: {2**40}")]),
        (413, [request(POST, "Transfer-Encoding: chunked"), LONG_CHUNK]),
        (417, [request(POST, "Expect: tea", "Content-Length: 2", body=b"{}")]),
        (404, [request("CONNECT localhost:1 HTTP/1.1")]),
        (404, [request("OPTIONS * HTTP/1.1")]),
        (404, [request("GET /nothing HTTP/1.1", "Accept: text/html")]),
        (405, [request("POST / HTTP/1.1")]),
        (400, [request("TRACE /v1/models/m HTTP/1.1")]),
        (403, [b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"]),
    ],
    ids=range(27),
)
def test_every_error_is_a_json_document_and_names_no_software(
    served, status, parts, caplog
):
    if parts[0] == request():  # the first answer is that of the valid request
        parts = [b"".join(parts)]
    received, headers, body = exchange(served.port, *parts)
    assert received == status
    assert headers["content-type"] == "application/json"
    assert list(json.loads(body)) == ["error"]
    assert "server" not in headers
    assert "aiohttp" not in str((headers, body)).lower()
    assert not caplog.records


def test_a_fault_of_the_server_itself_is_logged_and_reveals_nothing(caplog):
    async def fail(request):
        raise ValueError("/srv/secret")

    with RunningRestServer() as served:
        served.server._respond = fail
        status, headers, body = exchange(served.port, request())
        assert (status, headers["content-type"]) == (500, "application/json")
        assert json.loads(body)["error"].startswith("Internal error")
    (record,) = caplog.records
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize(
    ("path", "method"),
    [("/", "GET"), ("/status.json", "HEAD"), (METRICS, "GET"), ("/v1/models/m", "GET")],
)
def test_no_answer_names_the_servers_software(served, path, method):
    status, _, headers = served.request(method, path)
    assert status == 200
    assert "Server" not in headers


def test_a_connection_survives_a_declined_upgrade(served):
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    status, headers, _ = exchange(served.port, request("GET / HTTP/1.1", *upgrade))
    assert status == 200
    assert "upgrade" not in headers


def test_a_body_whose_chunks_are_broken_does_not_arrive(caplog):
    with RunningRestServer(timeout_seconds=0.3) as served:
        head = request(POST, "Transfer-Encoding: chunked")
        status, _, body = exchange(served.port, head, b"2\r\n{}\r\n", b"xyz\r\n")
        # aiohttp's parser in Python notices; the one in C leaves it to the time-out.
        assert (status, b"body" in body) in ((504, True), (400, True))
        assert served.request("GET", "/v1/models/m")[0] == 200
    assert not caplog.records


def test_a_body_that_ends_too_early_is_not_logged(served, caplog):
    for broken in (
        request(POST, "Content-Length: 100", body=b"{}"),
        request(POST, "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n"),
    ):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(broken)
            time.sleep(0.05)
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
    assert served.request("GET", "/v1/models/m")[0] == 200
    assert not caplog.records


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize("allowed_hosts", [(), ("Models.example.org", "b:8501")])
@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("localhost", "this machine"),
        ("LOCALHOST:8501", "this machine"),
        ("tests.localhost:1", "this machine"),
        ("127.0.0.1:8501", "this machine"),
        ("[::1]", "this machine"),
        ("[::1]:8501", "this machine"),
        ("192.168.0.1:80", "an address"),
        ("[2001:db8::1]", "an address"),
        ("", "nothing"),
        ("models.example.org", "permitted"),
        ("MODELS.example.org.:443", "permitted"),
        ("b", "permitted"),
        ("example.org", "another name"),
        ("127.0.0.1.example.org", "another name"),
        ("localhost.example.org", "another name"),
        ("xn--local-host", "another name"),
        ("[example.org]", "another name"),
        ("models.example.org.evil.example", "another name"),
    ],
)
def test_only_permitted_hosts_may_be_named(
    served, monkeypatch, loopback, allowed_hosts, host, kind
):
    checked = RestServer(
        served.dispatcher,
        "127.0.0.1" if loopback else "0.0.0.0",
        0,
        workers=served.workers,
        information=served.information,
        access=Access(allowed_hosts=allowed_hosts),
        metrics_path=METRICS,
    )
    monkeypatch.setattr(served.server, "_allowed_hosts", checked._allowed_hosts)
    named = {"this machine", "an address", "nothing"}
    if allowed_hosts:
        named.add("permitted")
    accepted = kind in named or not (loopback or allowed_hosts)
    head = f"GET /v1/models/m HTTP/1.1\r\nHost: {host}\r\n\r\n"
    status, _, body = exchange(served.port, head.encode())
    assert status == (200 if accepted else 403)
    if not accepted:
        assert "--allowed_hosts" in json.loads(body)["error"]


def test_a_request_of_http_1_0_needs_no_host(served):
    status, _, _ = exchange(served.port, b"GET /v1/models/m HTTP/1.0\r\n\r\n")
    assert status == 200


def test_scripts_of_other_pages_may_call_with_cors_only(served):
    # Source: http_rest_api_util.cc, `AddCORSHeaders`.
    expected = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "POST, GET",
        "Access-Control-Allow-Headers": "Content-Type",
    }
    origin = {"Origin": "https://example.org"}
    with RunningRestServer(access=Access(cors=True)) as open_to_all:
        for server, headers in ((served, {}), (open_to_all, expected)):
            for status, method, path, sent in (
                (200, "OPTIONS", PREDICT, origin),
                (400, "OPTIONS", PREDICT, {}),
                (200, "GET", "/v1/models/m", origin),
                (404, "GET", "/v1/models/none", origin),
                (400, "POST", PREDICT, origin),
            ):
                answer = server.request(method, path, **sent)
                assert answer[0] == status
                assert {
                    name: value
                    for name, value in answer[2].items()
                    if name.startswith("Access-Control")
                } == headers
            # They are for the protocol alone.
            _, _, received = server.request("GET", "/status.json", **origin)
            assert "Access-Control-Allow-Origin" not in received
