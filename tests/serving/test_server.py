"""Start and stop of a server, and errors that prevent a start."""

import errno
import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paths import ROOT
from serving_models import ROWS, request_of, rpc_error
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration import single_model
from bn_keras_serving.servable.signature import Signature

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DOCUMENT = {"instances": ROWS.tolist()}


@pytest.fixture
def directory(doubling, tmp_path):
    """A directory of its own with version 2."""
    shutil.copytree(doubling / "2", tmp_path / "multiply" / "2")
    return tmp_path / "multiply"


@pytest.fixture(scope="module")
def server(doubling):
    with PredictionServer(doubling, "multiply", port=0) as server:
        yield server


def post(address, document):
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        path = "/v1/models/multiply:predict"
        connection.request("POST", path, json.dumps(document))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_stop_changes_the_health_first_and_finishes_running_requests(directory, gate):
    server = PredictionServer(directory, port=0, rest_port=0)
    server.start()
    waiter = threading.Thread(target=server.wait, daemon=True)
    waiter.start()
    with (
        grpc.insecure_channel(server.address) as channel,
        futures.ThreadPoolExecutor(2) as pool,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="PredictionService"), timeout=30
        )
        assert next(watch).status == SERVING
        running = stub.Predict.future(request_of(), timeout=30)
        running_rest = pool.submit(
            post, server.rest_address, {"instances": ROWS.tolist()}
        )
        gate.wait_for(2)
        stopper = threading.Thread(target=server.stop, args=(20,), daemon=True)
        stopper.start()
        assert next(watch).status == NOT_SERVING
        assert next(watch, None) is None
        time.sleep(0.1)
        late = stub.Predict.future(request_of(), timeout=30)
        assert late.code() == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(OSError, match="refused"):
            post(server.rest_address, DOCUMENT)
        assert not running.done()
        assert not running_rest.done()
        gate.open()
        result = running.result()
        np.testing.assert_array_equal(result.outputs["y"].float_val, 2 * ROWS.ravel())
        assert running_rest.result()[0] == 200
    stopper.join(20)
    waiter.join(20)
    assert not stopper.is_alive()
    assert not waiter.is_alive()
    server.stop()  # a second call is harmless


def test_an_open_watch_does_not_delay_stop(directory):
    server = PredictionServer(directory, port=0)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=""), timeout=60
        )
        assert next(watch).status == SERVING
        start = time.monotonic()
        server.stop(grace=30)
        assert time.monotonic() - start < 10
        assert [response.status for response in watch] == [NOT_SERVING]


def test_stop_takes_no_longer_than_its_grace_period(
    directory, doubling, gate, monkeypatch
):
    server = PredictionServer(directory, port=0, rest_port=0, poll_seconds=0.05)
    server.start()
    loading = threading.Event()

    def warm_up_behind_gate(*_):
        loading.set()
        gate.pass_through()

    monkeypatch.setattr("bn_keras_serving.server.warm_up", warm_up_behind_gate)
    shutil.copytree(doubling / "2", unfinished := directory.parent / "unfinished")
    unfinished.rename(directory / "3")
    with (
        grpc.insecure_channel(server.address) as channel,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        running = stub.Predict.future(request_of(), timeout=60)
        running_rest = pool.submit(
            post, server.rest_address, {"instances": ROWS.tolist()}
        )
        assert loading.wait(20)
        gate.wait_for(3)  # two requests and the load
        start = time.monotonic()
        server.stop(grace=0.5)
        assert 0.5 <= time.monotonic() - start < 5
        assert running.code() in (
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNAVAILABLE,
        )
        error = running_rest.exception()
        assert isinstance(error, (OSError, http.client.HTTPException))
    gate.open()
    time.sleep(0.5)
    # The version whose load ended too late is not served.
    latest = server._models.statuses("multiply")[0]
    assert (latest.version, latest.state.value) == (3, "END")


def test_the_client_learns_nothing_about_an_unexpected_error(
    server, monkeypatch, caplog
):
    def compute(*_):
        raise OSError("/srv/secret")

    monkeypatch.setattr(Signature, "compute", compute)
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert rpc_error(stub.Predict, request_of()) == (
            grpc.StatusCode.INTERNAL,
            "Internal error. See the server's log for its cause.",
        )
    assert "/srv/secret" in caplog.text


def test_a_port_in_use_is_reported(server, directory):
    port = int(server.address.rpartition(":")[2])
    message = rf"Received: 127\.0\.0\.1:{port}, in use\. .* with --port"
    with pytest.raises(OSError, match=message):
        PredictionServer(directory, port=port).start()
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(OSError, match=r"in use\. Choose another port") as raised,
    ):
        PredictionServer(directory, port=other.getsockname()[1]).start()
    assert raised.value.errno == errno.EADDRINUSE


