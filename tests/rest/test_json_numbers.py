"""The fast way from JSON to arrays: the same as the exact way, or none."""

import json

import numpy as np
import pytest
import tensorflow as tf
from dispatcher_double import check_equal
from hypothesis import given, settings
from hypothesis import strategies as st

from bn_keras_serving.rest import json_numbers, json_tensors, json_text

pytestmark = pytest.mark.fast

FLOATS = [tf.float32, tf.float64]
INTEGERS = [
    *(tf.int8, tf.int16, tf.int32, tf.int64),
    *(tf.uint8, tf.uint32, tf.uint64),
]
SPECIAL = [
    *("0", "-0", "-0.0", "0e0", "1E5", "1e+2", "2.5e-3", "5e-324", "1e-400", "1e-45"),
    *("1.4012984643e-45", "3.4028235e38", "3.4028236e38", "1.7976931348623157e308"),
    *("-128", "127", "128", "255", "256", "32768", "2147483648", "4294967295"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "-9223372036854775809"),
    # Between two float64, and between two float32 after the first rounding.
    *("9007199254740993", "1.00000017881393432617187499", "0.1", "16777217"),
    *("1.0", "1e400", "-1e400", "NaN", "-Infinity", "01", "+1", "1.", ".5", "--1", ""),
    *("true", "null", '"1"', "{}", "[]", '{"b64":"AA=="}', "1" * 320, "0." + "3" * 400),
]


def exact(body, types):
    """Decode as the server does without the fast way."""
    document = json_text.parse(body)
    name = json_tensors.signature_name(document)
    return name, json_tensors.decode_inputs(document, types[name or "serving_default"])


def compare(body, types):
    """Check that the fast way agrees with the exact one; return whether it answers."""
    fast = json_numbers.decode(body, types)
    if fast is None:
        return False
    name, expected = exact(body, types)  # raises no error
    assert fast[0] == name
    assert fast[1].by_row == expected.by_row
    assert fast[1].arrays.keys() == expected.arrays.keys()
    for alias, array in expected.arrays.items():
        check_equal(fast[1].arrays[alias], array)
    return True


def types_of(**inputs):
    return {
        "serving_default": {
            name: dtype.as_datatype_enum for name, dtype in inputs.items()
        }
    }


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ('{"instances": [1.0, 2.0, 5.0]}', (3,)),
        ('{"instances": [[1], [2]]}', (2, 1)),
        ('{"inputs": [[[1, 2], [3, 4]]]}', (1, 2, 2)),
        ('{"inputs": {"x": [[1, 2, 3]]}}', (1, 3)),
        ('{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}', (2, 2)),
        ('{"signature_name": "serving_default", "instances": [1]}', (1,)),
        ('{"instances": [1], "signature_name": ""}', (1,)),
        (' {\n"instances"\t: [ 1 ,\r\n2 ] }\n', (2,)),
    ],
)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=lambda dtype: dtype.name)
def test_lists_of_numbers_are_decoded_fast(text, shape, dtype):
    if dtype not in FLOATS:
        text = text.replace(".0", "")
    types = types_of(x=dtype)
    assert compare(text.encode(), types)
    assert json_numbers.decode(text.encode(), types)[1].arrays["x"].shape == shape


def test_several_inputs_are_decoded_fast():
    types = types_of(a=tf.float32, b=tf.int64)
    assert compare(b'{"inputs": {"b": [[1, 2]], "a": [0.5, 1]}}', types)
    rows = b'{"instances": [{"a": [[1]], "b": [1, 2]}, {"a": [[2]], "b": [3, 4]}]}'
    assert compare(rows, types)
    same = b'{"instances": [{"a": [1], "b": [2]}, {"b": [3], "a": [4]}]}'
    assert compare(same, types)
    assert not compare(same.replace(b'"a": [4]', b'"a": [4], "c": 1'), types)
    assert not compare(same.replace(b'"a": [4]', b'"a": [4], "a": [5]'), types)
    assert not compare(same.replace(b', "a": [4]', b""), types)
    assert not compare(rows.replace(b"[3, 4]", b"[3]"), types)
    assert not compare(rows.replace(b"[3, 4]", b"3"), types)
    assert not compare(rows.replace(b'{"a": [[1]]', b'{"a": [[1, 2]]'), types)


