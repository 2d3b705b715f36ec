"""Conversion between tensor protos and NumPy arrays."""

import functools
import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

# A single value in a proto fills the whole declared shape, so a message of a few bytes
# can ask for any amount of memory. Up to this many elements may be filled; beyond
# that, the message must contain at least one byte per element. Strings are never
# filled, since each can have any length.
MAXIMUM_FILLED_ELEMENTS = 2**22
MAXIMUM_RANK = 254  # of TensorFlow's TensorShape

# For each element type, the field of TensorProto that holds its values and the NumPy
# type they are stored as (tensor.proto of TensorFlow).
_TYPED_FIELDS = {
    types_pb2.DT_FLOAT: ("float_val", np.float32),
    types_pb2.DT_DOUBLE: ("double_val", np.float64),
    types_pb2.DT_INT8: ("int_val", np.int8),
    types_pb2.DT_INT16: ("int_val", np.int16),
    types_pb2.DT_INT32: ("int_val", np.int32),
    types_pb2.DT_INT64: ("int64_val", np.int64),
    types_pb2.DT_UINT8: ("int_val", np.uint8),
    types_pb2.DT_UINT16: ("int_val", np.uint16),
    types_pb2.DT_UINT32: ("uint32_val", np.uint32),
    types_pb2.DT_UINT64: ("uint64_val", np.uint64),
    types_pb2.DT_BOOL: ("bool_val", np.bool_),
    types_pb2.DT_STRING: ("string_val", np.object_),
    types_pb2.DT_HALF: ("half_val", np.uint16),
    types_pb2.DT_BFLOAT16: ("half_val", np.uint16),
    types_pb2.DT_COMPLEX64: ("scomplex_val", np.float32),
    types_pb2.DT_COMPLEX128: ("dcomplex_val", np.float64),
}
_NUMPY_TYPES = {
    data_type: np.dtype(tf.as_dtype(data_type).as_numpy_dtype)
    for data_type in _TYPED_FIELDS
}
_DATA_TYPES = {numpy_type: number for number, numpy_type in _NUMPY_TYPES.items()}
_FIELDS_BY_NAME = tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name
# Integers are encoded with a variable length. Up to this many bytes, NumPy encodes them
# faster than protobuf does.
_MAXIMUM_VARINT_BYTES = 5


def to_array(tensor: tf.Tensor) -> np.ndarray:
    """Convert an eager tensor to an array; strings to an object array of bytes."""
    # `.numpy()` returns a plain value for a scalar, and NumPy's own byte strings drop
    # trailing zero bytes; an explicit element type avoids both.
    return np.asarray(tensor.numpy(), dtype=tensor.dtype.as_numpy_dtype)


def parse(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Parse a tensor proto from a client as strictly as TensorFlow's C++ code does.

    Args:
        proto: A `TensorProto`, with `tensor_content` or typed fields.

    Returns:
        An array of the proto's shape and type.

    Raises:
        ValueError: If the proto is malformed, or declares more elements than its size
            in bytes and `MAXIMUM_FILLED_ELEMENTS` allow.
    """
    return parse_values(proto, *declared_type_and_shape(proto))


def parse_values(
    proto: tensor_pb2.TensorProto, data_type: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Parse the values of a tensor proto whose type and shape are known to be valid.

    Args:
        proto: A `TensorProto`, with `tensor_content` or typed fields.
        data_type: Its `DataType`, as `declared_type_and_shape` returns it.
        shape: Its shape.

    Returns:
        An array of that shape and type.

    Raises:
        ValueError: As `parse`.
    """
    elements = math.prod(shape)
    numpy_type = _NUMPY_TYPES.get(data_type)
    # Each access to a field copies it.
    content = proto.tensor_content
    if content and numpy_type is not None and data_type != types_pb2.DT_STRING:
        # `tf.io.parse_tensor` would copy the bytes three times, and would log a wrong
        # length in addition to raising an error.
        if len(content) == elements * numpy_type.itemsize:
            return np.frombuffer(content, numpy_type).reshape(shape)
        raise _malformed(proto, data_type, shape)
    if not content and numpy_type is not None:
        values = _field_values(proto, data_type, elements)
        if values is not None:
            return values.reshape(shape)
    # Abbreviated, too long, or of a rare type.
    if data_type == types_pb2.DT_STRING:
        limit = len(content or proto.string_val)
    else:
        limit = MAXIMUM_FILLED_ELEMENTS
        if elements > limit:
            limit = max(limit, proto.ByteSize())
    if elements > limit:
        raise ValueError(
            f"A tensor proto of this size must have at most {limit} elements. "
            f"Received: shape={shape}. Send every value instead of one that is to be "
            "repeated."
        )
    try:
        return to_array(
            tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(data_type))
        )
    except tf.errors.OpError:
        raise _malformed(proto, data_type, shape) from None


def declared_type_and_shape(
    proto: tensor_pb2.TensorProto,
) -> tuple[int, tuple[int, ...]]:
    """Return the `DataType` and shape that a tensor proto declares, not its values.

    Raises:
        ValueError: If the type or the shape is invalid.
    """
    data_type = proto.dtype
    shape = tuple([dimension.size for dimension in proto.tensor_shape.dim])
    if (
        not _is_known(data_type)
        or len(shape) > MAXIMUM_RANK
        or min(shape, default=0) < 0
    ):
        raise ValueError(
            "A tensor proto must have a known type and a fully defined shape. "
            f"Received: type {data_type}, shape {shape}. Create the proto with "
            "tf.make_tensor_proto."
        )
    return data_type, shape


