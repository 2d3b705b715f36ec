"""Fitting inputs to a signature, and the errors for those that do not fit."""

import numpy as np
import pytest
import tensorflow as tf
from client_servers import make_signature

from bn_keras_serving.client import inputs

pytestmark = pytest.mark.fast

BFLOAT16 = tf.bfloat16.as_numpy_dtype
ADD_BATCH = "Add the batch axis: numpy.asarray(x)[numpy.newaxis]."
ANY_SIZE = "None stands for any size."


def fit(value, dtype, shape=None, check_shapes=True):
    signature = make_signature({"x": (dtype, shape)})
    return inputs.fit_inputs({"x": value}, signature, check_shapes)["x"]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ([1, 2], tf.float32, np.array([1, 2], np.float32)),
        ([1.1, 2], tf.float32, np.array([1.1, 2], np.float32)),
        (0.1, tf.float16, np.float16(0.1)),
        (np.array([0.1]), tf.bfloat16, np.array([0.1], BFLOAT16)),
        (np.array([1, -2]), tf.int8, np.array([1, -2], np.int8)),
        ([0, 255], tf.uint8, np.array([0, 255], np.uint8)),
        ([2**63 - 1], tf.uint64, np.array([2**63 - 1], np.uint64)),
        ([1, 2.5], tf.complex64, np.array([1, 2.5], np.complex64)),
        ([1j], tf.complex64, np.array([1j], np.complex64)),
        ([True, False], tf.bool, np.array([True, False])),
        ([np.nan, -np.inf], tf.float32, np.array([np.nan, -np.inf], np.float32)),
        (np.array([1], ">f4"), tf.float32, np.array([1], np.float32)),
        ([], tf.int32, np.array([], np.int32)),
        (tf.constant([1.5]), tf.float32, np.array([1.5], np.float32)),
        ([np.float32(1.5)], tf.float32, np.array([1.5], np.float32)),
        ((np.ones((2, 3), np.uint8),) * 2, tf.uint8, np.ones((2, 2, 3), np.uint8)),
    ],
)
def test_numbers_take_the_type_of_the_input(value, dtype, expected):
    array = fit(value, dtype)
    assert (array.dtype, array.shape) == (expected.dtype, np.shape(expected))
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([b"a\x00", "é"], [b"a\x00", "é"]),
        (np.array(["ab"]), ["ab"]),
        (np.array([b"ab"]), [b"ab"]),
        ("one", "one"),
        ([], []),
        (tf.constant([b"\xff\x00"]), [b"\xff\x00"]),
    ],
)
def test_strings_keep_every_byte(value, expected):
    array = fit(value, tf.string)
    assert (array.dtype, array.tolist()) == (object, expected)


def test_an_array_of_the_type_is_not_copied():
    array = np.ones((2, 3), np.float32)
    assert fit(array, tf.float32) is array


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([1.5], tf.int32, "must be of type int32. Received: x of type float64. Round"),
        (np.array([1], np.uint8), tf.float32, "x of type uint8. Convert it: numpy.asa"),
        (np.array([1], np.float32), tf.float16, "must be of type float16. Received:"),
        (np.array([1], np.float32), tf.float64, "must be of type float64. Received:"),
        (np.array([1], np.int32), tf.int64, "must be of type int64. Received:"),
        ([True], tf.float32, "x of type bool. Convert it"),
        ([1], tf.bool, "must be of type bool. Received: x of type int64"),
        ([1j], tf.float32, "x of type complex128. Convert it"),
        (["a"], tf.float32, "must be of type float32. Received: x of type str32. Send"),
        ([None], tf.float32, "x of type object. Send numbers"),
        ([2**64], tf.uint64, "x of type object. Send numbers"),
        (
            [1],
            tf.string,
            "of strings. Received: x with an element of type int. Send bytes",
        ),
        (
            [[b"a"], [b"b", b"c"]],
            tf.string,
            "of strings. Received: x with an element of type list",
        ),
        ([[1], [2, 3]], tf.float32, "must be an array. Received: x of lists of diffe"),
        ([1, 128], tf.int8, "values from -128 to 127, the range of int8. Received: x"),
        ([-1], tf.uint8, "from 0 to 255, the range of uint8. Received: x with -1. S"),
        (np.array([1, 1e39]), tf.float32, "range of float32. Received: x with 1e+39."),
        ([1, -70000], tf.float16, "range of float16. Received: x with -70000. Scale"),
        ([1e39], tf.bfloat16, "range of bfloat16. Received: x with 1e+39. Scale it"),
        ([1e39], tf.complex64, "range of complex64. Received: x with 1e+39. Scale it"),
        ([1], tf.qint8, "x of type int64. Convert it"),
    ],
)
def test_other_values_are_refused(value, dtype, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        fit(value, dtype)
    assert str(raised.value).startswith("`x` must ")
    assert message in str(raised.value)


@pytest.mark.parametrize("shape", [None, [None, 2], [3, 2], [None, None]])
def test_shapes_that_fit_are_accepted(shape):
    assert fit(np.zeros((3, 2)), tf.float64, shape).shape == (3, 2)


@pytest.mark.parametrize(
    ("expected", "shape", "hint"),
    [
        ([None, 4], (4,), ADD_BATCH),
        ([None, 8, 8, 3], (8, 8, 3), ADD_BATCH),
        ([2, 4], (4,), ANY_SIZE),
        ([None, 4], (2, 5), ANY_SIZE),
        ([None, 4], (2, 4, 1), ANY_SIZE),
        ([], (1,), ANY_SIZE),
    ],
)
def test_other_shapes_are_refused(expected, shape, hint):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        fit(np.zeros(shape, np.float32), tf.float32, expected)
    assert str(raised.value) == (
        f"`x` must be of shape {tuple(expected)}. Received: x of shape {shape}. {hint}"
    )


def test_shapes_are_checked_only_if_asked():
    """TensorFlow Serving's half_plus_two declares (None, 1) and takes any shape."""
    for value in ([1.0, 2.0, 5.0], 1.0, np.zeros((0, 1)), np.zeros((2, 3, 4))):
        array = fit(value, tf.float32, [None, 1], check_shapes=False)
        assert (array.dtype, array.shape) == (np.float32, np.shape(value))


TWO = make_signature({"a": (tf.float32, None), "b": (tf.float32, None)}, defaults=["b"])


def test_names_must_be_those_of_the_inputs():
    for sent, message in (
        ({}, r"names \['a', 'b'\]\. Received: \[\]\. To fix it, add a\.$"),
        ({"a": 1, "c": 1}, r"Received: \['a', 'c'\]\. To fix it, leave out c\.$"),
        ({"b": 1, "c": 1}, r"To fix it, add a and leave out c\.$"),
    ):
        with pytest.raises(ValueError, match=message):
            inputs.fit_inputs(sent, TWO)


def test_an_input_with_a_default_may_be_left_out():
    assert set(inputs.fit_inputs({"a": 1.0}, TWO)) == {"a"}
    assert inputs.name_inputs(1.0, TWO) == {"a": 1.0}


def test_each_name_of_the_output_filter_must_be_an_output_and_appear_once():
    inputs.check_output_filter(["y"], TWO)
    for names in (["z"], ["y", "y"]):
        with pytest.raises(ValueError, match=r"outputs of \['y'\], each once"):
            inputs.check_output_filter(names, TWO)
