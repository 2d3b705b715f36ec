"""Properties of the JSON conversions that hold for any values, and their speed."""

import base64
import json
import time

import numpy as np
import tensorflow as tf
from dispatcher_double import read_json, tensor_infos
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.rest import json_answers, json_tensors, json_text

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


def test_an_image_takes_little_longer_than_parsing_its_document():
    image = np.random.default_rng(0).random((224, 224, 3), np.float32)
    body = json.dumps({"instances": [image.astype(float).tolist()]}).encode()
    infos = tensor_infos(x=(tf.float32, [None, 224, 224, 3]))
    parsing, total = [], []
    for _ in range(3):
        start = time.process_time()
        document = json_text.parse(body)
        parsed = time.process_time()
        decoded = json_tensors.decode_inputs(document, infos)
        parsing.append(parsed - start)
        total.append(time.process_time() - start)
    np.testing.assert_array_equal(tf.make_ndarray(decoded.tensors["x"])[0], image)
    # A quarter more was measured.
    assert min(total) < 2 * min(parsing)


@settings(max_examples=200, deadline=None)
@given(numpy_strategies.arrays(np.float32, st.integers(1, 20)))
def test_float32_is_restored_from_its_shortest_form(array):
    found = json_answers.round_to_shortest(array)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(found.astype(np.float32), array)


def test_the_shortest_form_is_that_of_numpy():
    rng = np.random.default_rng(5)
    array = (rng.normal(size=5000) * 10 ** rng.uniform(-9, 9, 5000)).astype(np.float32)
    expected = [float(str(value)) for value in array]
    assert json_answers.round_to_shortest(array).tolist() == expected
