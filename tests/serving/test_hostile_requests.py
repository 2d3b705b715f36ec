"""Short requests that claim to be large, and errors that must not reveal anything."""

import resource
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from served_process import run_in_process
from serving_models import ROWS, Echo, proto_of, request_of, rpc_error, write
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer
from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.servable.servable import Servable
from bn_keras_serving.servable.signature import Signature

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def errors_within_one_gibibyte(path):
    """Parse a string tensor of 100 kB that claims 400 GB; return the errors."""
    proto = proto_of(tf.string, [2**22], string_val=[b"x" * 100_000])
    servable = Servable(1, path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    errors = []
    for name in ("float32", "string"):
        try:
            servable.signature(name).parse({"x": proto})
        except InvalidRequestError as error:
            errors.append(str(error))
    return errors


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    return write(Echo(), tmp_path_factory.mktemp("echo"), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_string_that_would_fill_a_large_shape_takes_no_memory(echo):
    assert run_in_process(errors_within_one_gibibyte, echo) == [
        "Expects arg[0] to be float but string is provided",
        "tensor parsing error: x",
    ]


def test_every_element_of_a_string_tensor_must_be_sent(echo):
    signature = Servable(1, echo).signature("string")
    words = np.array([b"a", b"", b"a" * 1000], object)
    sent = {"x": tf.make_tensor_proto(words)}
    assert signature.parse(sent)["x"].tolist() == words.tolist()
    for fields in ({}, {"string_val": [b"a"]}, {"tensor_content": b"\x01\x01a"}):
        with pytest.raises(InvalidRequestError, match="tensor parsing error: x"):
            signature.parse({"x": proto_of(tf.string, (2,), **fields)})


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.complex128, tf.bool])
def test_content_of_a_wrong_length_logs_nothing(capfd, dtype):
    for length in (3 * dtype.size - 1, 3 * dtype.size + 1):
        proto = proto_of(dtype, (3,), tensor_content=b"\0" * length)
        with pytest.raises(ValueError, match="contents of a tensor proto must agree"):
            tensors.parse(proto)
    assert capfd.readouterr().err == ""


def test_a_subclass_of_a_known_error_has_its_status(doubling, monkeypatch):
    class OverlongError(InvalidRequestError):
        pass

    def compute(*_):
        raise OverlongError("too long")

    monkeypatch.setattr(Signature, "compute", compute)
    with (
        PredictionServer(doubling, "multiply", port=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert rpc_error(stub.Predict, request_of({"x": ROWS})) == (INVALID, "too long")
