"""Ways to reach a server: TLS and mutual TLS, UNIX sockets, gRPC's own options."""

import json
import re
import socket
import urllib.request

import grpc
import numpy as np
import pytest
import trustme
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import ROWS, Model, request_of, rpc_error, write
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration import read_tls

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("multiply")
    write(Model(2), directory, 1)
    return directory


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.issue_cert("localhost", "127.0.0.1")


def pem(*blobs):
    return b"".join(one.bytes() for one in blobs)


def tls_file(path, certificate, authority=None, client_verify=False):
    """Write an `SSLConfig`, the PEM texts inline."""
    fields = {
        "server_key": pem(certificate.private_key_pem),
        "server_cert": pem(*certificate.cert_chain_pems),
    }
    if authority is not None:
        fields["custom_ca"] = pem(authority.cert_pem)
    lines = [
        f'{n}: "{text_format.text_encoding.CEscape(v, True)}"'
        for n, v in fields.items()
    ]
    lines.append(f"client_verify: {str(client_verify).lower()}")
    path.write_text("\n".join(lines))
    return path


def predict(channel, **options):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request_of(), timeout=30, **options)
    np.testing.assert_array_equal(response.outputs["y"].float_val, 2 * ROWS.ravel())
    return response


def refused(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return rpc_error(stub.Predict, request_of())[0]


def test_tls_is_for_grpc_and_those_who_trust_the_server(
    directory, tmp_path, authority, certificate
):
    tls = read_tls(tls_file(tmp_path / "ssl.config", certificate))
    with PredictionServer(
        directory, "multiply", port=0, rest_port=0, tls=tls
    ) as server:
        trusting = grpc.ssl_channel_credentials(pem(authority.cert_pem))
        with grpc.secure_channel(server.address, trusting) as channel:
            predict(channel)
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        with grpc.insecure_channel(server.address) as channel:
            assert refused(channel) == UNAVAILABLE
        other = grpc.ssl_channel_credentials(pem(trustme.CA().cert_pem))
        with grpc.secure_channel(server.address, other) as channel:
            assert refused(channel) == UNAVAILABLE
        url = f"http://{server.rest_address}/v1/models/multiply"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert json.load(answer)["model_version_status"]


def test_mutual_tls_is_for_those_whom_the_server_trusts(
    directory, tmp_path, authority, certificate
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

    with PredictionServer(directory, "multiply", port=0, tls=tls) as server:
        with channel_of(clients.issue_cert("client")) as channel:
            predict(channel)
        # Nobody, and somebody of another authority.
        for client in ((), authority.issue_cert("client")):
            with channel_of(client) as channel:
                assert refused(channel) == UNAVAILABLE


def test_a_key_of_another_certificate_is_one_clear_error(
    directory, tmp_path, authority, certificate
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
                directory, "multiply", port=port, tls=read_tls(path)
            ).start()


def test_a_socket_answers_besides_a_port_or_alone(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has some 100 characters
    with PredictionServer(
        directory, "multiply", port=0, socket_path="both.socket"
    ) as server:
        assert server.address.startswith("127.0.0.1:")
        for address in (server.address, "unix:both.socket"):
            with grpc.insecure_channel(address) as channel:
                predict(channel)
    with PredictionServer(
        directory, "multiply", port=None, socket_path="alone.socket"
    ) as server:
        assert server.address == "unix:alone.socket"
        with grpc.insecure_channel(server.address) as channel:
            predict(channel)
    with pytest.raises(ValueError, match="give `port`, `rest_port` or"):
        PredictionServer(directory, port=None)


def test_options_of_grpc_are_handed_on_and_tensors_sent_as_bytes(directory):
    with (
        PredictionServer(
            directory,
            "multiply",
            port=0,
            tensor_content=True,
            channel_arguments={"grpc.max_receive_message_length": 1000},
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request_of(), timeout=30).outputs
        assert outputs["y"].tensor_content == (2 * ROWS).tobytes()
        assert not outputs["y"].float_val
        large = request_of({"x": np.ones((100, 4), np.float32)})
        code, details = rpc_error(stub.Predict, large)
        assert (code, "1000" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)


def test_a_tensor_of_one_element_is_sent_as_bytes_too(directory):
    with (
        PredictionServer(directory, "multiply", port=0, tensor_content=True) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = request_of({"x": ROWS[1:]}, output_filter=["total"])
        total = stub.Predict(request, timeout=30).outputs["total"]
        assert total.tensor_content == ROWS[1:].sum(1).tobytes()
