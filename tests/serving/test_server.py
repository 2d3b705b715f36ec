"""A server's life: it starts, stops in order, and says why it cannot start."""

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
from serving_models import ROWS, Model, request_of, rpc_error, write
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration import single_model
from bn_keras_serving.servable.signature import Signature

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    write(Model(2), directory, 2)
    shutil.copytree(directory / "2", directory / "3")
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    shutil.copytree(saved / "2", tmp_path / "multiply" / "2")
    return tmp_path / "multiply"


@pytest.fixture(scope="module")
def server(saved):
    with PredictionServer(saved, "multiply", port=0) as server:
        yield server


class Gate:
    """Holds every model that runs until it is opened."""

    def __init__(self, monkeypatch):
        self.begun = threading.Semaphore(0)
        self.opened = threading.Event()
        compute = Signature.compute

        def compute_when_opened(*arguments):
            self.begun.release()
            assert self.opened.wait(60)
            return compute(*arguments)

        monkeypatch.setattr(Signature, "compute", compute_when_opened)

    def wait_for(self, requests):
        for _ in range(requests):
            assert self.begun.acquire(timeout=20)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


def post(address, document):
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        path = "/v1/models/multiply:predict"
        connection.request("POST", path, json.dumps(document))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_stop_tells_health_first_and_finishes_what_runs(directory, gate):
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
        under_way = stub.Predict.future(request_of(), timeout=30)
        by_rest = pool.submit(post, server.rest_address, {"instances": ROWS.tolist()})
        gate.wait_for(2)
        stopper = threading.Thread(target=server.stop, args=(20,), daemon=True)
        stopper.start()
        assert next(watch).status == NOT_SERVING
        assert next(watch, None) is None
        time.sleep(0.1)
        late = stub.Predict.future(request_of(), timeout=30)
        assert late.code() == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(OSError, match="refused"):
            post(server.rest_address, {"instances": ROWS.tolist()})
        assert not under_way.done()
        assert not by_rest.done()
        gate.opened.set()
        result = under_way.result()
        np.testing.assert_array_equal(result.outputs["y"].float_val, 2 * ROWS.ravel())
        assert by_rest.result()[0] == 200
    stopper.join(20)
    waiter.join(20)
    assert not stopper.is_alive()
    assert not waiter.is_alive()
    server.stop()  # a second time does no harm


def test_an_open_watch_does_not_hold_a_stop(directory):
    server = PredictionServer(directory, port=0)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=""), timeout=60
        )
        assert next(watch).status == SERVING
        begun = time.monotonic()
        server.stop(grace=30)
        assert time.monotonic() - begun < 10
        assert [one.status for one in watch] == [NOT_SERVING]


def test_a_stop_is_bounded_by_its_grace(directory, saved, gate, monkeypatch):
    server = PredictionServer(directory, port=0, rest_port=0, poll_seconds=0.05)
    server.start()
    loading = threading.Event()

    def warm_up_when_opened(*_):
        loading.set()
        assert gate.opened.wait(60)

    monkeypatch.setattr("bn_keras_serving.server.warm_up", warm_up_when_opened)
    shutil.copytree(saved / "3", unfinished := directory.parent / "unfinished")
    unfinished.rename(directory / "3")
    with (
        grpc.insecure_channel(server.address) as channel,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        under_way = stub.Predict.future(request_of(), timeout=60)
        by_rest = pool.submit(post, server.rest_address, {"instances": ROWS.tolist()})
        gate.wait_for(2)
        assert loading.wait(20)
        begun = time.monotonic()
        server.stop(grace=0.5)
        assert 0.5 <= time.monotonic() - begun < 5
        assert under_way.code() in (
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNAVAILABLE,
        )
        assert isinstance(by_rest.exception(), (OSError, http.client.HTTPException))
    gate.opened.set()
    time.sleep(0.5)
    # What was loaded too late is not served.
    latest = server._models.statuses("multiply")[0]
    assert (latest.version, latest.state.value) == (3, "END")


def test_an_unforeseen_error_tells_the_client_nothing(server, monkeypatch, caplog):
    def compute(*_):
        raise OSError("/srv/secret")

    monkeypatch.setattr(Signature, "compute", compute)
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert rpc_error(stub.Predict, request_of()) == (
            grpc.StatusCode.INTERNAL,
            "Internal error; the server's log tells its cause.",
        )
    assert "/srv/secret" in caplog.text


def test_a_taken_port_is_one_clear_error(server, directory):
    port = int(server.address.rpartition(":")[2])
    taken = rf"Received: 127\.0\.0\.1:{port}, taken; .* with --port"
    with pytest.raises(OSError, match=taken):
        PredictionServer(directory, port=port).start()
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(OSError, match="taken; choose another port") as raised,
    ):
        PredictionServer(directory, port=other.getsockname()[1]).start()
    assert raised.value.errno == errno.EADDRINUSE


def test_a_taken_rest_port_is_told_and_the_other_left_free(directory):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        for _ in range(2):
            with pytest.raises(OSError, match=str(taken)) as raised:
                PredictionServer(directory, port=port, rest_port=taken).start()
            assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("host", "message"),
    [
        # Kept for documentation, so no interface has it (RFC 5737).
        ("192.0.2.1", r"Received: 192\.0\.2\.1:0, a host not of .* correct --host"),
        ("no.such.host.invalid", "a host that no name is known for; correct --host"),
    ],
)
def test_a_host_of_another_machine_is_not_called_a_taken_port(directory, host, message):
    with pytest.raises(OSError, match=message) as raised:
        PredictionServer(directory, host=host, port=0).start()
    assert raised.value.errno == errno.EADDRNOTAVAIL


def test_a_server_on_every_interface_tells_an_address_that_is_reached(directory):
    with PredictionServer(directory, host="0.0.0.0", port=0, rest_port=0) as server:
        assert server.address.startswith("127.0.0.1:")
        with grpc.insecure_channel(server.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(request_of(), timeout=30)
        assert post(server.rest_address, {"instances": ROWS.tolist()})[0] == 200


@pytest.mark.parametrize("port", [-1, 65536])
@pytest.mark.parametrize("name", ["port", "rest_port"])
def test_a_port_out_of_range_is_refused(directory, name, port):
    with pytest.raises(ValueError, match=rf"port from 0 to 65535.*Received: {port};"):
        PredictionServer(directory, **{"port": 0, name: port}).start()


def test_an_empty_directory_is_refused_and_the_port_left_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"/1/saved_model\.pb.* without any;"):
            PredictionServer(tmp_path, port=port).start()


def test_what_is_to_be_served_is_given_once(directory):
    with pytest.raises(ValueError, match=r"a configuration of models\. .*: neither;"):
        PredictionServer(port=0)
    config = single_model("multiply", str(directory))
    with pytest.raises(ValueError, match=r"a configuration of models\. .*: both;"):
        PredictionServer(directory, port=0, config=config)


def test_a_server_starts_once(server):
    with pytest.raises(RuntimeError, match="one start for each server"):
        server.start()


def test_the_interpreter_ends_though_nobody_stops_the_server(directory):
    program = (
        "import sys; from bn_keras_serving import PredictionClient, PredictionServer; "
        f"server = PredictionServer({str(directory)!r}, port=0, rest_port=0); "
        "server.start(); "
        "PredictionClient(server.address, 'multiply').status(); "
        "print('asked')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "asked\n"), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_stop_takes_no_time(directory):
    server = PredictionServer(directory, port=0)
    server.start()
    assert server.stop()
    begun = time.monotonic()
    assert server.stop()
    assert time.monotonic() - begun < 3
