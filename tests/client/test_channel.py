"""Connections of the clients: TLS, Unix sockets, and what can be wrong with them."""

import asyncio
import re

import grpc
import pytest
import trustme
from client_servers import ScriptedServer, serve

from bn_keras_serving import PredictionClient
from bn_keras_serving.client.aio import AsyncPredictionClient
from bn_keras_serving.client.channel import Tls

pytestmark = pytest.mark.fast

STATUS = [(3, "AVAILABLE", "")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """PEM files of an authority, of a client with its certificate, and of others."""
    folder = tmp_path_factory.mktemp("tls")
    trusted, other = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    for name, authority in (("client", trusted), ("other", other)):
        issued = authority.issue_cert(f"{name}@example.org")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for index, pem in enumerate(issued.cert_chain_pems):
            pem.write_to_path(folder / f"{name}.pem", append=index > 0)
    (folder / "garbage.pem").write_text("not a certificate")
    issued = trusted.issue_cert("localhost", "models.example.org")
    server = (
        issued.private_key_pem.bytes(),
        b"".join(pem.bytes() for pem in issued.cert_chain_pems),
    )
    return folder, server, trusted.cert_pem.bytes()


@pytest.fixture(scope="module")
def address(files):
    """A server that encrypts, and accepts any client."""
    _, server, _ = files
    with serve(
        ScriptedServer(), credentials=grpc.ssl_server_credentials([server])
    ) as address:
        yield address.replace("127.0.0.1", "localhost")


def status(address, **tls):
    with PredictionClient(address, "m", retries=0, tls=Tls(**tls)) as client:
        return client.status()


def refusal(address, **tls):
    with pytest.raises(grpc.RpcError) as raised:
        status(address, **tls)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    return raised.value.details()


def test_a_server_with_a_trusted_certificate_answers(files, address):
    folder, *_ = files
    assert status(address, ca=folder / "ca.pem") == STATUS
    assert status(address, ca=str(folder / "ca.pem")) == STATUS


def test_a_server_with_an_untrusted_certificate_is_unavailable(files, address):
    folder, *_ = files
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(address, ca=folder / "other-ca.pem")
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(address)


def test_the_name_in_the_certificate_is_checked_and_can_be_set(files, address):
    folder, *_ = files
    ca = folder / "ca.pem"
    by_ip = address.replace("localhost", "127.0.0.1")
    assert "Hostname Verification" in refusal(by_ip, ca=ca)
    assert status(by_ip, ca=ca, server_name="models.example.org") == STATUS
    assert "Hostname" in refusal(by_ip, ca=ca, server_name="other.example.org")


def test_a_server_that_requires_client_certificates_gets_one(files):
    folder, server, authority = files
    credentials = grpc.ssl_server_credentials([server], authority, True)
    client = {
        "client_key": folder / "client.key",
        "client_certificate": folder / "client.pem",
    }
    other = {
        "client_key": folder / "other.key",
        "client_certificate": folder / "other.pem",
    }
    with serve(ScriptedServer(), credentials=credentials) as address:
        address = address.replace("127.0.0.1", "localhost")
        assert status(address, ca=folder / "ca.pem", **client) == STATUS
        refusal(address, ca=folder / "ca.pem")
        refusal(address, ca=folder / "ca.pem", **other)

        async def ask_status():
            tls = Tls(folder / "ca.pem", **client)
            async with AsyncPredictionClient(address, "m", tls=tls) as aio_client:
                return await aio_client.status()

        assert asyncio.run(ask_status()) == STATUS


def test_a_key_must_come_with_its_certificate(files):
    folder, *_ = files
    for alone in ("client_key", "client_certificate"):
        with pytest.raises(ValueError, match=r"must be given together.*\. Set both or"):
            status("localhost:1", **{alone: folder / "client.pem"})
    with pytest.raises(ValueError, match=r"certificate and its key.*other\.key\. Use "):
        status(
            "localhost:1",
            client_key=folder / "other.key",
            client_certificate=folder / "client.pem",
        )


def test_a_file_that_is_not_a_certificate_is_named(files):
    folder, *_ = files
    with pytest.raises(ValueError, match=r"`ca` must be a PEM .*garbage\.pem\. Conver"):
        status("localhost:1", ca=folder / "garbage.pem")
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder / "gone.pem"))):
        status("localhost:1", ca=folder / "gone.pem")


def test_the_address_can_be_a_unix_socket(tmp_path):
    with (
        serve(ScriptedServer(), f"unix:{tmp_path}/socket") as address,
        PredictionClient(address, "m") as client,
    ):
        assert client.status() == STATUS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": ""}, r"`address` must be host:port or unix:path\. Received: "),
        ({"timeout": 0}, r"`timeout` must be .* above 0\. Received: timeout=0\."),
        ({"timeout": float("nan")}, r"Received: timeout=nan\."),
        ({"retries": -1}, r"from 0 to 4\. Received: retries=-1\. To wait"),
        ({"retries": 5}, r"from 0 to 4\. Received: retries=5\. To wait"),
    ],
)
def test_arguments_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PredictionClient(**{"address": "127.0.0.1:1", "model_name": "m", **options})
