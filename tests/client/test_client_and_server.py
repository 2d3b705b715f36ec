"""The synchronous client with the project's own server."""

import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving_models import ECHOED, ROWS, Echo, Model, function, write

from bn_keras_serving import PredictionClient, PredictionServer


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


def test_an_array_without_a_name_is_the_only_input(client):
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


def test_an_array_without_a_name_is_refused_if_there_are_several_inputs(client):
    with pytest.raises(ValueError, match=r"the inputs \['a', 'b'\].* one array with"):
        client.predict(ROWS, signature_name="pair")
    with pytest.raises(ValueError, match=r"one of the signatures .*='nope'\. Pass an"):
        client.predict(ROWS, signature_name="nope")


def test_metadata_has_the_types_and_shapes_of_each_signature(client):
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


def test_status_lists_the_versions(client):
    assert client.status() == [(5, "AVAILABLE", "")]
    assert client.status()[0].state == "AVAILABLE"


def test_a_failed_call_raises_the_rpc_error_itself(server, client):
    with PredictionClient(server.address, "multiply", check=False) as unchecked:
        with pytest.raises(grpc.RpcError) as raised:
            unchecked.predict(ROWS.astype(np.float64))
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        expected = "Expects arg[0] to be float but double is provided"
        assert raised.value.details() == expected
        assert set(unchecked.predict({"x": ROWS})) == {"y", "total"}
    with pytest.raises(grpc.RpcError) as raised:
        client.predict(ROWS, version=6)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


class Pictures(tf.Module):
    """A model that sums the pixels of files and of arrays."""

    def __init__(self):
        super().__init__()

        def decode(file):
            picture = tf.io.decode_png(file, 3)
            return tf.reduce_sum(tf.cast(picture, tf.int32))

        self.served = {
            "serving_default": function(lambda x: {"y": x}, x=([None], tf.float32)),
            "predict_encoded": function(
                lambda files: {"sum": tf.map_fn(decode, files, tf.int32)},
                files=([None], tf.string),
            ),
            "predict_uint8": function(
                lambda x: {"sum": tf.reduce_sum(tf.cast(x, tf.int32), (1, 2, 3))},
                x=([None, 6, 5, 3], tf.uint8),
            ),
        }


def test_images_can_be_paths_contents_or_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    expected = pixels.astype(int).sum((1, 2, 3)).tolist()
    write(Pictures(), tmp_path, 1)
    contents = [paths[0], str(paths[1]), paths[2].read_bytes()]
    with (
        PredictionServer(tmp_path, "pictures", port=0) as server,
        PredictionClient(server.address, "pictures") as client,
    ):
        for images in (paths, contents, pixels, list(pixels)):
            assert client.predict_images(images)["sum"].tolist() == expected
            rows = client.predict_many_images(iter(images), batch_size=2)
            assert [row["sum"] for row in rows] == expected
        with pytest.raises(ValueError, match=r"`x` must be of type uint8\. .* float32"):
            client.predict_images(pixels.astype(np.float32))
        with pytest.raises(
            ValueError, match=r"`x` must be of shape .* Add the batch a"
        ):
            client.predict_images(pixels[0])


def test_a_server_that_does_not_answer_runs_into_the_timeout():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        PredictionClient(
            f"127.0.0.1:{silent.getsockname()[1]}", "multiply", timeout=0.2
        ) as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.status()
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_messages_above_four_mebibytes_pass_both_ways(client):
    rows = np.ones((300_000, 4), np.float32)
    np.testing.assert_array_equal(client.predict(rows)["y"], 2 * rows)


def test_arrays_of_every_type_come_back_unchanged(tmp_path):
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
