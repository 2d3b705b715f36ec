"""JSON requests for Predict, by the cases of `json_tensor_test.cc` and its rules."""

import base64
import json
import math
import time

import numpy as np
import pytest
import tensorflow as tf
from dispatcher_double import tensor_infos
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError, UnsupportedError
from bn_keras_serving.rest import json_tensors, json_text

INTEGERS = (
    *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8),
    *(tf.uint32, tf.uint64),
)
HELLO, WORLD = {"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}


def read(text, **inputs):
    """Return the arrays of a document, each input of the type given."""
    if not isinstance(text, str):
        text = json.dumps(text)
    found = json_tensors.decode_inputs(
        json_text.parse(text.encode()),
        tensor_infos(**{name: (dtype, None) for name, dtype in inputs.items()}),
    )
    # What TensorFlow's C++ makes of the protocol buffer.
    return {
        name: tensors.to_array(
            tf.io.parse_tensor(one.SerializeToString(), inputs[name])
        )
        for name, one in found.tensors.items()
    }


def refused(text, kind=InvalidRequestError, **inputs):
    with pytest.raises(kind) as raised:
        read(text, **inputs)
    assert type(raised.value) is kind
    return str(raised.value)


def check(found, expected, dtype):
    assert found.dtype == dtype.as_numpy_dtype
    assert found.shape == np.shape(expected)
    np.testing.assert_array_equal(found, np.array(expected, dtype.as_numpy_dtype))


def test_plain_rows_are_the_one_input():
    found = read({"instances": [[1, 2], [3, 4], [5, 6]]}, x=tf.int32)
    check(found["x"], [[1, 2], [3, 4], [5, 6]], tf.int32)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_whole_numbers_mix_with_decimals(dtype):
    found = read('{"instances": [1, 2.0, -3, 4e2, 5.003, 7E-3, 0.0]}', x=dtype)
    check(found["x"], [1, 2, -3, 400, 5.003, 0.007, 0], dtype)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_tokens_that_are_no_json_are_numbers(dtype):
    found = read('{"inputs": [NaN, Infinity, -Infinity]}', x=dtype)["x"]
    assert math.isnan(found[0])
    assert found[1:].tolist() == [math.inf, -math.inf]


def test_floats_are_rounded_and_overflow_to_infinity_and_underflow_to_zero():
    largest, smallest = float(np.finfo(float).max), float(np.finfo(float).tiny)
    values = [1435774380, 1435774380.0, largest, -largest, smallest, 2**70]
    found = read({"instances": values}, x=tf.float32)["x"]
    assert found.tolist() == [1435774336, 1435774336, math.inf, -math.inf, 0, 2**70]


def test_one_row_is_one_dimension_more():
    found = read({"instances": [{"x": [[HELLO], [WORLD]]}]}, x=tf.string)
    check(found["x"], [[[b"hello"], [b"world"]]], tf.string)


def test_a_binary_object_is_a_value_and_not_a_named_row():
    check(
        read({"instances": [HELLO, WORLD]}, x=tf.string)["x"],
        [b"hello", b"world"],
        tf.string,
    )
    check(
        read({"instances": [[HELLO], [WORLD]]}, x=tf.string)["x"],
        [[b"hello"], [b"world"]],
        tf.string,
    )
    check(read({"inputs": HELLO}, x=tf.string)["x"], b"hello", tf.string)


def test_named_rows_are_gathered_into_a_batch():
    found = read(
        """{"instances": [
            {"i": [[1,2],[3,4],[5,6]], "s": ["foo", "bar"], "f": [1.0, NaN], "d": 1},
            {"d": 2.5, "f": [2, Infinity], "s": ["baz", "數"], "i": [[7,8],[9,0],[1,2]]}
        ]}""",
        i=tf.int32,
        s=tf.string,
        f=tf.float32,
        d=tf.float64,
    )
    check(found["i"], [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], tf.int32)
    check(found["s"], [[b"foo", b"bar"], [b"baz", "數".encode()]], tf.string)
    check(found["f"], [[1, math.nan], [2, math.inf]], tf.float32)
    check(found["d"], [1, 2.5], tf.float64)


def test_columns_have_their_own_shapes_and_what_is_not_asked_for_is_ignored():
    document = {"inputs": {"i": [[1, 2, 3]], "s": "foo", "e": [[], []], "other": [1]}}
    found = read(document, i=tf.int64, s=tf.string, e=tf.float32)
    assert set(found) == {"i", "s", "e"}
    check(found["i"], [[1, 2, 3]], tf.int64)
    check(found["s"], b"foo", tf.string)
    assert found["e"].shape == (2, 0)


def test_one_column_needs_no_name():
    check(read({"inputs": [[[1, 2]]]}, x=tf.int32)["x"], [[[1, 2]]], tf.int32)
    check(read({"inputs": 7}, x=tf.int32)["x"], 7, tf.int32)
    assert read({"inputs": []}, x=tf.string)["x"].shape == (0,)


def test_what_follows_the_object_and_a_byte_order_mark_are_not_read():
    check(read('\ufeff {"instances": [1]}X', x=tf.int32)["x"], [1], tf.int32)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda one: one.name)
