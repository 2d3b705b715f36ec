"""The synchronous client, with a server whose answers the tests script."""

import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from client_servers import ROWS_OF_FOUR, ScriptedServer, make_signature, serve
from serving_models import ROWS

from bn_keras_serving import PredictionClient

pytestmark = pytest.mark.fast


@pytest.fixture
def scripted():
    return ScriptedServer()


@pytest.fixture
def address(scripted):
    with serve(scripted) as address:
        yield address


@pytest.fixture
def scripted_client(address):
    """A client of the scripted server."""
    with PredictionClient(address, "m") as client:
        yield client


def test_the_signature_is_looked_up_once(scripted, scripted_client):
    for _ in range(3):
        scripted_client.predict(ROWS)
        scripted_client.predict(ROWS, signature_name="serving_default")
    assert len(scripted.look_ups) == 1
    scripted_client.predict(ROWS, version=3)
    scripted_client.predict(ROWS, version_label="stable")
    assert [spec.version.value for spec in scripted.look_ups] == [0, 3, 0]
    assert [spec.version_label for spec in scripted.look_ups] == ["", "", "stable"]
    scripted_client.metadata()
    scripted_client.predict(ROWS)
    assert len(scripted.look_ups) == 4


def test_inputs_that_do_not_fit_are_refused_and_not_sent(scripted, scripted_client):
    with pytest.raises(ValueError, match="`x` must be of type float32"):
        scripted_client.predict(["one"])
    with pytest.raises(ValueError, match="add x and leave out y"):
        scripted_client.predict({"y": ROWS})
    assert scripted.requests == []


def test_shapes_are_compared_only_if_asked(scripted, scripted_client, address):
    scripted_client.predict(ROWS[:, :2])
    assert len(scripted.requests) == 1
    with (
        PredictionClient(address, "m", check_shapes=True) as strict,
        pytest.raises(ValueError, match=r"`x` must be of shape \(None, 4\)"),
    ):
        strict.predict(ROWS[:, :2])
    assert len(scripted.requests) == 1


def test_without_the_check_named_inputs_need_no_look_up(scripted, address):
    with PredictionClient(address, "m", check=False) as client:
        client.predict({"anything": np.array([b"one\x00"], "S4"), "b": ["two\x00"]})
    assert scripted.look_ups == []
    sent = scripted.requests[0].inputs
    assert list(sent["b"].string_val) == [b"two\x00"]


def test_a_version_and_a_label_must_not_be_given_together(scripted, scripted_client):
    with pytest.raises(ValueError, match=r"together.*version=3, version_label='a'\. P"):
        scripted_client.predict(ROWS, version=3, version_label="a")
    scripted_client.predict(ROWS, version_label="a")
    assert scripted.requests[0].model_spec.version_label == "a"


def test_numbers_are_sent_as_tensor_content(scripted, scripted_client):
    scripted_client.predict(ROWS.tolist())
    (sent,) = scripted.requests[0].inputs.values()
    assert sent.tensor_content == ROWS.tobytes()
    assert not sent.float_val


NEW = make_signature({"z": (tf.int32, [None])})


def test_a_replaced_model_is_called_with_its_new_signature(scripted, scripted_client):
    """Signatures of a version that is gone must not be used any longer."""
    scripted_client.predict(ROWS)
    scripted.signatures = {"serving_default": NEW}
    assert scripted_client.predict([1, 2])["y"].tolist() == [
        1,
        2,
    ]  # not by the old signature
    scripted.signatures = {"serving_default": ROWS_OF_FOUR}
    assert scripted_client.predict({"x": ROWS})["y"].shape == (2, 4)
    scripted.signatures["other"] = ROWS_OF_FOUR
    assert scripted_client.predict(ROWS, "other")["y"].shape == (2, 4)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "FAILED_PRECONDITION"])
def test_a_request_that_a_replaced_model_refuses_is_sent_once_more(
    scripted, scripted_client, code
):
    scripted_client.predict([[1, 2, 3, 4]])
    scripted.signatures = {
        "serving_default": make_signature({"x": (tf.float64, [None, None])})
    }
    scripted.refusals = [(grpc.StatusCode[code], "Expects arg[0] to be double")]
    answer = scripted_client.predict([[1, 2, 3, 4]])
    assert answer["y"].dtype == np.float64
    assert len(scripted.requests) == 3


def test_a_request_that_the_same_model_refuses_is_not_sent_again(
    scripted, scripted_client
):
    scripted.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, "no")] * 2
    with pytest.raises(grpc.RpcError) as raised:
        scripted_client.predict(ROWS)
    assert raised.value.details() == "no"
    assert len(scripted.requests) == 1


def test_examples_are_classified_and_regressed(scripted, scripted_client):
    scripted.signatures["classify"] = make_signature(
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
    labels, scores = scripted_client.classify(sent, "classify")
    assert labels.tolist() == [["cat", "dog"]] * 3
    assert scores.tolist() == [[0.5, 0.25], [1.5, 0.25], [2.5, 0.25]]
    assert list(scripted.requests[0].input.example_list.examples) == [serialized] * 3
    scripted.signatures["regress"] = make_signature(
        {"inputs": (tf.string, [None])}, method="regress"
    )
    values = scripted_client.regress(sent, "regress")
    assert (values.dtype, values.tolist()) == (np.float32, [0.5, 1.5, 2.5])


def test_values_that_are_not_examples_are_refused(scripted, scripted_client):
    scripted.signatures["classify"] = make_signature(
        {"inputs": (tf.string, [None])}, method="classify"
    )
    for wrong, message in (
        ({"a": 1}, r"must be a list\. Received: a single dict\. Send \[ex"),
        ([b"\xff\xff"], r"`examples\[0\]` must be .* bytes of something else\. Bui"),
        ([{"a": 1}, 7], r"`examples\[1\]` must be .* Received: int\. Build it"),
        ([{"a": 1j}], r"features of numbers or strings\. Received: a of type complex"),
    ):
        with pytest.raises(ValueError, match=message):
            scripted_client.classify(wrong, "classify")
    message = r"\['classify'\] of the method tensorflow/serving/classify\. Received:"
    with pytest.raises(ValueError, match=message):
        scripted_client.classify([{"a": 1}])
    assert scripted.requests == []


def test_files_that_are_not_images_are_named(scripted, scripted_client, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    pixels = np.zeros((6, 5, 3), np.uint8)
    for images, message in (
        (str(tmp_path / "text.png"), r"must be a list\. Received: a single file\. Sen"),
        (
            [tmp_path / "text.png"],
            r"`images\[0\]` must be a JPEG or PNG.*/text\.png, s",
        ),
        ([b"GIF89a"], r"`images\[0\]` must be.* bytes, starting with b'GIF89a'\. Save"),
        ([pixels, b"\xff\xd8\xff"], r"all files or all arrays\. Received: both"),
        ([b"\xff\xd8\xff"], r"='predict_encoded'\. Export a model of images with"),
        ([pixels], r"='predict_uint8'\. Export a model of images"),
    ):
        with pytest.raises(ValueError, match=message):
            scripted_client.predict_images(images)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        scripted_client.predict_images([tmp_path / "gone.png"])
    assert scripted.requests == []


def test_an_absent_server_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (
        PredictionClient(f"127.0.0.1:{port}", "multiply", retries=0) as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.status()
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
