"""JSON requests for Predict: the cases of `json_tensor_test.cc` and further ones."""

import math
import time

import numpy as np
import pytest
import tensorflow as tf
from dispatcher_double import read_json

from bn_keras_serving.common.errors import InvalidRequestError, UnsupportedError
from bn_keras_serving.rest import json_tensors, json_text

pytestmark = pytest.mark.fast

INTEGERS = (
    *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8),
    *(tf.uint32, tf.uint64),
)
HELLO, WORLD = {"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}


def error_of(text, error=InvalidRequestError, **inputs):
    """Return the message of the error that decoding must raise."""
    with pytest.raises(error) as raised:
        read_json(text, **inputs)
    assert type(raised.value) is error
    return str(raised.value)


def check(array, expected, dtype):
    assert array.dtype == dtype.as_numpy_dtype
    assert array.shape == np.shape(expected)
    np.testing.assert_array_equal(array, np.array(expected, dtype.as_numpy_dtype))


def test_plain_rows_belong_to_the_only_input():
    decoded = read_json({"instances": [[1, 2], [3, 4], [5, 6]]}, x=tf.int32)
    check(decoded["x"], [[1, 2], [3, 4], [5, 6]], tf.int32)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_whole_numbers_mix_with_decimals(dtype):
    decoded = read_json('{"instances": [1, 2.0, -3, 4e2, 5.003, 7E-3, 0.0]}', x=dtype)
    check(decoded["x"], [1, 2, -3, 400, 5.003, 0.007, 0], dtype)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_nan_and_infinity_are_numbers(dtype):
    array = read_json('{"inputs": [NaN, Infinity, -Infinity]}', x=dtype)["x"]
    assert math.isnan(array[0])
    assert array[1:].tolist() == [math.inf, -math.inf]


def test_short_forms_and_signs_are_read_as_by_rapidjson():
    # `ParseNumber` of RapidJSON 1.1.0 with kParseNanAndInfFlag.
    text = (
        r'{"inputs": {"s\\\"Inf": ["Inf", "-NaN", "\\"], "x": [Inf, -Inf, -NaN, NaN]}}'
    )
    arrays = read_json(text, x=tf.float32)
    np.testing.assert_array_equal(arrays["x"], [np.inf, -np.inf, np.nan, np.nan])
    document = json_text.parse(text.encode())
    assert document["inputs"]['s\\"Inf'] == ["Inf", "-NaN", "\\"]
    for value in ("+Inf", "+NaN", "inf", "nan", "INF", "--NaN", "- NaN", "-I"):
        with pytest.raises(InvalidRequestError, match="at offset: 9"):
            json_text.parse(f"[1, Inf, {value}]".encode())
    with pytest.raises(InvalidRequestError, match="at offset: 12"):
        json_text.parse(b"[1, Inf, Infi]")


def test_a_broken_document_with_many_quotation_marks_is_rejected_quickly():
    start = time.process_time()
    with pytest.raises(InvalidRequestError, match="Unterminated string"):
        json_text.parse(b'{"inputs": [Inf, "' + 1_000_000 * b'\\"')
    assert time.process_time() - start < 5


def test_floats_are_rounded_and_overflow_to_infinity_and_underflow_to_zero():
    largest, smallest = float(np.finfo(float).max), float(np.finfo(float).tiny)
    values = [1435774380, 1435774380.0, largest, -largest, smallest, 2**70]
    array = read_json({"instances": values}, x=tf.float32)["x"]
    assert array.tolist() == [1435774336, 1435774336, math.inf, -math.inf, 0, 2**70]


def test_rows_add_a_dimension():
    decoded = read_json({"instances": [{"x": [[HELLO], [WORLD]]}]}, x=tf.string)
    check(decoded["x"], [[[b"hello"], [b"world"]]], tf.string)


def test_a_binary_object_is_a_value_rather_than_a_named_row():
    check(
        read_json({"instances": [HELLO, WORLD]}, x=tf.string)["x"],
        [b"hello", b"world"],
        tf.string,
    )
    check(
        read_json({"instances": [[HELLO], [WORLD]]}, x=tf.string)["x"],
        [[b"hello"], [b"world"]],
        tf.string,
    )
    check(read_json({"inputs": HELLO}, x=tf.string)["x"], b"hello", tf.string)


def test_named_rows_are_combined_into_a_batch():
    decoded = read_json(
        """{"instances": [
            {"i": [[1,2],[3,4],[5,6]], "s": ["foo", "bar"], "f": [1.0, NaN], "d": 1},
            {"d": 2.5, "f": [2, Infinity], "s": ["baz", "數"], "i": [[7,8],[9,0],[1,2]]}
        ]}""",
        i=tf.int32,
        s=tf.string,
        f=tf.float32,
        d=tf.float64,
    )
    check(decoded["i"], [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], tf.int32)
    check(decoded["s"], [[b"foo", b"bar"], [b"baz", "數".encode()]], tf.string)
    check(decoded["f"], [[1, math.nan], [2, math.inf]], tf.float32)
    check(decoded["d"], [1, 2.5], tf.float64)


def test_columns_have_their_own_shapes_and_other_values_are_ignored():
    document = {"inputs": {"i": [[1, 2, 3]], "s": "foo", "e": [[], []], "other": [1]}}
    decoded = read_json(document, i=tf.int64, s=tf.string, e=tf.float32)
    assert set(decoded) == {"i", "s", "e"}
    check(decoded["i"], [[1, 2, 3]], tf.int64)
    check(decoded["s"], b"foo", tf.string)
    assert decoded["e"].shape == (2, 0)


def test_one_column_needs_no_name():
    check(read_json({"inputs": [[[1, 2]]]}, x=tf.int32)["x"], [[[1, 2]]], tf.int32)
    check(read_json({"inputs": 7}, x=tf.int32)["x"], 7, tf.int32)
    assert read_json({"inputs": []}, x=tf.string)["x"].shape == (0,)


def test_a_byte_order_mark_and_text_after_the_object_are_ignored():
    check(read_json('\ufeff {"instances": [1]}X', x=tf.int32)["x"], [1], tf.int32)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.name)
