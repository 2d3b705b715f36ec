"""What fits a signature, and what is said of what does not."""

import numpy as np
import pytest
import tensorflow as tf
from client_servers import definition

from bn_keras_serving.client import inputs

BFLOAT16 = tf.bfloat16.as_numpy_dtype
BATCH = "add the axis of the batch, numpy.asarray(x)[numpy.newaxis]"


def fit(value, dtype, shape=None):
    return inputs.fitted({"x": value}, definition({"x": (dtype, shape)}))["x"]


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
    found = fit(value, dtype)
    assert (found.dtype, found.shape) == (expected.dtype, np.shape(expected))
    np.testing.assert_array_equal(found, expected)


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
    found = fit(value, tf.string)
    assert (found.dtype, found.tolist()) == (object, expected)


def test_an_array_of_the_type_is_not_copied():
    array = np.ones((2, 3), np.float32)
    assert fit(array, tf.float32) is array


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([1.5], tf.int32, "must be of type int32. Received: x of type float64; round"),
        (np.array([1], np.uint8), tf.float32, "x of type uint8; convert it, numpy.asa"),
        (np.array([1], np.float32), tf.float16, "must be of type float16. Received:"),
        (np.array([1], np.float32), tf.float64, "must be of type float64. Received:"),
        (np.array([1], np.int32), tf.int64, "must be of type int64. Received:"),
        ([True], tf.float32, "x of type bool; convert it"),
        ([1], tf.bool, "must be of type bool. Received: x of type int64"),
        ([1j], tf.float32, "x of type complex128; convert it"),
        (["a"], tf.float32, "must be of type float32. Received: x of type str32; send"),
        ([None], tf.float32, "x of type object; send numbers"),
        ([2**64], tf.uint64, "x of type object; send numbers"),
        ([1], tf.string, "must be of strings. Received: x with int; send bytes or str"),
        ([[b"a"], [b"b", b"c"]], tf.string, "of strings. Received: x with list"),
        ([[1], [2, 3]], tf.float32, "must be an array. Received: x of lists of uneq"),
        ([1, 128], tf.int8, "values from -128 to 127, those of int8. Received: x with"),
        ([-1], tf.uint8, "from 0 to 255, those of uint8. Received: x with -1; scale"),
        (np.array([1, 1e39]), tf.float32, "those of float32. Received: x with 1e+39;"),
        ([1, -70000], tf.float16, "those of float16. Received: x with -70000; scale"),
        ([1e39], tf.bfloat16, "those of bfloat16. Received: x with 1e+39; scale it"),
    ],
)
def test_other_values_are_refused(value, dtype, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        fit(value, dtype)
    assert str(raised.value).startswith("`x` must be ")
    assert message in str(raised.value)


@pytest.mark.parametrize("shape", [None, [None, 2], [3, 2], [None, None]])
def test_shapes_that_fit(shape):
    assert fit(np.zeros((3, 2)), tf.float64, shape).shape == (3, 2)


@pytest.mark.parametrize(
    ("shape", "given", "mend"),
    [
        ([None, 4], (4,), BATCH),
        ([None, 8, 8, 3], (8, 8, 3), BATCH),
        ([2, 4], (4,), "None stands for any size"),
        ([None, 4], (2, 5), "None stands for any size"),
        ([None, 4], (2, 4, 1), "None stands for any size"),
        ([], (1,), "None stands for any size"),
    ],
)
def test_shapes_that_do_not(shape, given, mend):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        fit(np.zeros(given, np.float32), tf.float32, shape)
    assert str(raised.value) == (
        f"`x` must be of shape {tuple(shape)}. Received: x of shape {given}; {mend}"
    )


TWO = definition({"a": (tf.float32, None), "b": (tf.float32, None)}, defaults=["b"])


def test_names_must_be_those_of_the_inputs():
    for sent, message in (
        ({}, r"names \['a', 'b'\]\. Received: \[\]; add a$"),
        ({"a": 1, "c": 1}, r"Received: \['a', 'c'\]; leave out c$"),
        ({"b": 1, "c": 1}, r"; add a and leave out c$"),
    ):
        with pytest.raises(ValueError, match=message):
            inputs.fitted(sent, TWO)


def test_an_input_with_a_default_may_be_left_out():
    assert set(inputs.fitted({"a": 1.0}, TWO)) == {"a"}
    assert inputs.named(1.0, TWO) == {"a": 1.0}


def test_wanted_outputs_must_be_there_and_once():
    inputs.check_outputs(["y"], TWO)
    for names in (["z"], ["y", "y"]):
        with pytest.raises(ValueError, match=r"outputs of \['y'\], each once"):
            inputs.check_outputs(names, TWO)
