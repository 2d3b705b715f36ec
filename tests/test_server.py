"""A server's life, over a real port with the real stubs."""

import errno
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import (
    ROWS,
    UNLIMITED,
    Echo,
    Model,
    refusal,
    request_of,
    status_request,
    write,
)
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import PredictionServer
from serving.servables import Servable
from serving.signatures import Signature

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    write(Model(2), directory, 2)
    write(Model(3), directory, 3)
    write(Echo(), directory, 4)
    return directory


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "multiply"
    shutil.copytree(saved / "2", directory / "2")
    with PredictionServer(directory, port=0) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture
def directory(saved, tmp_path):
    shutil.copytree(saved / "2", tmp_path / "multiply" / "2")
    return tmp_path / "multiply"


def test_messages_above_four_mebibytes_pass_both_ways(predictions):
    rows = np.ones((300_000, 4), np.float32)
    response = predictions.Predict(request_of({"x": rows}), timeout=30)
    assert response.ByteSize() > 4 * 2**20
    assert sum(response.outputs["total"].float_val) == 1_200_000


@pytest.mark.parametrize(
    "service",
    ["", "PredictionService", "ModelService", "tensorflow.serving.PredictionService"],
)
def test_health_is_serving(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service_is_not_found(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="other")
    assert refusal(stub.Check, request)[0] == NOT_FOUND


def test_work_whose_deadline_has_passed_is_not_begun(predictions, monkeypatch):
    ran, parsed = [], threading.Event()

    def parse_slowly(_, protos):
        time.sleep(0.3)
        parsed.set()
        return {alias: tf.make_ndarray(one) for alias, one in protos.items()}

    monkeypatch.setattr(Signature, "parse", parse_slowly)
    monkeypatch.setattr(Signature, "run", lambda *_: ran.append(1) or {})
    with pytest.raises(grpc.RpcError) as raised:
        predictions.Predict(request_of(), timeout=0.1)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert parsed.wait(10)
    time.sleep(0.1)
    assert not ran


def test_no_request_fails_while_a_version_swaps_and_a_bad_one_comes(
    saved, directory, monkeypatch
):
    monkeypatch.setattr("serving.servables.LOAD_ATTEMPTS", 2)
    answers, failures = [], []
    stop = threading.Event()

    def ask(stub):
        while not stop.is_set():
            try:
                response = stub.Predict(request_of(), timeout=30)
                factor = response.outputs["y"].float_val[1]
                answers.append((response.model_spec.version.value, factor))
            except grpc.RpcError as error:
                failures.append(error)

    def wait_for_state(stub, version, state):
        state = get_model_status_pb2.ModelVersionStatus.State.Value(state)
        for _ in range(2000):
            found = stub.GetModelStatus(status_request()).model_version_status
            for one in found:
                if (one.version, one.state) == (version, state):
                    return one
            time.sleep(0.01)
        raise AssertionError(f"version {version} never came to be {state}")

    with (
        PredictionServer(directory, port=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        askers = [threading.Thread(target=ask, args=(stub,)) for _ in range(2)]
        for one in askers:
            one.start()
        shutil.copytree(saved / "3", directory / "unfinished")
        (directory / "unfinished").rename(directory / "3")
        wait_for_state(models, 2, "END")
        (directory / "4").mkdir()
        bad = wait_for_state(models, 4, "END")
        seen = len(answers)
        while len(answers) < seen + 20:
            time.sleep(0.01)
        stop.set()
        for one in askers:
            one.join()
    assert not failures
    assert set(answers) == {(2, 2.0), (3, 3.0)}
    assert answers[-1] == (3, 3.0)
    assert bad.status.error_code == grpc.StatusCode.UNKNOWN.value[0]
    assert "multiply/4/" in bad.status.error_message
    assert str(directory.parent) not in bad.status.error_message


def test_stop_tells_health_first_and_finishes_what_runs(directory, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    run = Signature.run

    def run_slowly(*arguments):
        begun.set()
        assert go_on.wait(20)
        return run(*arguments)

    monkeypatch.setattr(Signature, "run", run_slowly)
    server = PredictionServer(directory, port=0)
    server.start()
    waiter = threading.Thread(target=server.wait)
    waiter.start()
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="PredictionService"), timeout=30
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        under_way = stub.Predict.future(request_of(), timeout=30)
        assert begun.wait(20)
        stopper = threading.Thread(target=server.stop, args=(20,))
        stopper.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(watch, None) is None
        time.sleep(0.1)
        late = stub.Predict.future(request_of(), timeout=30)
        assert late.code() == grpc.StatusCode.UNAVAILABLE
        assert not under_way.done()
        go_on.set()
        result = under_way.result()
        np.testing.assert_array_equal(result.outputs["y"].float_val, 2 * ROWS.ravel())
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
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        begun = time.monotonic()
        server.stop(grace=30)
        assert time.monotonic() - begun < 10
        states = [one.status for one in watch]
    assert states == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_stop_is_bounded_by_its_grace(directory, saved, monkeypatch):
    running, loading, go_on = threading.Event(), threading.Event(), threading.Event()

    def hang(begun):
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(Signature, "run", lambda *_: hang(running))
    server = PredictionServer(directory, port=0)
    server.start()
    monkeypatch.setattr(Servable, "warm_up", lambda *_: hang(loading))
    shutil.copytree(saved / "3", tmp := directory.parent / "unfinished")
    tmp.rename(directory / "3")
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        under_way = stub.Predict.future(request_of(), timeout=60)
        assert running.wait(20)
        assert loading.wait(20)
        begun = time.monotonic()
        server.stop(grace=0.5)
        assert 0.5 <= time.monotonic() - begun < 5
        assert under_way.code() in (
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNAVAILABLE,
        )
    go_on.set()
    server._servables._watcher.join(20)
    # What was loaded too late is not served.
    latest = server._servables.versions("multiply")[0]
    assert (latest.version, latest.state.value) == (3, "END")


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
    with PredictionServer(directory, host="0.0.0.0", port=0) as server:
        assert server.address.startswith("127.0.0.1:")
        with grpc.insecure_channel(server.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(request_of(), timeout=30)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(directory, port):
    with pytest.raises(ValueError, match=rf"port from 0 to 65535.*Received: {port};"):
        PredictionServer(directory, port=port).start()


def test_an_empty_directory_is_refused_and_the_port_left_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"/1/saved_model\.pb.* without any;"):
            PredictionServer(tmp_path, port=port).start()


def test_a_server_starts_once(server):
    with pytest.raises(RuntimeError, match="one start for each server"):
        server.start()


def test_the_interpreter_ends_though_nobody_stops_the_server(directory):
    program = (
        "import sys; from serving import PredictionClient, PredictionServer; "
        f"server = PredictionServer({str(directory)!r}, port=0); server.start(); "
        "PredictionClient(server.address, 'multiply').status(); "
        "print('asked')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "asked\n")
    assert "Traceback" not in ended.stderr