def test_an_integer_must_be_in_the_range_of_its_type(dtype):
    check(
        read_json({"inputs": [dtype.min, dtype.max]}, x=dtype)["x"],
        [dtype.min, dtype.max],
        dtype,
    )
    for value in (dtype.min - 1, dtype.max + 1, 10**30):
        assert error_of({"inputs": [1, value]}, x=dtype) == (
            f"JSON Value: {value} Type: Number is not of expected type: {dtype.name}"
        )


@pytest.mark.parametrize(
    ("value", "excerpt"),
    [
        ("1.5", "1.5 Type: Number"),
        ("1.0", "1.0 Type: Number"),
        ('"1"', '"1" Type: String'),
        ("true", "true Type: True"),
        ("null", "null Type: Null"),
        ('{"b64": "aGVsbG8="}', '{"b64":"aGVsbG8="} Type: Object'),
    ],
)
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.name)
def test_other_values_are_not_integers(dtype, value, excerpt):
    assert error_of(f'{{"inputs": [1, {value}]}}', x=dtype) == (
        f"JSON Value: {excerpt} is not of expected type: {dtype.name}"
    )


@pytest.mark.parametrize(
    ("dtype", "name", "value"),
    [
        (tf.float32, "float", "true"),
        (tf.float32, "float", '"1.0"'),
        (tf.float64, "double", "false"),
        (tf.float64, "double", "null"),
        (tf.bool, "bool", "1"),
        (tf.bool, "bool", '"true"'),
        (tf.string, "string", "1"),
        (tf.string, "string", "null"),
        (tf.string, "string", "false"),
    ],
)
def test_no_value_is_converted_to_another_type(dtype, name, value):
    message = error_of(f'{{"inputs": [{value}]}}', x=dtype)
    assert message.endswith(f"is not of expected type: {name}")


def test_true_and_false_are_booleans():
    check(
        read_json({"inputs": [[True, False]]}, x=tf.bool)["x"], [[True, False]], tf.bool
    )


