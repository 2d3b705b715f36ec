"""How the clients reach a server: TLS, Unix sockets, their errors."""

import asyncio
import re

import grpc
import pytest
import trustme
from client_servers import Told, serving

from bn_keras_serving import PredictionClient
from bn_keras_serving.client.aio import AsyncPredictionClient
from bn_keras_serving.client.channel import Tls

STATUS = [(3, "AVAILABLE", "")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """PEM files of an authority, of a client it knows, and of strangers."""
    folder = tmp_path_factory.mktemp("tls")
    known, stranger = trustme.CA(), trustme.CA()
    known.cert_pem.write_to_path(folder / "ca.pem")
    stranger.cert_pem.write_to_path(folder / "other-ca.pem")
    for name, authority in (("client", known), ("other", stranger)):
        issued = authority.issue_cert(f"{name}@example.org")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for index, pem in enumerate(issued.cert_chain_pems):
            pem.write_to_path(folder / f"{name}.pem", append=index > 0)
    (folder / "garbage.pem").write_text("no certificate")
    issued = known.issue_cert("localhost", "models.example.org")
    server = (
        issued.private_key_pem.bytes(),
        b"".join(pem.bytes() for pem in issued.cert_chain_pems),
    )
    return folder, server, known.cert_pem.bytes()


@pytest.fixture(scope="module")
def address(files):
    """A server that speaks TLS to anyone."""
    _, server, _ = files
    with serving(Told(), credentials=grpc.ssl_server_credentials([server])) as address:
        yield address.replace("127.0.0.1", "localhost")


def status(address, **tls):
    with PredictionClient(address, "m", retries=0, tls=Tls(**tls)) as client:
        return client.status()


def refused(address, **tls):
    with pytest.raises(grpc.RpcError) as raised:
        status(address, **tls)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    return raised.value.details()


def test_a_trusted_server_is_asked(files, address):
    folder, *_ = files
    assert status(address, ca=folder / "ca.pem") == STATUS
    assert status(address, ca=str(folder / "ca.pem")) == STATUS


def test_an_untrusted_server_is_not(files, address):
    folder, *_ = files
    assert "CERTIFICATE_VERIFY_FAILED" in refused(address, ca=folder / "other-ca.pem")
    assert "CERTIFICATE_VERIFY_FAILED" in refused(address)


def test_the_name_in_the_certificate_counts_and_can_be_told(files, address):
    folder, *_ = files
    ca = folder / "ca.pem"
    by_number = address.replace("localhost", "127.0.0.1")
    assert "Hostname Verification" in refused(by_number, ca=ca)
    assert status(by_number, ca=ca, server_name="models.example.org") == STATUS
    assert "Hostname" in refused(by_number, ca=ca, server_name="other.example.org")


def test_a_server_that_asks_who_calls_is_told(files):
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
    with serving(Told(), credentials=credentials) as address:
        address = address.replace("127.0.0.1", "localhost")
        assert status(address, ca=folder / "ca.pem", **client) == STATUS
        refused(address, ca=folder / "ca.pem")
        refused(address, ca=folder / "ca.pem", **other)

        async def ask():
            tls = Tls(folder / "ca.pem", **client)
            async with AsyncPredictionClient(address, "m", tls=tls) as asking:
                return await asking.status()

        assert asyncio.run(ask()) == STATUS


def test_a_key_comes_with_its_certificate(files):
    folder, *_ = files
    for alone in ("client_key", "client_certificate"):
        with pytest.raises(ValueError, match=r"must be given together.*; add the othe"):
            status("localhost:1", **{alone: folder / "client.pem"})
    with pytest.raises(ValueError, match=r"belong together.*other\.key; choose the ke"):
        status(
            "localhost:1",
            client_key=folder / "other.key",
            client_certificate=folder / "client.pem",
        )


def test_a_file_that_is_no_certificate_is_named(files):
    folder, *_ = files
    with pytest.raises(ValueError, match=r"`ca` must be a PEM .*garbage\.pem; convert"):
        status("localhost:1", ca=folder / "garbage.pem")
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder / "gone.pem"))):
        status("localhost:1", ca=folder / "gone.pem")


def test_a_unix_socket_is_an_address(tmp_path):
    with (
        serving(Told(), f"unix:{tmp_path}/socket") as address,
        PredictionClient(address, "m") as client,
    ):
        assert client.status() == STATUS
