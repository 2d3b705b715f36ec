"""Responses as JSON: the cases of `json_tensor_test.cc` and further ones."""

import base64
import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as numpy_strategies
from tensorflow_serving.apis import classification_pb2, regression_pb2

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.rest import json_answers

pytestmark = pytest.mark.fast

INTS = np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], np.int32)


def encode(arrays, by_row):
    return b"".join(json_answers.encode_predictions(arrays, by_row))


def rows(**arrays):
    return json.loads(encode(arrays, by_row=True))


def columns(**arrays):
    return json.loads(encode(arrays, by_row=False))


def strings(*values):
    return np.array(values, np.object_)


def test_a_single_output_is_a_plain_value():
    assert rows(y=INTS) == {"predictions": INTS.tolist()}
    assert columns(y=INTS) == {"outputs": INTS.tolist()}
    assert rows(y=INTS[0, 0]) == {"predictions": [1, 2]}
    assert columns(y=np.array(1, np.float32)) == {"outputs": 1.0}
    assert columns(y=np.array(b"a", object)) == {"outputs": "a"}


def test_several_outputs_are_objects():
    arrays = {
        "i": INTS,
        "s": strings([b"foo", b"bar"], [b"baz", "數".encode()]),
        "f": np.array([[1], [2]], np.float32),
        "d": np.array([8.0, 9.0]),
        "s_bytes": strings([b"hello", b"\xff"], [b"", b"serving"]),
    }
    encoded = [
        [{"b64": base64.b64encode(value).decode()} for value in row]
        for row in arrays["s_bytes"]
    ]
    assert rows(**arrays) == {
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
    assert columns(**arrays) == {
        "outputs": {
            "d": [8.0, 9.0],
            "f": [[1.0], [2.0]],
            "i": INTS.tolist(),
            "s": [["foo", "bar"], ["baz", "數"]],
            "s_bytes": encoded,
        }
    }


def test_strings_are_in_base64_if_the_name_ends_with_bytes():
    arrays = strings([b"hello", b"world"])
    assert rows(y_bytes=arrays) == {
        "predictions": [[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]]
    }
    assert rows(bytes_y=arrays) == {"predictions": [["hello", "world"]]}
    with pytest.raises(InvalidRequestError, match="y has bytes that are not UTF-8"):
        rows(y=strings(b"\xff"))


def test_an_empty_batch_is_an_empty_list():
    empty = np.zeros((0, 2), np.int32)
    assert rows(y=empty) == {"predictions": []}
    assert rows(y=empty, z=np.zeros((0, 3), np.float32)) == {"predictions": []}
    assert columns(y=empty, z=np.zeros(1)) == {"outputs": {"y": [], "z": [0.0]}}


@pytest.mark.parametrize("last", [3, math.nan])  # NaN makes another writer write
def test_floats_have_few_digits_but_always_look_like_floats(last):
    values = [9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5, 0.2, 1 / 3, -0.0, 1e20]
    array = np.array([*values, last], np.float32)
    answer = encode({"y": array}, by_row=True).decode()
    assert answer.startswith('{"predictions":[9000000.0,999999.0,0.5,0.0003,')
    numbers = answer.removesuffix("]}").rpartition("[")[2].split(",")[:-1]
    assert [float(number) for number in numbers] == [
        *values[:7],
        0.33333334,
        -0.0,
        1e20,
    ]
    assert all("." in number or "e" in number for number in numbers)
    assert numbers[8] == "-0.0"


def test_float64_has_its_own_digits():
    assert columns(y=np.array([0.1, 1 / 3])) == {"outputs": [0.1, 1 / 3]}


@settings(max_examples=300, deadline=None)
@given(
    numpy_strategies.arrays(
        numpy_strategies.floating_dtypes(sizes=(32, 64), endianness="="),
        numpy_strategies.array_shapes(min_dims=1, min_side=0, max_dims=3),
    )
)
def test_any_floats_are_restored_and_written_with_the_fewest_digits(array):
    answer = encode({"y": array}, by_row=False)
    restored = np.array(json.loads(answer)["outputs"])
    np.testing.assert_array_equal(
        restored.astype(array.dtype).ravel(), array.ravel(), strict=True
    )
    # NumPy's `str` writes the fewest digits that restore a value.
    fewest = [float(str(value)) for value in array.ravel()]
    np.testing.assert_array_equal(restored.ravel(), fewest)


def test_nan_and_infinity_are_written_as_in_tensorflow_serving():
    arrays = np.array([math.nan, math.inf, 3, -math.inf])
    for dtype in (np.float32, np.float64):
        text = encode({"y": arrays.astype(dtype)}, by_row=True)
        assert text == b'{"predictions":[NaN,Infinity,3.0,-Infinity]}'
    several = encode(
        {
            "f": np.array([[0.2], [math.nan]], np.float32),
            "n": np.array([1, 2]),
            "s": strings(b"NaN", b"null"),
        },
        by_row=True,
    )
    assert several.decode() == (
        '{"predictions":[{"f":[0.2],"n":1,"s":"NaN"},{"f":[NaN],"n":2,"s":"null"}]}'
    )


@pytest.mark.parametrize(
    "shape",
    [(100_000,), (1, 100_000), (3, 33_333), (50_000, 2), (2, 3, 20_000), (40, 50, 60)],
)
def test_large_arrays_are_written_in_parts(shape):
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    assert columns(y=array) == {"outputs": array.tolist()}
    assert rows(y=array) == {"predictions": array.tolist()}
    parts = json_answers.encode_predictions({"y": array}, by_row=True)
    assert 8 < len(parts) < 100


def test_arrays_that_are_no_c_arrays_are_written_like_others():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (array.T, array[::2, ::-1], np.broadcast_to(array[0], (2, 4))):
        assert columns(y=view) == {"outputs": view.tolist()}
        assert rows(y=view, z=view) == {
            "predictions": [{"y": row, "z": row} for row in view.tolist()]
        }


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64]
)
def test_the_largest_and_smallest_integers_are_exact(dtype):
    bounds = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    assert rows(y=np.array(bounds, dtype)) == {"predictions": bounds}


