"""Properties of the JSON conversions that hold for any values, and their speed."""

import base64
import json
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from dispatcher_double import read_json
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.rest import json_tensors, json_text

SHAPES = numpy_strategies.array_shapes(min_dims=1, max_dims=4, max_side=4)


@given(st.binary(max_size=200))
def test_base64_may_have_padding_and_line_breaks(value):
    text = base64.encodebytes(value).decode()
    for variant in (text, text.replace("\n", ""), text.replace("=", "")):
        array = read_json({"inputs": [{"b64": variant}]}, x=tf.string)["x"]
        assert array.tolist() == [value]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [np.float32, np.float64, np.int8, np.uint32, np.int64, np.bool_]
    ).flatmap(lambda dtype: numpy_strategies.arrays(dtype, SHAPES))
)
def test_any_array_is_restored_from_its_json(array):
    text = json.dumps({"instances": array.tolist()})
    decoded = read_json(text, x=tf.as_dtype(array.dtype))["x"]
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["x", "b64", "y"]), inner, max_size=2)
        ),
        max_leaves=12,
    ),
    st.sampled_from(["instances", "inputs"]),
    st.sampled_from([tf.float32, tf.int32, tf.uint64, tf.bool, tf.string]),
)
def test_any_document_becomes_a_tensor_of_the_type_or_an_error(value, key, dtype):
    try:
        array = read_json({key: value}, x=dtype)["x"]
    except InvalidRequestError:
        return
    assert array.dtype == dtype.as_numpy_dtype


VALUES = st.sampled_from([1, 2.5, "x", None, [1], [1, 2], [[1]], [], ["x"], {"x": 1}])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(VALUES, min_size=1, max_size=8),
    st.sampled_from(["instances", "inputs"]),
    st.integers(1, 4),
    st.sampled_from([tf.float32, tf.string]),
)
def test_an_error_is_the_same_when_values_are_checked_many_at_a_time(
    values, key, chunk, dtype
):
    messages = []
    for size in (chunk, len(values) + 1):
        with mock.patch.object(json_tensors, "_CHUNK", size):
            try:
                read_json({key: values}, x=dtype)
                messages.append("")
            except InvalidRequestError as error:
                messages.append(str(error))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize("nested", [False, True])
def test_few_values_are_checked_one_by_one(key, nested):
    values = [1.5] * 100_000 + ["x"]
    with (
        mock.patch.object(
            json_tensors, "_check_value", wraps=json_tensors._check_value
        ) as check,
        pytest.raises(InvalidRequestError, match="Type: String"),
    ):
        read_json({key: [values] if nested else values}, x=tf.float32)
    assert check.call_count < 10_000


def test_an_image_takes_little_longer_than_parsing_its_document():
    image = np.random.default_rng(0).random((224, 224, 3), np.float32)
    body = json.dumps({"instances": [image.astype(float).tolist()]}).encode()
    types = {"x": tf.float32.as_datatype_enum}
    parsing, total = [], []
    for _ in range(3):
        start = time.process_time()
        document = json_text.parse(body)
        parsed = time.process_time()
        decoded = json_tensors.decode_inputs(document, types)
        parsing.append(parsed - start)
        total.append(time.process_time() - start)
    np.testing.assert_array_equal(decoded.arrays["x"][0], image)
    # A quarter more was measured.
    assert min(total) < 2 * min(parsing)
