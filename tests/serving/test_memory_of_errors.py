"""Requests that fail are freed at once, without a garbage collection."""

import gc
import http.client
import time
import tracemalloc

import grpc
import numpy as np
import pytest
from serving_models import UNLIMITED, request_of
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer

BYTES = 2**20  # of an input, and at least so many of a document
CALLS = 4

LARGE = np.zeros((BYTES // 16, 4), np.float32)
GRPC = {
    "an unknown output": request_of({"x": LARGE}, output_filter=["nothing"]),
    "an unknown input": request_of({"z": LARGE}),
    "an error of the model": request_of(
        {"x": np.full_like(LARGE, np.nan)}, signature="checked"
    ),
    "an unknown model": request_of({"x": LARGE}, name="nothing"),
}
ROWS = b"[1.25,2.5,3.75,5.0]," * (BYTES // 16)
REST = {
    "a document without an end": b'{"instances":[' + ROWS,
    "a value that is no number": b'{"instances":[' + ROWS + b'"x"]}',
    "an unknown signature": b'{"signature_name":"z","instances":[' + ROWS + b"[1]]}",
    "an error of the model": (
        b'{"signature_name":"checked","instances":[' + ROWS + b"[1,2,3,NaN]]}"
    ),
}


@pytest.fixture(scope="module")
def server(doubling):
    with PredictionServer(doubling, "multiply", port=0, rest_port=0) as server:
        yield server


@pytest.fixture(autouse=True)
def tracing():
    """Trace memory, and let no garbage collection hide what is kept."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


def check_nothing_is_kept(fail):
    fail()  # allocates what stays
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(CALLS):
        fail()
    # The last thread may still return from the call.
    end = time.monotonic() + 10
    while (kept := tracemalloc.get_traced_memory()[0] - before) > BYTES:
        assert time.monotonic() < end, f"{kept} bytes of {CALLS} requests are kept"
        time.sleep(0.01)


@pytest.mark.parametrize("request_", GRPC.values(), ids=list(GRPC))
def test_grpc_frees_a_request_that_fails(server, request_):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def fail():
            # An error of the client would keep its own copy of the request.
            error = stub.Predict.future(request_, timeout=30).exception()
            assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
            error.__traceback__ = None

        check_nothing_is_kept(fail)


@pytest.mark.parametrize("document", REST.values(), ids=list(REST))
def test_rest_frees_a_document_that_fails(server, document):
    def fail():
        connection = http.client.HTTPConnection(server.rest_address, timeout=30)
        connection.request("POST", "/v1/models/multiply:predict", document)
        assert connection.getresponse().status == 400
        connection.close()

    check_nothing_is_kept(fail)