def test_booleans_are_true_and_false():
    assert rows(y=np.array([True, False])) == {"predictions": [True, False]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": np.ones(2, np.complex64)}, "tensor type: complex64"),
        ({"y": np.ones(2, np.float16)}, "tensor type: half"),
        ({"y": np.ones(2, np.uint16)}, "tensor type: uint16"),
        ({"y": np.ones(2, ml_dtypes.bfloat16)}, "tensor type: bfloat16"),
        ({"y": np.ones(2, [("qint8", np.int8)])}, "tensor type: qint8"),
        ({"y": np.array(1)}, "Tensor name: y has no shape information "),
        (
            {"y": np.ones((2, 3)), "z": np.ones((1, 3))},
            "Tensor name: z has inconsistent batch size: 1 expecting: 2",
        ),
    ],
)
def test_outputs_without_a_form_in_json_are_rejected(arrays, message):
    with pytest.raises(InvalidRequestError) as raised:
        rows(**arrays)
    assert message in str(raised.value)


def test_classifications_are_pairs():
    result = classification_pb2.ClassificationResult()
    for scores in ([0.2, 0.7], [0.9, math.nan]):
        classification = result.classifications.add()
        for label, score in zip(("car", ""), scores, strict=True):
            classification.classes.add(label=label, score=score)
    assert json_answers.encode_classifications(result) == (
        b'{"results":[[["car",0.2],["",0.7]],[["car",0.9],["",NaN]]]}'
    )


def test_regressions_are_numbers():
    result = regression_pb2.RegressionResult()
    for value in (0.2, math.inf, 1.0, -math.inf):
        result.regressions.add(value=value)
    assert json_answers.encode_regressions(result) == (
        b'{"results":[0.2,Infinity,1.0,-Infinity]}'
    )


def test_empty_results_are_rejected():
    with pytest.raises(InvalidRequestError, match="empty ClassificationResults"):
        json_answers.encode_classifications(classification_pb2.ClassificationResult())
    with pytest.raises(InvalidRequestError, match="empty RegressionResults"):
        json_answers.encode_regressions(regression_pb2.RegressionResult())


def test_an_error_is_an_object():
    assert json_answers.encode_error('Bad "key"') == b'{"error":"Bad \\"key\\""}'
