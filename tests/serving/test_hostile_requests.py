"""Requests of few bytes that ask for much, and what they may not reach."""

import subprocess
import sys

import grpc
import numpy as np
import pytest
import tensorflow as tf
from paths import ROOT, SUPPORT
from serving_models import ROWS, Echo, Model, proto_of, request_of, rpc_error, write
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras_serving import PredictionServer
from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.servable.servable import Servable
from bn_keras_serving.servable.signature import Signature

INVALID = grpc.StatusCode.INVALID_ARGUMENT

# 100 kB on the wire, 400 GB if its one string filled the shape it claims.
HOSTILE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from serving_models import proto_of
import tensorflow as tf
from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.servable.servable import Servable

def used():
    pages = open("/proc/self/statm").read().split()[0]
    return int(pages) * resource.getpagesize()

proto = proto_of(tf.string, [2**22], string_val=[b"x" * 100_000])
servable = Servable(1, Path(sys.argv[1]))
bound = used() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
for name in ("float32", "string"):
    try:
        servable.signature(name).parse({"x": proto})
    except InvalidRequestError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    return write(Echo(), tmp_path_factory.mktemp("echo"), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_one_string_that_fills_a_large_shape_takes_no_memory(echo):
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(echo), str(SUPPORT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "Expects arg[0] to be float but string is provided",
        "tensor parsing error: x",
    ], done.stderr


def test_a_string_is_sent_for_each_element(echo):
    signature = Servable(1, echo).signature("string")
    words = np.array([b"a", b"", b"a" * 1000], object)
    sent = {"x": tf.make_tensor_proto(words)}
    assert signature.parse(sent)["x"].tolist() == words.tolist()
    for fields in ({}, {"string_val": [b"a"]}, {"tensor_content": b"\x01\x01a"}):
        with pytest.raises(InvalidRequestError, match="tensor parsing error: x"):
            signature.parse({"x": proto_of(tf.string, (2,), **fields)})


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.complex128, tf.bool])
def test_content_of_a_wrong_length_writes_no_line_of_tensorflows(capfd, dtype):
    for length in (3 * dtype.size - 1, 3 * dtype.size + 1):
        proto = proto_of(dtype, (3,), tensor_content=b"\0" * length)
        with pytest.raises(ValueError, match="bytes that do not agree"):
            tensors.parse(proto)
    assert capfd.readouterr().err == ""


def test_an_error_of_a_kind_of_the_known_ones_has_their_status(tmp_path, monkeypatch):
    class OverlongError(InvalidRequestError):
        pass

    def compute(*_):
        raise OverlongError("too long")

    write(Model(2), tmp_path, 1)
    monkeypatch.setattr(Signature, "compute", compute)
    with (
        PredictionServer(tmp_path, "multiply", port=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert rpc_error(stub.Predict, request_of({"x": ROWS})) == (INVALID, "too long")
