"""The server under test: the embedded one, or the one at `TFS_ENDPOINT`."""

import dataclasses
import gc
import http.client
import json
import os
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from serving_models import UNLIMITED, status_request, write
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving import PredictionServer
from bn_keras_serving.configuration import read_batching
from bn_keras_serving.configuration.settings import Loading
from conformance.models import write_all

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION

EMBEDDED = "TFS_ENDPOINT" not in os.environ
STATES = get_model_status_pb2.ModelVersionStatus.State
METRICS_PATH = "/monitoring/prometheus/metrics"


def embedded_only(reason):
    """Mark a test of behavior that differs, or cannot be set up, on a real server."""
    return pytest.mark.skipif(not EMBEDDED, reason=f"embedded server only: {reason}")


def known_defect(reason):
    """Mark a test that the embedded server does not pass yet."""
    return pytest.mark.xfail(EMBEDDED, strict=True, reason=reason)


@dataclasses.dataclass
class Endpoint:
    """A server with the models that `conformance.models` writes.

    Attributes:
        grpc: `host:port` for gRPC.
        rest: `host:port` for REST, or None.
        disk: Directory of its models, or None.
    """

    grpc: str
    rest: str | None = None
    disk: Path | None = None

    def __post_init__(self):
        self.channel = grpc.insecure_channel(self.grpc, options=UNLIMITED)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self.channel
        )
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def config(self):
        """Return the configuration that the server was started with."""
        text = (self.disk / "models.config").read_text()
        return text_format.Parse(text, ModelServerConfig())

    def write(self, model, name, warm_up=()):
        """Write the next version of a model; return its number."""
        directory = self.disk / name
        version = 1 + max(int(path.name) for path in directory.glob("[0-9]*"))
        write(model, directory, version, warm_up)
        return version

    def states(self, name):
        """Return the status of each version, by number."""
        response = self.models.GetModelStatus(status_request(name), timeout=30)
        return {status.version: status for status in response.model_version_status}

    def wait_for(self, name, version, state, seen=None):
        """Wait until a version is in a state; append the states meanwhile to `seen`."""
        for _ in range(3000):
            states = self.states(name)
            if seen is not None:
                seen.append({number: status.state for number, status in states.items()})
            if version in states and states[version].state == STATES.Value(state):
                return states[version]
            time.sleep(0.01)
        raise AssertionError(f"{name} {version} did not become {state}: {states}")

    def request(self, method, path, body=None, **headers):
        """Send a REST request; return status, body and headers."""
        connection = http.client.HTTPConnection(self.rest, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def post(self, path, document):
        """Post a document to REST; return the status and the response's document."""
        status, body, _ = self.request("POST", path, json.dumps(document))
        return status, json.loads(body)

    def get(self, path):
        """Get a document from REST; return the status and the document."""
        status, body, _ = self.request("GET", path)
        return status, json.loads(body)

    def metrics(self):
        """Return sample (name and labels) to value."""
        status, body, _ = self.request("GET", METRICS_PATH)
        assert status == 200
        lines = body.decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {sample: float(value) for sample, value in samples}


def main_endpoint(directory):
    """Yield the endpoint that most tests use."""
    if not EMBEDDED:
        disk = os.environ.get("TFS_MODELS")
        yield Endpoint(
            os.environ["TFS_ENDPOINT"],
            os.environ.get("TFS_REST_ENDPOINT"),
            None if disk is None else Path(disk),
        )
        return
    write_all(directory)
    gc.freeze()  # as `bn-keras serve` does
    with PredictionServer(
        config=directory / "models.config",
        port=0,
        rest_port=0,
        poll_seconds=0.02,
        # A version that fails ends after two attempts, instead of six minutes.
        loading=Loading(retries=1, retry_seconds=0.0),
    ) as server:
        yield Endpoint(server.address, server.rest_address, directory)
        gc.freeze()  # what has been created meanwhile
    gc.unfreeze()


def batching_endpoint(main):
    """Yield an endpoint with batching and the same models."""
    if not EMBEDDED:
        if "TFS_BATCHING_ENDPOINT" not in os.environ:
            pytest.skip("TFS_BATCHING_ENDPOINT is not set")
        yield Endpoint(
            os.environ["TFS_BATCHING_ENDPOINT"],
            os.environ.get("TFS_BATCHING_REST_ENDPOINT"),
        )
        return
    with PredictionServer(
        main.disk / "factors",
        "all",
        port=0,
        rest_port=0,
        batching=read_batching(main.disk / "batching.config"),
    ) as server:
        yield Endpoint(server.address, server.rest_address)