@pytest.mark.parametrize(
    "text",
    [
        '{"instances": [[1, 2], [3]]}',
        '{"instances": [[1, 2], [3, 4, 5], [6]]}',
        '{"instances": [[1], []]}',
        '{"instances": [[1, 2], []], "x": 1}',
        '{"instances": [[[1, 2], [3]], [[4], [5, 6]]]}',
        '{"instances": [[[1], [2], [3]], [[4, 5, 6]]]}',
        '{"instances": [1, [2]]}',
        '{"instances": [[1], 2]}',
        '{"instances": [[[1]], [2]]}',
        '{"instances": []}',
        '{"instances": [[]]}',
        '{"instances": 1}',
        '{"instances": "1"}',
        '{"inputs": 1}',
        '{"instances": [1], "instances": [2]}',
        '{"inputs": {"x": [1], "x": [2]}}',
        '{"inputs": {"y": [1]}}',
        '{"instances": [{"x": 1}]}',
        '{"instances": [1], "inputs": [1]}',
        '{"instances": [1], "more": 1}',
        '{"signature_name": 0, "instances": [1]}',
        '{"signature_name": null, "instances": [1]}',
        '{"signature_name": "no", "instances": [1]}',
        '{"instances": [1]} 2',
        '{"instances": [1]',
        '{"instances": [1,]}',
        "[1]",
        "",
        "[" * 2000,
        f'{{"inputs": {"[" * 300}1{"]" * 300}}}',
    ],
    ids=range(30),
)
def test_other_documents_are_left_to_the_exact_way(text):
    assert json_numbers.decode(text.encode(), types_of(x=tf.float32)) is None


def test_brackets_in_names_are_left_to_the_exact_way():
    name = "],["
    types = {name: {"x": 1}, "serving_default": {name: 1}}
    for document in (
        {"signature_name": name, "instances": [[1, 2], [3, 4]]},
        {"inputs": {name: [[1, 2], [3, 4]]}},
        {"instances": [{name: [1, 2]}]},
    ):
        body = json.dumps(document).encode()
        exact(body, types)
        assert json_numbers.decode(body, types) is None
    # Brackets that look as if a shape were regular.
    body = b'{"inputs": {"a],[": [1, 2]}}'
    assert json_numbers.decode(body, {"serving_default": {"a],[": 1}}) is None


@pytest.mark.parametrize("number", SPECIAL)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=lambda dtype: dtype.name)
def test_a_number_is_what_it_is_in_the_exact_way(number, dtype):
    for text in (f'{{"instances": [1, {number}]}}', f'{{"inputs": [[{number}]]}}'):
        compare(text.encode(), types_of(x=dtype))


def test_a_list_longer_than_simdjson_counts_has_its_size():
    size = 2**24 + 5
    body = b'{"instances":[' + b"1," * (size - 1) + b"1]}"
    _, decoded = json_numbers.decode(body, types_of(x=tf.uint8))
    assert decoded.arrays["x"].shape == (size,)
    assert decoded.arrays["x"].min() == 1


def ordinary_numbers(dtype):
    if dtype not in FLOATS:
        return st.integers(dtype.min, dtype.max).map(str)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return (
        st.integers(-(2**63), 2**64 - 1).map(str)
        | floats.map(repr)
        | floats.map("{:.25e}".format)
        | st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr)
    )


@settings(max_examples=500, deadline=None)
@given(st.data(), st.sampled_from([*FLOATS, *INTEGERS]), st.booleans())
def test_any_document_is_decoded_as_in_the_exact_way(data, dtype, ordinary):
    space = st.sampled_from(["", "", "", " ", "\n\t", "\r\n  "])
    number = ordinary_numbers(dtype)
    if not ordinary:
        number |= st.integers(-(2**64), 2**65).map(str) | st.sampled_from(SPECIAL)

    def nested(shape):
        if not shape:
            return data.draw(number)
        size = shape[0]
        if not ordinary and data.draw(st.integers(0, 9)) == 0:
            size = data.draw(st.integers(0, 3))
        items = ("," + data.draw(space)).join(nested(shape[1:]) for _ in range(size))
        return f"[{data.draw(space)}{items}{data.draw(space)}]"

    shape = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    form = data.draw(st.sampled_from(["instances", "inputs", "columns", "rows"]))
    if form == "columns":
        members = [f'"inputs":{{"x":{nested(shape)}}}']
    elif form == "rows":
        rows = ",".join(f'{{"x":{nested(shape[1:])}}}' for _ in range(shape[0]))
        members = [f'"instances":[{rows}]']
    else:
        members = [f'"{form}":{nested(shape)}']
    if data.draw(st.booleans()):
        members.insert(data.draw(st.integers(0, 1)), '"signature_name": "s"')
    end = data.draw(st.sampled_from(["", " ", "\n"] if ordinary else ["", "x", "}"]))
    body = f"{data.draw(space)}{{{','.join(members)}}}{end}".encode()
    types = {name: {"x": dtype.as_datatype_enum} for name in ("serving_default", "s")}
    decoded = compare(body, types)
    assert decoded or not ordinary


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.floats(width=64, allow_nan=False, allow_infinity=False), min_size=1
    ).map(np.array)
)
def test_float32_is_rounded_from_the_nearest_float64(array):
    body = json.dumps({"inputs": array.tolist()}).encode()
    _, decoded = json_numbers.decode(body, types_of(x=tf.float32))
    with np.errstate(over="ignore", under="ignore"):
        check_equal(decoded.arrays["x"], array.astype(np.float32))