def test_an_integer_goes_up_to_its_bounds_and_no_further(dtype):
    check(
        read({"inputs": [dtype.min, dtype.max]}, x=dtype)["x"],
        [dtype.min, dtype.max],
        dtype,
    )
    for value in (dtype.min - 1, dtype.max + 1, 10**30):
        assert refused({"inputs": [1, value]}, x=dtype) == (
            f"JSON Value: {value} Type: Number is not of expected type: {dtype.name}"
        )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("1.5", "1.5 Type: Number"),
        ("1.0", "1.0 Type: Number"),
        ('"1"', '"1" Type: String'),
        ("true", "true Type: True"),
        ("null", "null Type: Null"),
        ('{"b64": "aGVsbG8="}', '{"b64":"aGVsbG8="} Type: Object'),
    ],
)
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda one: one.name)
def test_what_is_no_integer_is_none(dtype, value, shown):
    assert refused(f'{{"inputs": [1, {value}]}}', x=dtype) == (
        f"JSON Value: {shown} is not of expected type: {dtype.name}"
    )


@pytest.mark.parametrize(
    ("dtype", "name", "value"),
    [
        (tf.float32, "float", "true"),
        (tf.float32, "float", '"1.0"'),
        (tf.float64, "double", "false"),
        (tf.float64, "double", "null"),
        (tf.float64, "double", "1" + 400 * "0"),
        (tf.bool, "bool", "1"),
        (tf.bool, "bool", '"true"'),
        (tf.string, "string", "1"),
        (tf.string, "string", "null"),
        (tf.string, "string", "false"),
    ],
)
def test_nothing_is_taken_for_another_type(dtype, name, value):
    message = refused(f'{{"inputs": [{value}]}}', x=dtype)
    assert message.endswith(f"is not of expected type: {name}")


def test_true_and_false_are_values_of_bool():
    check(read({"inputs": [[True, False]]}, x=tf.bool)["x"], [[True, False]], tf.bool)


@pytest.mark.parametrize("dtype", [tf.float16, tf.uint16, tf.complex64, tf.bfloat16])
def test_types_without_a_form_in_json_are_unsupported(dtype):
    message = refused({"inputs": [1]}, UnsupportedError, x=dtype)
    assert message.startswith("Conversion of JSON Value: 1 to type: ")
    assert refused({"instances": [1]}, x=dtype).startswith(
        "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: "
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"instances": [[1, 2], [3], [4, 5]]}, "1 of 'instances' list. Error: "
         "INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"),
        ({"instances": [[1, 2], [[5, 6]]]}, "Expecting shape [2] but got: [1,2]"),
        ({"instances": [1, [1]]}, "Expecting shape [] but got: [1]"),
        ({"instances": [[[1], 2]]}, "JSON Value: 2 found at incorrect level: 2 in the "
         "JSON DOM. Expected at level: 2"),
        ({"instances": [[1, [2]]]},
         "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[[1, 2], [3]]]}, "Encountered list at unexpected size: 1 at "
         "level: 1 expected size: 2"),
        ({"instances": [[1, 2], ["a", "b"]]}, 'JSON Value: "a" Type: String is not of '
         "expected type: int32"),
        ({"instances": [[1], {"x": [1]}]},
         "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"x": 1}, [1]]},
         "Expecting object but got list at item 1 of input list"),
        ({"instances": [{"x": 1}, {"y": 1}]}, "Failed to process element: 1 key: y of "
         "'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named "
         "input: y"),
        ({"instances": [{"x": 1}, {}]}, "Failed to process element: 1 of 'instances' "
         "list. JSON object: {} keys must be equal to: x"),
        ({"instances": [{"x": 1}, {"x": [1]}]}, "Failed to process element: 1 key: x of"
         " 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]"),
        ({"instances": {"x": 1}}, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": [1], "inputs": [1]}, "Not formatted correctly expecting only one"
         " of 'inputs' or 'instances' keys to exist"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": {"y": 1}}, "Missing named input: x in 'inputs' object."),
        ({"inputs": [[1, 2], [3]]}, "Encountered list at unexpected size: 1 at level: 1"
         " expected size: 2"),
        ({"inputs": [[], [1]]}, "Encountered list at unexpected size: 1 at level: 1 "
         "expected size: 0"),
        ({"inputs": None}, "JSON Value: null Type: Null is not of expected type"),
    ],
)  # fmt: skip
def test_ragged_or_mixed_values_are_refused_in_the_words_of_the_source(
    document, message
):
    assert message in refused(document, x=tf.int32)


