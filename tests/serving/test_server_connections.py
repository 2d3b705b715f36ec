"""Ways to connect to a server: TLS, mutual TLS, UNIX sockets, options of gRPC."""

import errno
import json
import re
import socket
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import ROWS, request_of, rpc_error
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration import read_tls

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.issue_cert("localhost", "127.0.0.1")


def pem(*blobs):
    return b"".join(blob.bytes() for blob in blobs)


def tls_file(path, certificate, authority=None, client_verify=False):
    """Write an `SSLConfig` with inline PEM texts."""
    fields = {
        "server_key": pem(certificate.private_key_pem),
        "server_cert": pem(*certificate.cert_chain_pems),
    }
    if authority is not None:
        fields["custom_ca"] = pem(authority.cert_pem)
    lines = [
        f'{name}: "{text_format.text_encoding.CEscape(text, True)}"'
        for name, text in fields.items()
    ]
    lines.append(f"client_verify: {str(client_verify).lower()}")
    path.write_text("\n".join(lines))
    return path


def predict(channel, **options):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request_of(), timeout=30, **options)
    np.testing.assert_array_equal(response.outputs["y"].float_val, 2 * ROWS.ravel())
    return response


def error_code(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return rpc_error(stub.Predict, request_of())[0]


def test_tls_admits_only_clients_that_trust_the_server(
    doubling, tmp_path, authority, certificate
):
    tls = read_tls(tls_file(tmp_path / "ssl.config", certificate))
    with PredictionServer(doubling, "multiply", port=0, rest_port=0, tls=tls) as server:
        trusting = grpc.ssl_channel_credentials(pem(authority.cert_pem))
        with grpc.secure_channel(server.address, trusting) as channel:
            predict(channel)
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        with grpc.insecure_channel(server.address) as channel:
            assert error_code(channel) == UNAVAILABLE
        other = grpc.ssl_channel_credentials(pem(trustme.CA().cert_pem))
        with grpc.secure_channel(server.address, other) as channel:
            assert error_code(channel) == UNAVAILABLE
        url = f"http://{server.rest_address}/v1/models/multiply"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert json.load(answer)["model_version_status"]


def test_mutual_tls_admits_only_clients_that_the_server_trusts(
    doubling, tmp_path, authority, certificate
):
    clients = trustme.CA()
    tls = read_tls(tls_file(tmp_path / "ssl.config", certificate, clients, True))

    def channel_of(client):
        return grpc.secure_channel(
            server.address,
            grpc.ssl_channel_credentials(
                pem(authority.cert_pem),
                *(
                    client
                    and (pem(client.private_key_pem), pem(*client.cert_chain_pems))
                ),
            ),
        )

    with PredictionServer(doubling, "multiply", port=0, tls=tls) as server:
        with channel_of(clients.issue_cert("client")) as channel:
            predict(channel)
        # No certificate, and one of another authority.
        for client in ((), authority.issue_cert("client")):
            with channel_of(client) as channel:
                assert error_code(channel) == UNAVAILABLE


def test_a_key_for_another_certificate_is_reported(
    doubling, tmp_path, authority, certificate
):
    path = tls_file(tmp_path / "ssl.config", certificate)
    other = tls_file(tmp_path / "other.config", authority.issue_cert("localhost"))
    key = re.search("server_key.*", other.read_text())[0]
    path.write_text(re.sub("server_key.*", lambda _: key, path.read_text()))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(OSError, match="do not belong together"):
            PredictionServer(
                doubling, "multiply", port=port, tls=read_tls(path)
            ).start()


def test_a_socket_works_with_and_without_a_port(doubling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 characters
    with PredictionServer(
        doubling, "multiply", port=0, socket_path="both.socket"
    ) as server:
        assert server.address.startswith("127.0.0.1:")
        for address in (server.address, "unix:both.socket"):
            with grpc.insecure_channel(address) as channel:
                predict(channel)
    with PredictionServer(
        doubling, "multiply", port=None, socket_path="alone.socket"
    ) as server:
        assert server.address == "unix:alone.socket"
        with grpc.insecure_channel(server.address) as channel:
            predict(channel)
    with pytest.raises(ValueError, match="a port or a socket to listen on"):
        PredictionServer(doubling, port=None)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s" * 200, "longer than 107 bytes. Choose a shorter path"),
        ("absent/s", "in a folder that does not exist. Create it"),
        (".", "which exists and is not a socket. Choose another path"),
        ("file", "which exists and is not a socket. Choose another path"),
    ],
)
def test_an_unusable_socket_is_reported(doubling, tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("precious")
    server = PredictionServer(doubling, port=None, socket_path=path)
    with pytest.raises(OSError, match=re.escape(message)):
        server.start()
    assert Path("file").read_text() == "precious"


def test_a_second_server_leaves_a_socket_in_use_alone(
    doubling, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    with PredictionServer(doubling, "multiply", port=None, socket_path="s"):
        second = PredictionServer(doubling, "multiply", port=None, socket_path="s")
        with pytest.raises(OSError, match="on which another server listens"):
            second.start()
        with PredictionServer(doubling, "multiply", port=0, socket_path="s") as third:
            assert "another server listens" in caplog.text
            with grpc.insecure_channel(third.address) as channel:
                predict(channel)
        with grpc.insecure_channel("unix:s") as channel:
            predict(channel)


def test_a_socket_that_was_left_behind_is_used_again(doubling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("s")
        dead.listen()
    assert Path("s").is_socket()
    with (
        PredictionServer(doubling, "multiply", port=None, socket_path="s"),
        grpc.insecure_channel("unix:s") as channel,
    ):
        predict(channel)
    assert not Path("s").exists()


def test_one_of_several_servers_that_start_together_gets_the_socket(
    doubling, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind("s")
    dead.close()
    started, refused = [], []
    barrier = threading.Barrier(4)

    def start():
        server = PredictionServer(doubling, "multiply", port=None, socket_path="s")
        barrier.wait()
        try:
            server.start()
            started.append(server)
        except OSError as error:
            refused.append(error.errno)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(started), refused) == (1, 3 * [errno.EADDRINUSE])
    with grpc.insecure_channel("unix:s") as channel:
        predict(channel)
    started[0].stop()


@pytest.fixture(scope="module")
def configured(doubling):
    """A server that sends tensors as bytes and receives at most 1,000 bytes."""
    with (
        PredictionServer(
            doubling,
            "multiply",
            port=0,
            tensor_content=True,
            channel_arguments={"grpc.max_receive_message_length": 1000},
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_options_are_passed_to_grpc(configured):
    large = request_of({"x": np.ones((100, 4), np.float32)})
    code, details = rpc_error(configured.Predict, large)
    assert (code, "1000" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)


def test_tensors_are_sent_as_bytes(configured):
    outputs = configured.Predict(request_of(), timeout=30).outputs
    assert outputs["y"].tensor_content == (2 * ROWS).tobytes()
    assert not outputs["y"].float_val


def test_a_tensor_with_one_element_is_sent_as_bytes_too(configured):
    request = request_of({"x": ROWS[1:]}, output_filter=["total"])
    total = configured.Predict(request, timeout=30).outputs["total"]
    assert total.tensor_content == ROWS[1:].sum(1).tobytes()
