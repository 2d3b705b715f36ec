"""Conversion between arrays and tensor protos in their two encodings."""

import numpy as np
import pytest
import tensorflow as tf
from serving_models import ECHOED, proto_of
from tensorflow.core.framework import tensor_pb2, types_pb2

from bn_keras_serving.common import tensors

pytestmark = pytest.mark.fast

SHAPES = [(2, 3), (1,), (), (0, 3)]
# The largest and smallest number of each length of a variable-length integer.
LIMITS = [
    0,
    1,
    2**7 - 1,
    *(2**bits - delta for bits in range(7, 64, 7) for delta in (0, 1)),
]


def array_of(dtype, shape):
    count = int(np.prod(shape))
    if dtype == tf.string:
        values = np.empty(count, object)
        values[:] = [b"\0x\0" * (n % 3) for n in range(count)]
        return values.reshape(shape)
    return np.arange(count).reshape(shape).astype(dtype.as_numpy_dtype)


def written_by_protobuf(array):
    """Write an array value by value, which protobuf encodes."""
    dtype = tf.as_dtype(array.dtype)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    field, stored_type = tensors._TYPED_FIELDS[dtype.as_datatype_enum]
    values = array.ravel()
    if stored_type not in (np.object_, array.dtype):
        values = values.view(stored_type)
    getattr(proto, field).extend(values.tolist())
    return proto


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ECHOED, ids=lambda dtype: dtype.name)
def test_an_array_is_restored_from_either_encoding(dtype, shape):
    array = array_of(dtype, shape)
    content, fields = tensors.to_content(array), tensors.to_typed_fields(array)
    if dtype != tf.string:
        assert content.tensor_content == array.tobytes()
    assert not fields.tensor_content
    for proto in (content, fields):
        # TensorFlow's own functions are the oracles for the protos.
        parsed = tf.io.parse_tensor(proto.SerializeToString(), dtype)
        for restored in (
            tensors.parse(proto),
            tensors.to_array(parsed),
            tf.make_ndarray(proto),
        ):
            assert (restored.dtype, restored.shape) == (array.dtype, shape)
            assert restored.tolist() == array.tolist()


@pytest.mark.parametrize("dtype", ECHOED, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_fields_are_the_same_bytes_that_protobuf_writes(dtype, count):
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 256, count * dtype.size or count, np.uint8)
    if dtype == tf.string:
        array = np.array([bytes([number]) for number in numbers], object)
    elif dtype == tf.bool:
        array = numbers > 127
    elif dtype.is_integer:
        array = numbers.view(dtype.as_numpy_dtype)
    else:
        array = np.array([np.nan, np.inf, *generator.normal(size=count)][:count])
        array = array.astype(dtype.as_numpy_dtype)
    written = tensors.to_typed_fields(array).SerializeToString()
    assert written == written_by_protobuf(array).SerializeToString()


@pytest.mark.parametrize(
    "dtype", [d for d in ECHOED if d.is_integer], ids=lambda d: d.name
)
def test_integers_of_every_length_are_the_same_bytes(dtype):
    numbers = [n for n in LIMITS if n <= dtype.max]
    if dtype.min < 0:
        numbers += [-n for n in numbers]
    for chosen in (numbers, *([n] for n in numbers), *([0, n] for n in numbers)):
        array = np.array(chosen, dtype.as_numpy_dtype)
        written = tensors.to_typed_fields(array).SerializeToString()
        assert written == written_by_protobuf(array).SerializeToString()


def test_an_array_that_is_not_contiguous_is_written_in_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2].T
    for encode in (tensors.to_content, tensors.to_typed_fields):
        assert tf.make_ndarray(encode(array)).tolist() == array.tolist()


def test_truth_values_are_written_as_zero_and_one():
    content = proto_of(tf.bool, (3,), tensor_content=b"\x00\xd5\x02")
    fields = tensors.to_typed_fields(tensors.parse(content))
    assert list(fields.bool_val) == [False, True, True]
    assert fields.SerializeToString().endswith(b"\x00\x01\x01")


def test_a_message_is_written_in_place():
    proto = tensor_pb2.TensorProto()
    assert tensors.to_typed_fields(np.ones(2, np.float32), proto) is proto
    assert list(proto.float_val) == [1, 1]


def test_the_last_value_of_an_abbreviated_proto_is_repeated():
    proto = tf.make_tensor_proto(0.5, tf.float32, shape=[2, 2])
    assert tensors.parse(proto).tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    "proto",
    [
        proto_of(tf.float32, (2,)),
        proto_of(tf.float32, (2,), float_val=[1.0, 2.0, 3.0]),
        proto_of(tf.float32, (2,), int_val=[1, 2]),
        proto_of(tf.float32, (), float_val=[1.0]),
        proto_of(tf.int8, (2,), int_val=[300, -300]),
        proto_of(tf.uint16, (1,), int_val=[-1]),
        proto_of(tf.complex64, (2,), scomplex_val=[1.0, 2.0, 3.0]),
        proto_of(tf.complex64, (1,), scomplex_val=[1.0, 2.0]),
        proto_of(tf.bfloat16, (2,), half_val=[16256]),
        proto_of(tf.qint8, (2,), int_val=[1, 2]),
        proto_of(tf.float32, (0,), float_val=[1.0]),
        proto_of(tf.string, (1,), string_val=[b"a", b"b"]),
    ],
    ids=str,
)
def test_values_are_parsed_as_in_c_plus_plus(proto):
    dtype = tf.as_dtype(proto.dtype)
    expected = tf.io.parse_tensor(proto.SerializeToString(), dtype)
    restored = tensors.parse(proto)
    assert restored.dtype == dtype.as_numpy_dtype
    assert restored.tolist() == tensors.to_array(expected).tolist()


@pytest.mark.parametrize("rank", [65, 200, 255])
def test_a_rank_that_numpy_does_not_have_is_malformed(rank):
    for fields in ({"float_val": [1.0]}, {"tensor_content": b"\0" * 4}, {}):
        with pytest.raises(ValueError, match=r"dimension|must"):
            tensors.parse(proto_of(tf.float32, [1] * rank, **fields))


def test_the_type_of_an_array_has_a_number():
    assert tensors.data_type_of(np.zeros(1, np.float16)) == types_pb2.DT_HALF
    assert tensors.data_type_of(np.zeros(1, object)) == types_pb2.DT_STRING
    with pytest.raises(TypeError):
        tensors.data_type_of(np.zeros(1, "datetime64[s]"))
