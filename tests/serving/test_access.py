"""Who may replace the list of models: whoever could also stop the server."""

import threading
import time

import grpc
import pytest
import trustme
from serving_models import rpc_error
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration import ServerTls
from bn_keras_serving.configuration.settings import Access

DENIED = grpc.StatusCode.PERMISSION_DENIED
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def reload_code(channel):
    """Send a list that no server accepts, and return the status."""
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = model_management_pb2.ReloadConfigRequest()
    code, details = rpc_error(stub.HandleReloadConfigRequest, request)
    if code == DENIED:
        assert "--allow_model_reload" in details
    return code


@pytest.mark.parametrize(
    ("where", "allow_reload", "code"),
    [
        ({"host": "127.0.0.1"}, None, INVALID),
        ({"host": "localhost"}, None, INVALID),
        ({"host": "0.0.0.0"}, None, DENIED),
        ({"host": "::"}, None, DENIED),
        ({"host": "0.0.0.0"}, True, INVALID),
        ({"host": "127.0.0.1"}, False, DENIED),
        # Clients of the socket are on this machine, those of the port are not.
        ({"host": "0.0.0.0", "port": None, "socket_path": "s"}, None, INVALID),
        ({"host": "0.0.0.0", "socket_path": "s"}, None, DENIED),
    ],
    ids=str,
)
def test_clients_of_other_machines_may_not_reload_unless_it_is_allowed(
    doubling, tmp_path, monkeypatch, where, allow_reload, code
):
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 characters
    with (
        PredictionServer(
            doubling, "multiply", access=Access(allow_reload), **{"port": 0, **where}
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert reload_code(channel) == code


def test_the_thread_for_reloads_ends_with_the_server(doubling):
    others = set(threading.enumerate())
    with (
        PredictionServer(doubling, "multiply", port=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert reload_code(channel) == INVALID
        assert {t.name for t in set(threading.enumerate()) - others} > {"reload"}
    end = time.monotonic() + 10
    while any(t.name == "reload" for t in set(threading.enumerate()) - others):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("client_verify", "code"), [(True, INVALID), (False, DENIED)])
def test_clients_that_tls_verifies_may_reload(doubling, client_verify, code):
    authority = trustme.CA()
    ca = authority.cert_pem.bytes()
    issued = authority.issue_cert("127.0.0.1")
    key, chain = issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
    tls = ServerTls(key.decode(), chain.decode(), ca.decode(), client_verify)
    with (
        PredictionServer(doubling, "m", "0.0.0.0", port=0, tls=tls) as server,
        grpc.secure_channel(
            server.address, grpc.ssl_channel_credentials(ca, key, chain)
        ) as channel,
    ):
        assert reload_code(channel) == code
