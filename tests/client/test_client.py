"""The client, against a server over a real port."""

import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from client_servers import ROWS_OF_FOUR, Told, definition, serving
from PIL import Image
from serving_models import ECHOED, ROWS, Echo, Model, function, write

from bn_keras_serving import PredictionClient, PredictionServer
from bn_keras_serving.common import tensors


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


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def address(told):
    with serving(told) as address:
        yield address


@pytest.fixture
def asking(address):
    """A client of the server that does what it is told."""
    with PredictionClient(address, "m") as client:
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


def test_the_signature_is_looked_up_once(told, asking):
    for _ in range(3):
        asking.predict(ROWS)
        asking.predict(ROWS, signature_name="serving_default")
    assert len(told.looked_up) == 1
    asking.predict(ROWS, version=3)
    asking.predict(ROWS, version_label="stable")
    assert [spec.version.value for spec in told.looked_up] == [0, 3, 0]
    assert [spec.version_label for spec in told.looked_up] == ["", "", "stable"]
    asking.metadata()
    asking.predict(ROWS)
    assert len(told.looked_up) == 4


def test_an_array_alone_is_refused_where_it_has_no_one_name(client):
    with pytest.raises(ValueError, match=r"the inputs \['a', 'b'\].* array alone"):
        client.predict(ROWS, signature_name="pair")
    with pytest.raises(ValueError, match=r"one of the signatures .*='nope'; choose an"):
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


def test_what_does_not_fit_is_refused_and_not_sent(told, asking):
    with pytest.raises(ValueError, match=r"`x` must be of shape \(None, 4\)"):
        asking.predict(ROWS[:, :2])
    assert told.requests == []


def test_a_refusal_is_the_rpc_error_itself(server, client):
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


def test_without_the_check_names_need_no_look_up(told, address):
    with PredictionClient(address, "m", check=False) as client:
        client.predict({"anything": np.array([b"one\x00"], "S4"), "b": ["two\x00"]})
    assert told.looked_up == []
    sent = told.requests[0].inputs
    assert list(sent["b"].string_val) == [b"two\x00"]


def test_a_version_and_a_label_exclude_one_another(told, asking):
    with pytest.raises(
        ValueError, match=r"together.*version=3, version_label='a'; cho"
    ):
        asking.predict(ROWS, version=3, version_label="a")
    asking.predict(ROWS, version_label="a")
    assert told.requests[0].model_spec.version_label == "a"


def test_numbers_travel_as_tensor_content(told, asking):
    asking.predict(ROWS.tolist())
    (sent,) = told.requests[0].inputs.values()
    assert sent.tensor_content == ROWS.tobytes()
    assert not sent.float_val


NOW = definition({"z": (tf.int32, [None])})


def test_a_swapped_model_is_asked_by_its_new_signature(told, asking):
    """What the client has learnt of a version that is gone must not be held on to."""
    asking.predict(ROWS)
    told.signatures = {"serving_default": NOW}
    assert asking.predict([1, 2])["y"].tolist() == [1, 2]  # refused by old knowledge
    told.signatures = {"serving_default": ROWS_OF_FOUR}
    assert asking.predict({"x": ROWS})["y"].shape == (2, 4)
    told.signatures["other"] = ROWS_OF_FOUR
    assert asking.predict(ROWS, "other")["y"].shape == (2, 4)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "FAILED_PRECONDITION"])
def test_what_a_swapped_model_refuses_is_sent_once_more(told, asking, code):
    asking.predict([[1, 2, 3, 4]])
    told.signatures = {"serving_default": definition({"x": (tf.float64, [None, None])})}
    told.refusals = [(grpc.StatusCode[code], "Expects arg[0] to be double")]
    answer = asking.predict([[1, 2, 3, 4]])
    assert answer["y"].dtype == np.float64
    assert len(told.requests) == 3


def test_what_the_same_model_refuses_is_not_sent_again(told, asking):
    told.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, "no")] * 2
    with pytest.raises(grpc.RpcError) as raised:
        asking.predict(ROWS)
    assert raised.value.details() == "no"
    assert len(told.requests) == 1


def test_a_signature_of_any_method_is_told_by_name(told, asking):
    told.signatures["classify"] = definition(
        {"inputs": (tf.string, [None])}, method="classify"
    )
    serialized = tf.train.Example(
        features=tf.train.Features(
            feature={
                "a": tf.train.Feature(float_list=tf.train.FloatList(value=[1.5, 2])),
                "b": tf.train.Feature(int64_list=tf.train.Int64List(value=[3])),
                "c": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"d\x00"])),
                "e": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[b"\xc3\xa9"])
                ),
            }
        )
    )
    features = {"a": [1.5, 2], "b": np.int8(3), "c": b"d\x00", "e": "é"}
    sent = [features, serialized.SerializeToString(), serialized]
    labels, scores = asking.classify(sent, "classify")
    assert labels.tolist() == [["cat", "dog"]] * 3
    assert scores.tolist() == [[0.5, 0.25], [1.5, 0.25], [2.5, 0.25]]
    assert list(told.requests[0].input.example_list.examples) == [serialized] * 3
    told.signatures["regress"] = definition(
        {"inputs": (tf.string, [None])}, method="regress"
    )
    values = asking.regress(sent, "regress")
    assert (values.dtype, values.tolist()) == (np.float32, [0.5, 1.5, 2.5])


def test_examples_that_are_none_are_refused(told, asking):
    told.signatures["classify"] = definition(
        {"inputs": (tf.string, [None])}, method="classify"
    )
    for wrong, message in (
        ({"a": 1}, r"must be a list\. Received: one dict; send \[example\]"),
        ([b"\xff\xff"], r"`examples\[0\]` must be .* bytes that are none; build it"),
        ([{"a": 1}, 7], r"`examples\[1\]` must be .* Received: int; build it"),
        ([{"a": 1j}], r"features of numbers or strings\. Received: a of type complex"),
    ):
        with pytest.raises(ValueError, match=message):
            asking.classify(wrong, "classify")
    message = r"\['classify'\] of the method tensorflow/serving/classify\. Received:"
    with pytest.raises(ValueError, match=message):
        asking.classify([{"a": 1}])
    assert told.requests == []


class Pictures(tf.Module):
    """Sums of the pixels of files and of arrays."""

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


def test_images_are_files_contents_or_pixels(tmp_path):
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
            ValueError, match=r"`x` must be of shape .* add the axis of"
        ):
            client.predict_images(pixels[0])


def test_what_is_no_image_is_named(told, asking, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    pixels = np.zeros((6, 5, 3), np.uint8)
    for images, message in (
        (str(tmp_path / "text.png"), r"must be a list\. Received: one file; send \[im"),
        (
            [tmp_path / "text.png"],
            r"`images\[0\]` must be a JPEG or PNG.*/text\.png, b",
        ),
        ([b"GIF89a"], r"`images\[0\]` must be.* bytes, beginning with b'GIF89a'; save"),
        ([pixels, b"\xff\xd8\xff"], r"files alone or arrays alone\. Received: both"),
        ([b"\xff\xd8\xff"], r"='predict_encoded'; export a model of images with"),
        ([pixels], r"='predict_uint8'; export a model of images"),
    ):
        with pytest.raises(ValueError, match=message):
            asking.predict_images(images)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        asking.predict_images([tmp_path / "gone.png"])
    assert told.requests == []


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
