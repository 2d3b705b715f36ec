"""What the flags of `bn-keras serve` do, in real processes."""

import http.client
import json
import signal
import socket
import subprocess
import time

import grpc
import numpy as np
import pytest
import trustme
from command_line_calls import COMMAND, user_environment
from conformance.models import Factor
from google.protobuf.text_format import text_encoding
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import UNLIMITED, request_of, rpc_error, status_request, write
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

BATCHING = """\
max_batch_size { value: 4 }
batch_timeout_micros { value: 1000 }
num_batch_threads { value: 4 }
allowed_batch_sizes: 4
"""
ONE = {"x": np.ones(1, np.float32)}
TWO = {"x": np.ones(2, np.float32)}


class ServeProcess:
    """A process that runs `bn-keras serve`."""

    def __init__(self, arguments, directory):
        self.directory = directory
        self.process = subprocess.Popen(
            [COMMAND, "serve", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=user_environment(),
            text=True,
        )
        self.address = self.rest_address = None

    def wait_until_ready(self):
        line = self.process.stdout.readline()
        if not line.startswith("serving at "):
            raise AssertionError(self.process.communicate()[1])
        addresses = line.removeprefix("serving at ").split(", ")
        self.address = addresses[0]
        self.rest_address = addresses[1].removeprefix("http://")
        return self

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.rest_address, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def end(self):
        self.process.kill()
        self.process.communicate()


def models_config(**directories):
    """Return a `ModelServerConfig` of models, from their names to their folders."""
    models = (
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for name, path in directories.items()
    )
    return f"model_config_list {{ {' '.join(models)} }}"


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def commands(tmp_path_factory, authority):
    """Two servers that have all flags, as `--flag=value` and as `--flag value`."""
    directory = tmp_path_factory.mktemp("serve")
    for name in ("polled", "unpolled"):
        (directory / name).mkdir()
        write(Factor(2), directory / name, 1)
    certificate = authority.issue_cert("127.0.0.1")
    key = certificate.private_key_pem.bytes()
    (cert,) = (pem.bytes() for pem in certificate.cert_chain_pems)
    files = {
        "batching.config": BATCHING,
        "monitoring.config": 'prometheus_config { enable: true path: "/metrics" }',
        "unmonitored.config": "prometheus_config { enable: false }",
        "models.config": models_config(first=directory / "unpolled"),
        "ssl.config": f'server_key: "{text_encoding.CEscape(key, True)}"\n'
        f'server_cert: "{text_encoding.CEscape(cert, True)}"\n',
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    port, rest_port, second_port, second_rest_port = free_ports(4)
    with_equals = ServeProcess(
        [
            f"--port={port}",
            f"--rest_api_port={rest_port}",
            "--rest_api_timeout_in_ms=1500",
            f"--grpc_socket_path={directory / 's'}",
            "--model_name=factor",
            f"--model_base_path={directory / 'polled'}",
            "--file_system_poll_wait_seconds=1",
            f"--monitoring_config_file={directory / 'monitoring.config'}",
            "--enable_batching",
            f"--batching_parameters_file={directory / 'batching.config'}",
            "--grpc_channel_arguments=grpc.max_receive_message_length=100000",
            "--enable_serialization_as_tensor_content=true",
            "--tensorflow_intra_op_parallelism=1",
            "--saved_model_tags=serve",
            "--num_load_threads=2",
            "--max_num_load_retries=1",
            "--load_retry_interval_micros=-1",
            "--num_request_iterations_for_warmup=2",
            "--rest_api_enable_cors_support=true",
            "--enable_grpc_healthcheck_service=true",
            "--flush_filesystem_caches=false",
            "--prefer_tflite_model=false",
        ],
        directory,
    )
    with_spaces = ServeProcess(
        [
            *("--port", second_port),
            *("--rest_api_port", second_rest_port),
            *("--model_config_file", directory / "models.config"),
            *("--model_config_file_poll_wait_seconds", 1),
            *("--file_system_poll_wait_seconds", 0),
            *("--monitoring_config_file", directory / "unmonitored.config"),
            *("--enable_batching", "false"),
            *("--ssl_config_file", directory / "ssl.config"),
            *("--grpc_channel_arguments", "grpc.max_concurrent_streams=50"),
            *("--enable_serialization_as_tensor_content", "false"),
            *("--tensorflow_session_parallelism", 2),
            *("--enable_model_warmup", "false"),
            *("--grpc_max_threads", 3),
            *("--rest_api_num_threads", 2),
            *("--shape_checks", "strict"),
            *("--request_log", directory / "requests.jsonl"),
            *("--allow_model_reload", "false"),
        ],
        directory,
    )
    try:
        yield with_equals.wait_until_ready(), with_spaces.wait_until_ready()
    finally:
        with_equals.end()
        with_spaces.end()


@pytest.fixture
def first(commands):
    return commands[0]


@pytest.fixture
def second(commands):
    return commands[1]


@pytest.fixture
def predictions(first):
    with grpc.insecure_channel(first.address, options=UNLIMITED) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def secure(second, authority):
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc.secure_channel(second.address, credentials) as channel:
        yield channel


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("the condition never became true")


def answer(predictions, name, signature="", inputs=ONE):
    request = request_of(inputs, name, signature)
    return predictions.Predict(request, timeout=30)


def test_the_server_listens_on_ports_and_socket_of_the_flags(first, predictions):
    arguments = " ".join(first.process.args)
    addresses = {"port": first.address, "rest_api_port": first.rest_address}
    for flag, address in addresses.items():
        host, _, port = address.partition(":")
        assert host == "127.0.0.1"
        assert f" --{flag}={port} " in arguments
    with grpc.insecure_channel(f"unix:{first.directory / 's'}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert answer(stub, "factor") == answer(predictions, "factor")


def test_answers_are_bytes_and_batches_have_the_sizes_in_the_file(predictions):
    seen = answer(predictions, "factor", "rows", TWO).outputs["seen"]
    assert seen.tensor_content == np.int32([4, 4]).tobytes()
    five = request_of({"x": np.ones(5, np.float32)}, "factor")
    code, details = rpc_error(predictions.Predict, five)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "larger than maximum input batch size 4" in details


def test_channel_arguments_are_passed_to_grpc(predictions):
    large = request_of({"x": np.ones(30_000, np.float32)}, "factor")
    code, _ = rpc_error(predictions.Predict, large)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_rest_has_the_timeout_of_the_flag_and_metrics_the_path_in_the_file(first):
    path = "/v1/models/factor:predict"
    status, body = first.request("POST", path, '{"instances": [1.5]}')
    assert (status, json.loads(body)) == (200, {"predictions": [3.0]})
    slow = {"signature_name": "slow", "instances": [3_000_000]}
    start = time.monotonic()
    status, _ = first.request("POST", path, json.dumps(slow))
    assert (status, time.monotonic() - start < 2.9) == (504, True)
    status, body = first.request("GET", "/metrics")
    count = b':tensorflow:serving:request_count{model_name="factor",status="OK"}'
    assert (status, count in body) == (200, True)
    assert first.request("GET", "/monitoring/prometheus/metrics")[0] == 404


def test_a_new_version_is_found_by_polling_the_folder(first, predictions):
    write(Factor(3), first.directory / "polled", 2)

    def latest():
        return answer(predictions, "factor", inputs=TWO)

    wait_until(lambda: latest().model_spec.version.value == 2)
    assert latest().outputs["y"].tensor_content == np.float32([3, 3]).tobytes()


def test_tls_has_the_certificate_in_the_file(second, secure):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(secure)
    assert list(answer(stub, "first").outputs["y"].float_val) == [2.0]
    # Without batching the input is not padded.
    assert list(answer(stub, "first", "rows").outputs["seen"].int_val) == [1]
    with grpc.insecure_channel(second.address) as channel:
        plain = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        code, _ = rpc_error(plain.Predict, request_of(ONE, "first"))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert second.request("GET", "/v1/models/first")[0] == 200
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        assert second.request("GET", path)[0] == 404


def test_the_configuration_file_is_polled_and_the_folders_are_not(second, secure):
    # This version exists when the configuration is read again, and is not looked for.
    write(Factor(3), second.directory / "unpolled", 2)
    new = second.directory / "new.config"
    new.write_text(
        models_config(
            first=second.directory / "unpolled", added=second.directory / "polled"
        )
    )
    new.rename(second.directory / "models.config")
    stub = model_service_pb2_grpc.ModelServiceStub(secure)

    def is_added():
        call = stub.GetModelStatus.future(status_request("added"), timeout=30)
        return call.code() == grpc.StatusCode.OK

    wait_until(is_added)
    response = stub.GetModelStatus(status_request("first"), timeout=30)
    assert [status.version for status in response.model_version_status] == [1]


def test_requests_are_logged_and_reloads_refused_as_the_flags_say(second, secure):
    stub = model_service_pb2_grpc.ModelServiceStub(secure)
    request = model_management_pb2.ReloadConfigRequest()
    code, details = rpc_error(stub.HandleReloadConfigRequest, request)
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "--allow_model_reload" in details
    log = second.directory / "requests.jsonl"
    wait_until(lambda: '"PERMISSION_DENIED"' in log.read_text())


def test_sigterm_lets_requests_finish_and_the_status_is_0(second, secure):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(secure)
    watch = health_pb2_grpc.HealthStub(secure).Watch(
        health_pb2.HealthCheckRequest(), timeout=60
    )
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    slow = request_of({"x": np.full(1, 2_000_000)}, "first", "slow")
    call = stub.Predict.future(slow, timeout=30)
    time.sleep(0.3)  # so that the request has arrived
    second.process.send_signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not call.done()
    assert list(call.result().outputs["y"].int64_val) == [2_000_000]
    _, error = second.process.communicate(timeout=30)
    assert second.process.returncode == 0
    assert "Traceback" not in error


def test_flags_without_effect_are_named_in_the_log(first):
    first.process.send_signal(signal.SIGTERM)
    _, error = first.process.communicate(timeout=30)
    for flag in ("enable_grpc_healthcheck_service", "flush_filesystem_caches"):
        assert error.count(f"bn-keras: --{flag} has no effect: ") == 1
    assert "--prefer_tflite_model" not in error
