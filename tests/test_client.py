"""The client, against a server over a real port."""

import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import ECHOED, ROWS, Echo, Model, write

from serving import PredictionClient, PredictionServer, tensors


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "multiply"
    write(Model(2), directory, 5)
    with PredictionServer(directory, port=0) as server:
        yield server


@pytest.fixture
def client(server):
    with PredictionClient(server.address, "multiply") as client:
        yield client


def test_an_array_alone_is_the_one_input(client):
    outputs = client.predict(ROWS)
    assert set(outputs) == {"y", "total"}
    np.testing.assert_array_equal(outputs["y"], 2 * ROWS)
    np.testing.assert_array_equal(outputs["total"], ROWS.sum(1))
    assert outputs["y"].dtype == np.float32


def test_named_inputs_signature_version_and_filter_are_sent(client):
    inputs = {"a": ROWS, "b": ROWS.T.copy().T}
    outputs = client.predict(inputs, signature_name="pair", version=5)
    np.testing.assert_array_equal(outputs["sum"], 2 * ROWS)
    assert set(client.predict({"x": ROWS}, output_filter=["total"])) == {"total"}


def test_the_name_of_the_one_input_is_looked_up_once(server, monkeypatch):
    with PredictionClient(server.address, "multiply") as client:
        looked_up = []
        metadata = client._signatures
        monkeypatch.setattr(
            client,
            "_signatures",
            lambda version: looked_up.append(version) or metadata(version),
        )
        for _ in range(3):
            client.predict(ROWS)
            client.predict(ROWS, signature_name="serving_default")
        assert looked_up == [None]
        client.metadata()
        client.predict(ROWS)
        assert looked_up == [None, None, None]


def test_an_array_alone_is_refused_where_it_has_no_one_name(client):
    with pytest.raises(ValueError, match=r"the inputs \['a', 'b'\].* array alone"):
        client.predict(ROWS, signature_name="pair")
    with pytest.raises(ValueError, match=r'Expected one of .* Received: "nope"'):
        client.predict(ROWS, signature_name="nope")


def test_metadata_tells_types_and_shapes(client):
    metadata = client.metadata()
    assert set(metadata) == {"serving_default", "pair", "shifted", "image", "checked"}
    assert metadata["serving_default"] == {
        "inputs": {"x": (np.dtype("float32"), (None, 4))},
        "outputs": {
            "y": (np.dtype("float32"), (None, 4)),
            "total": (np.dtype("float32"), (None,)),
        },
    }
    assert client.metadata(version=5) == metadata


def test_status_tells_the_versions(client):
    assert client.status() == [(5, "AVAILABLE", "")]
    assert client.status()[0].state == "AVAILABLE"


def test_a_refusal_is_the_rpc_error_itself(client):
    with pytest.raises(grpc.RpcError) as raised:
        client.predict(ROWS.astype(np.float64))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    expected = "Expects arg[0] to be float but double is provided"
    assert raised.value.details() == expected
    with pytest.raises(grpc.RpcError) as raised:
        client.predict(ROWS, version=6)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_an_absent_server_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (
        PredictionClient(f"127.0.0.1:{port}", "multiply", timeout=20) as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.status()
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_silent_server_runs_into_the_timeout():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        PredictionClient(
            f"127.0.0.1:{silent.getsockname()[1]}", "multiply", timeout=0.2
        ) as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.status()
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_images_above_four_mebibytes_pass_both_ways(client):
    rows = np.ones((300_000, 4), np.float32)
    np.testing.assert_array_equal(client.predict(rows)["y"], 2 * rows)


def test_strings_and_every_other_type_come_back_as_they_were(tmp_path):
    write(Echo(), tmp_path, 1)
    with (
        PredictionServer(tmp_path, "echo", port=0) as server,
        PredictionClient(server.address, "echo") as client,
    ):
        for dtype in ECHOED:
            array = np.array([1, 0, 1], dtype.as_numpy_dtype)
            if dtype is tf.string:
                array = np.array([b"one\x00", b"", b"\xff"], object)
            outputs = client.predict({"x": array}, signature_name=dtype.name)
            assert outputs["y"].dtype == array.dtype, dtype
            assert outputs["y"].tolist() == array.tolist(), dtype
            assert outputs["first"].shape == ()
        strings = client.metadata()["string"]["inputs"]
        assert strings == {"x": (np.dtype(object), (None,))}


@pytest.mark.parametrize("shape", [(2, 3), (1,), (), (0, 3)])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.complex64, tf.int64])
def test_a_server_may_answer_in_either_form(dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    array = values.astype(dtype.as_numpy_dtype)
    content = tf.make_tensor_proto(array)
    assert tensors.from_response(content).tolist() == array.tolist()
    fields = tensors.to_typed_fields(array)
    assert not fields.tensor_content
    back = tensors.from_response(fields)
    assert (back.dtype, back.shape) == (array.dtype, shape)
    assert back.tolist() == array.tolist()


def test_a_shortened_answer_repeats_its_last_value():
    proto = tf.make_tensor_proto(0.5, tf.float32, shape=[2, 2])
    assert tensors.from_response(proto).tolist() == [[0.5, 0.5], [0.5, 0.5]]