def test_several_inputs_need_names():
    assert refused({"instances": [1]}, a=tf.int32, b=tf.int32).startswith(
        "instances is a plain list, but expecting list of objects as multiple input"
    )
    assert refused({"inputs": [1]}, a=tf.int32, b=tf.int32).startswith(
        "inputs is a plain value/list, but expecting an object as multiple input"
    )
    assert refused({"instances": [{"a": 1}]}, a=tf.int32, b=tf.int32).endswith(
        'JSON object: {"a":1} keys must be equal to: a,b'
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"b64": "!"}, "Unable to base64 decode"),
        ({"b64": "aGVsbG8"[:5]}, "Unable to base64 decode"),
        ({"b64": "數"}, "Unable to base64 decode"),
        ({"b64": 1}, '{"b64":1} not formatted correctly for base64 data'),
        ({"b64": "aA==", "x": 1}, "not formatted correctly for base64 data"),
    ],
)
def test_what_is_not_base64_is_refused(value, message):
    assert message in refused({"inputs": {"x": [value]}}, x=tf.string)
    assert message in refused({"instances": [{"x": value}]}, x=tf.string)


@given(st.binary(max_size=200))
def test_base64_comes_with_and_without_padding_and_line_ends(value):
    text = base64.encodebytes(value).decode()
    for one in (text, text.replace("\n", ""), text.replace("=", "")):
        found = read({"inputs": [{"b64": one}]}, x=tf.string)["x"]
        assert found.tolist() == [value]


@pytest.mark.parametrize("depth", [255, 500, 900])
def test_more_dimensions_than_a_tensor_has_are_refused(depth):
    nested = depth * "[" + "1" + depth * "]"
    message = "Encountered list at unexpected level: 254"
    assert message in refused(f'{{"inputs": {nested}}}', x=tf.int32)
    assert message in refused(f'{{"instances": [{nested}]}}', x=tf.int32)


def test_a_long_document_is_repeated_by_its_beginning_only():
    message = refused({"instances": {"x": ["abc"] * 100_000}}, x=tf.string)
    assert len(message) < 400
    assert message.startswith('JSON Value: {"instances":{"x":["abc","abc",')
    deep = refused('{"instances": {"x": ' + "[" * 600 + "]" * 600 + "}}", x=tf.string)
    assert len(deep) < 400


@pytest.mark.parametrize(
    "text",
    [
        r'{"inputs": ["\ud800"]}',
        r'{"inputs": ["\uDC00\ud800"]}',
        r'{"\ud800": 1}',
    ],
)
def test_half_a_surrogate_pair_is_no_text(text):
    assert refused(text, x=tf.string) == (
        "JSON Parse error: The surrogate pair in string is invalid"
    )


def test_a_whole_surrogate_pair_is_one_character():
    found = read(r'{"inputs": ["\ud83d\ude00"]}', x=tf.string)["x"]
    assert found.tolist() == ["😀".encode()]


def test_the_longest_numbers_are_refused_at_once():
    began = time.perf_counter()
    assert "too big" in refused('{"inputs": ' + "9" * 1_000_000 + "}", x=tf.int32)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("text", ['{"signature_name": 5}', '{"signature_name": null}'])
def test_a_signature_is_named_by_a_string(text):
    with pytest.raises(InvalidRequestError, match="key must be a string value"):
        json_tensors.signature_name(json_text.parse(text.encode()))
    assert json_tensors.signature_name({"signature_name": "x"}) == "x"
    assert json_tensors.signature_name({}) == ""


SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=4)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [np.float32, np.float64, np.int8, np.uint32, np.int64, np.bool_]
    ).flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))
)
def test_any_array_comes_back_from_its_json(array):
    text = json.dumps({"instances": array.tolist()})
    found = read(text, x=tf.as_dtype(array.dtype))["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


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
def test_any_document_makes_a_tensor_of_the_type_or_a_refusal(value, key, dtype):
    try:
        found = read({key: value}, x=dtype)["x"]
    except InvalidRequestError:
        return
    assert found.dtype == dtype.as_numpy_dtype


def test_an_image_costs_little_more_than_its_parsing():
    image = np.random.default_rng(0).random((224, 224, 3), np.float32)
    body = json.dumps({"instances": [image.astype(float).tolist()]}).encode()
    described = tensor_infos(x=(tf.float32, [None, 224, 224, 3]))
    parsing, all_of_it = [], []
    for _ in range(3):
        began = time.process_time()
        document = json_text.parse(body)
        parsed = time.process_time()
        found = json_tensors.decode_inputs(document, described)
        parsing.append(parsed - began)
        all_of_it.append(time.process_time() - began)
    np.testing.assert_array_equal(tf.make_ndarray(found.tensors["x"])[0], image)
    # A quarter more, measured.
    assert min(all_of_it) < 2 * min(parsing)