def test_a_rest_port_in_use_is_reported_and_the_grpc_port_released(directory):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as other:
        used = other.getsockname()[1]
        for _ in range(2):
            with pytest.raises(OSError, match=str(used)) as raised:
                PredictionServer(directory, port=port, rest_port=used).start()
            assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("host", "message"),
    [
        # Reserved for documentation, so no interface has it (RFC 5737).
        ("192.0.2.1", r"192\.0\.2\.1:0, a host that is not this .* Correct --host"),
        ("no.such.host.invalid", r"name that cannot be resolved\. Correct --host"),
        ("*", r"\*:0, which names no host\. Give --host 0\.0\.0\.0 or :: for all"),
        ("", "which names no host"),
    ],
)
def test_an_unusable_host_is_reported(directory, host, message):
    with pytest.raises(OSError, match=message) as raised:
        PredictionServer(directory, host=host, port=0).start()
    assert raised.value.errno == errno.EADDRNOTAVAIL


def test_a_server_on_every_interface_has_an_address_for_local_clients(directory):
    with PredictionServer(directory, host="0.0.0.0", port=0, rest_port=0) as server:
        assert server.address.startswith("127.0.0.1:")
        with grpc.insecure_channel(server.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(request_of(), timeout=30)
        assert post(server.rest_address, DOCUMENT)[0] == 200


@pytest.mark.parametrize("port", [-1, 65536])
@pytest.mark.parametrize("name", ["port", "rest_port"])
def test_a_port_out_of_range_is_rejected(directory, name, port):
    with pytest.raises(ValueError, match=rf"between 0 and 65535.*Received: {port}\."):
        PredictionServer(directory, **{"port": 0, name: port}).start()


def test_an_empty_directory_is_rejected_and_the_port_released(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"1/saved_model\.pb.* contains no version"
        ):
            PredictionServer(tmp_path, port=port).start()


def test_either_a_directory_or_a_configuration_must_be_given(directory):
    with pytest.raises(ValueError, match=r"Exactly one of .* Received: neither"):
        PredictionServer(port=0)
    config = single_model("multiply", str(directory))
    with pytest.raises(ValueError, match=r"Exactly one of .* Received: both"):
        PredictionServer(directory, port=0, config=config)


def test_a_server_can_be_started_only_once(server):
    with pytest.raises(RuntimeError, match="must be started only once"):
        server.start()


def test_the_interpreter_exits_even_if_the_server_is_not_stopped(directory):
    program = (
        "import sys; from bn_keras_serving import PredictionClient, PredictionServer; "
        f"server = PredictionServer({str(directory)!r}, port=0, rest_port=0); "
        "server.start(); "
        "PredictionClient(server.address, 'multiply').status(); "
        "print('answered')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "answered\n"), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_stop_returns_quickly(directory):
    server = PredictionServer(directory, port=0)
    server.start()
    assert server.stop()
    start = time.monotonic()
    assert server.stop()
    assert time.monotonic() - start < 3