def type_name(data_type: int) -> str:
    """Return a `DataType`'s name in TensorFlow's C++ code: `float`, `half`, ..."""
    return types_pb2.DataType.Name(data_type).removeprefix("DT_").lower()


def data_type_of(array: np.ndarray) -> int:
    """Return the `DataType` of an array.

    Raises:
        TypeError: If TensorFlow has no such type.
    """
    number = _DATA_TYPES.get(array.dtype)
    return tf.as_dtype(array.dtype).as_datatype_enum if number is None else number


def to_typed_fields(
    array: np.ndarray, proto: tensor_pb2.TensorProto | None = None
) -> tensor_pb2.TensorProto:
    """Write an array into the field for its type: `float_val`, `int_val`, ...

    Args:
        array: Any array.
        proto: Empty message to write to; a new one by default.

    Returns:
        The message.
    """
    proto = tensor_pb2.TensorProto() if proto is None else proto
    data_type = data_type_of(array)
    if data_type not in _TYPED_FIELDS:  # float8 and int4, which no client reads yet
        proto.CopyFrom(tf.make_tensor_proto(array))
        return proto
    header = _header(data_type, array.shape)
    field, stored_type = _TYPED_FIELDS[data_type]
    values = np.ravel(array)
    if values.dtype != stored_type:
        values = values.view(stored_type)
    packed = _pack(values)
    if packed is None:
        proto.MergeFromString(header)
        getattr(proto, field).extend(values.tolist())
    else:
        # Protobuf copies the bytes at once, but converts Python's numbers one by one:
        # 6 ms instead of 0.1 ms for 1 MB of float32.
        prefix = _length_prefix(field, memoryview(packed).nbytes)
        proto.MergeFromString(b"".join((header, prefix, packed)))
    return proto


def to_content(
    array: np.ndarray, proto: tensor_pb2.TensorProto | None = None
) -> tensor_pb2.TensorProto:
    """Write an array as bytes (`tensor_content`); strings into `string_val`.

    The arguments and the result are those of `to_typed_fields`.
    """
    if array.dtype == object:
        return to_typed_fields(array, proto)
    proto = tensor_pb2.TensorProto() if proto is None else proto
    proto.MergeFromString(_header(data_type_of(array), array.shape))
    proto.tensor_content = array.tobytes()
    return proto


def _field_values(
    proto: tensor_pb2.TensorProto, data_type: int, elements: int
) -> np.ndarray | None:
    """Return the values in the typed field, or None if it has another number of them.

    They are a flat array of the proto's type.
    """
    field, stored_type = _TYPED_FIELDS[data_type]
    numpy_type = _NUMPY_TYPES[data_type]
    container = getattr(proto, field)
    # A complex number consists of two values.
    if (
        len(container) * np.dtype(stored_type).itemsize
        != elements * numpy_type.itemsize
    ):
        return None
    if data_type == types_pb2.DT_STRING:
        values = np.empty(elements, np.object_)
        values[:] = list(container)
        return values
    # As in TensorFlow's C++ code, an integer that is out of range is cut off.
    values = np.asarray(container).astype(stored_type, copy=False)
    return values if values.dtype == numpy_type else values.view(numpy_type)


@functools.lru_cache(maxsize=256)
def _header(data_type: int, shape: tuple[int, ...]) -> bytes:
    """Return a serialized proto of a type and shape, to which values are appended."""
    proto = tensor_pb2.TensorProto(dtype=data_type)  # pyright: ignore[reportArgumentType]
    proto.tensor_shape.SetInParent()  # a scalar has a shape, too
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto.SerializeToString()


def _pack(values: np.ndarray) -> bytes | memoryview | None:
    """Return the bytes of a packed field, or None if protobuf has to encode it."""
    if values.dtype.kind == "f":
        return values.data
    if values.dtype == np.bool_:
        # A client's `tensor_content` can hold any byte, but a field only 0 and 1.
        return (values.view(np.uint8) != 0).data
    if values.dtype == object or not len(values):
        return None
    # Negative numbers are encoded as 64 bits, in two's complement.
    numbers = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64)
    numbers = numbers.view(np.uint64)
    columns = -(-int(numbers.max()).bit_length() // 7) or 1
    if columns == 1:
        return numbers.astype(np.uint8).tobytes()
    if columns > _MAXIMUM_VARINT_BYTES:
        return None
    # One row per number: groups of 7 bits, the lowest first, each with a bit that says
    # whether another one follows.
    groups = np.empty((len(numbers), columns), np.uint8)
    used = np.ones(groups.shape, np.bool_)
    for column in range(columns):
        if column:
            used[:, column] = numbers != 0
        rest = numbers >> np.uint64(7)
        groups[:, column] = (numbers & np.uint64(0x7F)) | (
            (rest != 0).astype(np.uint64) << np.uint64(7)
        )
        numbers = rest
    return groups[used].tobytes()


@functools.lru_cache(maxsize=256)
def _length_prefix(field: str, length: int) -> bytes:
    """Return the tag and the length that precede the bytes of a packed field."""
    return _varint(_FIELDS_BY_NAME[field].number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _malformed(
    proto: tensor_pb2.TensorProto, data_type: int, shape: tuple[int, ...]
) -> ValueError:
    return ValueError(
        "The type, shape and contents of a tensor proto must agree. Received: type "
        f"{tf.as_dtype(data_type).name}, shape {shape} and {proto.ByteSize()} bytes. "
        "Create the proto with tf.make_tensor_proto."
    )


@functools.lru_cache(maxsize=256)
def _is_known(data_type: int) -> bool:
    """Return whether TensorFlow has a type of that number."""
    try:
        tf.as_dtype(data_type)
    except TypeError:
        return False
    return True
