"""Answers as JSON, by the cases of `json_tensor_test.cc`."""

import base64
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow_serving.apis import classification_pb2, regression_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.rest import json_answers

INTS = np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], np.int32)


def outputs(**given):
    return {name: tensors.to_typed_fields(np.asarray(one)) for name, one in
            given.items()}  # fmt: skip


def rows(**given):
    return json.loads(json_answers.encode_predictions(outputs(**given), by_row=True))


def columns(**given):
    return json.loads(json_answers.encode_predictions(outputs(**given), by_row=False))


def strings(*values):
    return np.array(values, np.object_)


def test_one_output_stands_for_itself():
    assert rows(y=INTS) == {"predictions": INTS.tolist()}
    assert columns(y=INTS) == {"outputs": INTS.tolist()}
    assert rows(y=INTS[0, 0]) == {"predictions": [1, 2]}
    assert columns(y=np.float32(1)) == {"outputs": 1.0}


def test_several_outputs_make_objects():
    given = {
        "i": INTS,
        "s": strings([b"foo", b"bar"], [b"baz", "數".encode()]),
        "f": np.array([[1], [2]], np.float32),
        "d": np.array([8.0, 9.0]),
        "s_bytes": strings([b"hello", b"\xff"], [b"", b"serving"]),
    }
    encoded = [
        [{"b64": base64.b64encode(one).decode()} for one in row]
        for row in given["s_bytes"]
    ]
    assert rows(**given) == {
        "predictions": [
            {
                "d": 8.0 + row,
                "f": [1.0 + row],
                "i": INTS[row].tolist(),
                "s": [["foo", "bar"], ["baz", "數"]][row],
                "s_bytes": encoded[row],
            }
            for row in range(2)
        ]
    }
    assert columns(**given) == {
        "outputs": {
            "d": [8.0, 9.0],
            "f": [[1.0], [2.0]],
            "i": INTS.tolist(),
            "s": [["foo", "bar"], ["baz", "數"]],
            "s_bytes": encoded,
        }
    }


def test_bytes_are_in_base64_where_the_name_says_so():
    given = strings([b"hello", b"world"])
    assert rows(y_bytes=given) == {
        "predictions": [[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]]
    }
    assert rows(bytes_y=given) == {"predictions": [["hello", "world"]]}
    with pytest.raises(InvalidRequestError, match="y has bytes that are not UTF-8"):
        rows(y=strings(b"\xff"))


def test_an_empty_batch_is_an_empty_list():
    empty = np.zeros((0, 2), np.int32)
    assert rows(y=empty) == {"predictions": []}
    assert rows(y=empty, z=np.zeros((0, 3), np.float32)) == {"predictions": []}
    assert columns(y=empty, z=np.zeros(1)) == {"outputs": {"y": [], "z": [0.0]}}


def test_floats_have_few_digits_and_always_a_sign_that_they_are_floats():
    values = [9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5, 0.2, 1 / 3, 3, -0.0]
    text = json_answers.encode_predictions(outputs(y=np.float32(values)), by_row=True)
    assert text.decode() == (
        '{"predictions": [9000000.0, 999999.0, 0.5, 0.0003, 3e-05, 555557.5, 0.2, '
        "0.33333334, 3.0, -0.0]}"
    )
    assert columns(y=np.array([0.1, 1 / 3])) == {"outputs": [0.1, 1 / 3]}


def test_what_is_no_number_is_written_as_the_real_server_does():
    given = np.array([math.nan, math.inf, 3, -math.inf])
    for dtype in (np.float32, np.float64):
        text = json_answers.encode_predictions(
            outputs(y=given.astype(dtype)), by_row=True
        )
        assert text == b'{"predictions": [NaN, Infinity, 3.0, -Infinity]}'


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64]
)
def test_integers_keep_their_bounds(dtype):
    bounds = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    assert rows(y=np.array(bounds, dtype)) == {"predictions": bounds}


def test_true_and_false_are_written_so():
    assert rows(y=np.array([True, False])) == {"predictions": [True, False]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": np.ones(2, np.complex64)}, "tensor type: complex64"),
        ({"y": np.ones(2, np.float16)}, "tensor type: half"),
        ({"y": np.int32(1)}, "Tensor name: y has no shape information "),
        (
            {"y": np.ones((2, 3)), "z": np.ones((1, 3))},
            "Tensor name: z has inconsistent batch size: 1 expecting: 2",
        ),
    ],
)
def test_what_has_no_form_in_json_is_refused(given, message):
    with pytest.raises(InvalidRequestError) as raised:
        rows(**given)
    assert message in str(raised.value)


def test_tensors_come_as_bytes_as_well():
    proto = tf.make_tensor_proto(INTS)
    assert proto.tensor_content
    assert json.loads(json_answers.encode_predictions({"y": proto}, by_row=False)) == {
        "outputs": INTS.tolist()
    }


def test_classifications_are_pairs():
    result = classification_pb2.ClassificationResult()
    for scores in ([0.2, 0.7], [0.9, math.nan]):
        one = result.classifications.add()
        for label, score in zip(("car", ""), scores, strict=True):
            one.classes.add(label=label, score=score)
    assert json_answers.encode_classifications(result) == (
        b'{"results": [[["car", 0.2], ["", 0.7]], [["car", 0.9], ["", NaN]]]}'
    )


def test_regressions_are_numbers():
    result = regression_pb2.RegressionResult()
    for value in (0.2, math.inf, 1.0, -math.inf):
        result.regressions.add(value=value)
    assert json_answers.encode_regressions(result) == (
        b'{"results": [0.2, Infinity, 1.0, -Infinity]}'
    )


def test_no_results_are_refused():
    with pytest.raises(InvalidRequestError, match="empty ClassificationResults"):
        json_answers.encode_classifications(classification_pb2.ClassificationResult())
    with pytest.raises(InvalidRequestError, match="empty RegressionResults"):
        json_answers.encode_regressions(regression_pb2.RegressionResult())


def test_a_refusal_is_an_object():
    assert json_answers.encode_error('Bad "key"') == b'{"error": "Bad \\"key\\""}'


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 20)))
def test_float32_comes_back_from_its_fewest_digits(array):
    found = json_answers.round_to_shortest(array)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(found.astype(np.float32), array)


def test_the_fewest_digits_are_numpy_s():
    rng = np.random.default_rng(5)
    array = (rng.normal(size=5000) * 10 ** rng.uniform(-9, 9, 5000)).astype(np.float32)
    expected = [float(str(one)) for one in array]
    assert json_answers.round_to_shortest(array).tolist() == expected