@pytest.mark.parametrize("dtype", [tf.float16, tf.uint16, tf.complex64, tf.bfloat16])
def test_types_without_a_form_in_json_are_unsupported(dtype):
    message = error_of({"inputs": [1]}, UnsupportedError, x=dtype)
    assert message.startswith("Conversion of JSON Value: 1 to type: ")
    assert error_of({"instances": [1]}, x=dtype).startswith(
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
def test_ragged_or_mixed_values_are_rejected_as_in_tensorflow_serving(
    document, message
):
    assert message in error_of(document, x=tf.int32)


def test_several_inputs_need_names():
    assert error_of({"instances": [1]}, a=tf.int32, b=tf.int32).startswith(
        "instances is a plain list, but expecting list of objects as multiple input"
    )
    assert error_of({"inputs": [1]}, a=tf.int32, b=tf.int32).startswith(
        "inputs is a plain value/list, but expecting an object as multiple input"
    )
    assert error_of({"instances": [{"a": 1}]}, a=tf.int32, b=tf.int32).endswith(
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
def test_invalid_base64_is_rejected(value, message):
    assert message in error_of({"inputs": {"x": [value]}}, x=tf.string)
    assert message in error_of({"instances": [{"x": value}]}, x=tf.string)


@pytest.mark.parametrize("depth", [65, 255, 500, 900])
def test_more_dimensions_than_an_array_can_have_are_rejected(depth):
    nested = depth * "[" + "1" + depth * "]"
    message = "Encountered list at unexpected level: 64"
    assert message in error_of(f'{{"inputs": {nested}}}', x=tf.int32)
    assert message in error_of(f'{{"instances": [{nested}]}}', x=tf.int32)


def test_errors_quote_only_the_beginning_of_a_document():
    message = error_of({"instances": {"x": ["abc"] * 100_000}}, x=tf.string)
    assert len(message) < 400
    assert message.startswith('JSON Value: {"instances":{"x":["abc","abc",')
    deep = error_of('{"instances": {"x": ' + "[" * 600 + "]" * 600 + "}}", x=tf.string)
    assert len(deep) < 400


@pytest.mark.parametrize(
    "text",
    [
        r'{"inputs": ["\ud800"]}',
        r'{"inputs": ["\uDC00\ud800"]}',
        r'{"\ud800": 1}',
    ],
)
def test_an_unpaired_surrogate_is_rejected(text):
    assert error_of(text, x=tf.string) == (
        "JSON Parse error: The surrogate pair in string is invalid"
    )


def test_a_surrogate_pair_is_one_character():
    array = read_json(r'{"inputs": ["\ud83d\ude00"]}', x=tf.string)["x"]
    assert array.tolist() == ["😀".encode()]


@pytest.mark.parametrize(
    ("before", "number"),
    [
        ("", "1e400"),
        ("", "-1E+400"),
        ("", "1.7976931348623159e308"),
        ("", "1e0000309"),
        ("", "0.1e310"),
        ("", "1" + 309 * "0"),
        ("", "9" * 5000),
        ("", f"{'9' * 250}e99"),
        ('"e999", "1e400", "\\"1e400", -0e999, 1e-400, ', "2e999"),
        ('"数", {"1e999": 1}, Infinity, ', "12e0400"),
        ("1, ", "1e500, 1e501"),
    ],
    ids=range(11),
)
def test_a_number_beyond_float64_is_an_error_as_in_rapidjson(before, number):
    text = f'{{"inputs": [{before}{number}]}}'
    offset = len(f'{{"inputs": [{before}'.encode())
    assert error_of(text, x=tf.float32) == (
        f"JSON Parse error: Number too big to be stored in double. at offset: {offset}"
    )


@pytest.mark.parametrize("number", ["1.7976931348623157e308", "9" * 308, "0e999"])
def test_the_largest_numbers_are_numbers(number):
    array = read_json(f'{{"inputs": [{number}]}}', x=tf.float64)["x"]
    assert array.tolist() == [float(number)]


def test_very_long_numbers_are_rejected_quickly():
    start = time.perf_counter()
    assert "too big" in error_of('{"inputs": ' + "9" * 1_000_000 + "}", x=tf.int32)
    assert time.perf_counter() - start < 5


def test_of_repeated_keys_the_first_one_counts_as_in_rapidjson():
    assert read_json('{"inputs": [1], "inputs": 2}', x=tf.int32)["x"].tolist() == [1]
    columns = '{"inputs": {"x": [1], "y": [5], "x": [2]}}'
    assert read_json(columns, x=tf.int32)["x"].tolist() == [1]
    rows = '{"instances": [{"x": 1, "x": 2}, {"x": 3}]}'
    assert read_json(rows, x=tf.int32)["x"].tolist() == [1, 3]
    name = json_text.parse(b'{"signature_name": "a", "signature_name": 5}')
    assert json_tensors.signature_name(name) == "a"
    # An object with two members is not a base64 value, whatever they are.
    twice = '{"inputs": [{"b64": "aA==", "b64": "aA=="}]}'
    assert "not formatted correctly for base64 data" in error_of(twice, x=tf.string)


def test_offsets_count_bytes():
    assert error_of('\ufeff{"数": tru}', x=tf.int32) == (
        "JSON Parse error: Expecting value at offset: 11"
    )


@pytest.mark.parametrize("text", ['{"signature_name": 5}', '{"signature_name": null}'])
def test_the_name_of_a_signature_must_be_a_string(text):
    with pytest.raises(InvalidRequestError, match="key must be a string value"):
        json_tensors.signature_name(json_text.parse(text.encode()))
    assert json_tensors.signature_name({"signature_name": "x"}) == "x"
    assert json_tensors.signature_name({}) == ""
