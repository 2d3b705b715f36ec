"""Encoding and decoding of tensors, compared with TensorFlow's own."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from bn_keras_serving.client import tensors
from bn_keras_serving.common.tensors import to_typed_fields

pytestmark = pytest.mark.fast

WITHOUT_NUMPY = (
    types_pb2.DT_INVALID,
    types_pb2.DT_RESOURCE,
    types_pb2.DT_VARIANT,
)
# Every element type that NumPy can hold, without the references of TensorFlow 1.
DTYPES = [
    tf.as_dtype(number)
    for number in types_pb2.DataType.values()
    if number < 100 and number not in WITHOUT_NUMPY
]
SIGNED = ("int2", "int4", "int8", "int32", "int64", "float16", "bfloat16")
VALUES = {"empty": np.zeros((0, 3)), "scalar": np.ones(()), "rows": np.eye(2, 3)}


def array_of(dtype, values):
    if dtype == tf.string:
        strings = [b"one\x00", b"", b"\xff", "é".encode(), b"two", b""]
        return np.array(strings[: values.size], object).reshape(values.shape)
    if dtype.name in SIGNED:
        values = -values
    return values.astype(dtype.as_numpy_dtype)


def assert_equal(array, expected):
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tolist() == expected.tolist()


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_arrays_of_every_type_are_encoded_as_tensorflow_reads_them(dtype, values):
    array = array_of(dtype, values)
    message = tensors.encode(array)
    assert_equal(tensors.decode(message), array)
    serialized = message.SerializeToString()
    if dtype.is_quantized:  # no eager tensors of these
        proto = tensor_pb2.TensorProto.FromString(serialized)
        assert_equal(tf.make_ndarray(proto), array)
    else:
        tensor = tf.io.parse_tensor(serialized, dtype)
        assert_equal(np.array(tensor.numpy(), dtype.as_numpy_dtype), array)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(
    "dtype",
    # TensorFlow cannot encode a scalar of the types left out.
    [dtype for dtype in DTYPES if not dtype.name.endswith("nuz")],
    ids=lambda dtype: dtype.name,
)
def test_what_tensorflow_writes_is_decoded(dtype, values):
    array = array_of(dtype, values)
    decoded = tensors.decode(tf.make_tensor_proto(array))
    assert_equal(decoded, array)
    assert decoded.flags.writeable


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.complex64, tf.int64])
def test_typed_fields_are_decoded(dtype, values):
    array = array_of(dtype, values)
    proto = to_typed_fields(array)
    assert not proto.tensor_content
    assert_equal(tensors.decode(proto), array)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(0.5, tf.float32), (1 + 2j, tf.complex64), (0.5, tf.bfloat16), (b"a", tf.string)],
)
def test_the_last_value_of_a_shortened_tensor_is_repeated(value, dtype):
    proto = tf.make_tensor_proto(value, dtype, shape=[2, 2])
    assert tensors.decode(proto).tolist() == [[value, value], [value, value]]


@pytest.mark.parametrize("dtype", [tf.float32, tf.qint8, tf.string, tf.bfloat16])
def test_a_tensor_without_values_is_filled_with_zeros(dtype):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    proto.tensor_shape.dim.add(size=2)
    zero = b"" if dtype == tf.string else np.zeros((), dtype.as_numpy_dtype).tolist()
    assert tensors.decode(proto).tolist() == [zero, zero]


@pytest.mark.parametrize(
    "values", [{"float_val": [1, 2, 3]}, {"tensor_content": b"4444"}]
)
def test_a_tensor_whose_values_do_not_match_its_shape_is_an_error(values):
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, **values)
    proto.tensor_shape.dim.add(size=2)
    with pytest.raises(ValueError, match=r"shape \(2,\) must have 2 values\. Received"):
        tensors.decode(proto)


def test_numbers_in_another_byte_order_are_encoded():
    array = np.array([1.5, -2.0], ">f4")
    assert tensors.decode(tensors.encode(array)).tolist() == [1.5, -2.0]


def test_strings_may_be_str_or_bytes():
    message = tensors.encode(np.array(["é", b"\xff\x00"], object))
    assert list(message.string_val) == ["é".encode(), b"\xff\x00"]
    with pytest.raises(TypeError, match=r"bytes or str\. Received: int\. Convert"):
        tensors.encode(np.array(["a", 1], object))


def test_types_that_tensorflow_does_not_have_are_errors():
    with pytest.raises(TypeError, match=r"Received: an array of type datetime64\[s\]"):
        tensors.encode(np.array(["2026-01-01"], "datetime64[s]"))
    for number in (99, 199):
        with pytest.raises(TypeError, match=rf"Received: dtype={number}\. Check"):
            tensors.numpy_dtype(number)


def test_numpy_types_are_those_of_tensorflow():
    for number in types_pb2.DataType.values():
        if number % 100 in WITHOUT_NUMPY:
            with pytest.raises(TypeError, match="one that NumPy can hold"):
                tensors.numpy_dtype(number)
        else:
            expected = np.dtype(tf.as_dtype(number).as_numpy_dtype)
            assert tensors.numpy_dtype(number) == expected


def test_an_array_above_two_gibibytes_is_an_error():
    array = np.broadcast_to(np.float32(0), (2**29,))
    with pytest.raises(ValueError, match=r"at most 2147483647 bytes\. Received: an"):
        tensors.encode(array)


@pytest.mark.parametrize("number", [types_pb2.DT_BFLOAT16, types_pb2.DT_INT4])
def test_small_types_need_ml_dtypes(number, monkeypatch):
    def fail(name):
        raise ImportError(name)

    class Numpy:
        """NumPy before ml_dtypes has registered its types."""

        @staticmethod
        def dtype(name):
            raise TypeError(name)

    monkeypatch.setattr(importlib, "import_module", fail)
    monkeypatch.setattr(tensors, "np", Numpy)
    with pytest.raises(ImportError, match=r"needs the package ml_dtypes\. Install"):
        tensors.numpy_dtype(number)
