"""Endless malformed requests, derived from valid ones."""

import random
import struct

import numpy as np
import tensorflow as tf
from serving_models import ROWS, Model, function, request_of
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2

NAME = "target"
TYPES = ("float16", "bfloat16", "float32", "int8", "int32", "int64", "uint64")
TYPES += ("bool", "string", "complex64", "complex128")
# Varints at the limits of fields, lengths and sizes.
EDGES = (0, 1, 127, 2**14, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1)
SIZES = (-(2**63), -(2**31), -2, -1, 0, 0, 1, 1, 2, 3, 4, 7, 8, 255, 1000)
SIZES += (2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1)
ODD_NAMES = ("", "x", "X", "x\0", "ünï©ødé \U0001f600", "../../etc/passwd", "a" * 500)


class Target(tf.Module):
    """Signatures of many types, with fixed and unknown shapes, and convolutions."""

    def __init__(self):
        super().__init__()
        self.model = Model(2)
        self.served = {
            **self.model.served,
            **{
                name: function(lambda x: {"y": tf.identity(x)}, x=([None], name))
                for name in TYPES
            },
            "open_image": function(
                lambda x: {"y": tf.nn.conv2d(x, self.model.kernel, 2, "SAME")},
                x=([None, None, None, 3], tf.float32),
            ),
            "any_rank": function(lambda x: {"y": -x}, x=(None, tf.float32)),
            "scalar": function(lambda x: {"y": x + 1}, x=([], tf.int32)),
        }


def valid_requests():
    """Build a valid request for each signature."""
    images = np.zeros((1, 8, 8, 3), np.float32)
    inputs = {
        "serving_default": {"x": ROWS},
        "pair": {"a": ROWS, "b": ROWS},
        "shifted": {"x": ROWS},
        "image": {"x": images},
        "open_image": {"x": images[:, :5, :3]},
        "any_rank": {"x": ROWS[None]},
        "scalar": {"x": np.array(3, np.int32)},
        "string": {"x": np.array([b"a", b"", b"\xff\0" * 9], object)},
        "complex64": {"x": np.array([1 + 2j, 3j], np.complex64)},
    }
    requests = [request_of(arrays, NAME, name) for name, arrays in inputs.items()]
    for name in sorted(set(TYPES) - set(inputs)):
        dtype = tf.as_dtype(name)
        array = np.array([1, 0, 1, 1]).astype(dtype.as_numpy_dtype)
        content = request_of({"x": array}, NAME, name)
        typed = request_of({"x": array[:1]}, NAME, name)
        requests += [content, typed]
    return requests


class Malformer:
    """Iterator over malformed requests, derived from valid ones by a seed.

    Args:
        requests: Valid protocol buffers of one type.
        seed: Seed of the random numbers.
        structured: Whether to change fields as well as bytes; for `PredictRequest`.
    """

    def __init__(self, requests, seed, structured=True):
        self._requests = requests
        self._request_class = type(requests[0])
        self._serialized = [request.SerializeToString() for request in requests]
        self._random = random.Random(seed)
        self._structured = structured

    def __iter__(self):
        return self

    def __next__(self):
        generator = self._random
        if self._structured and generator.random() < 0.75:
            data = self._with_changed_fields()
            if generator.random() < 0.9:
                return data
        else:
            data = generator.choice(self._serialized)
        for _ in range(generator.choice((1, 1, 2, 5))):
            data = generator.choice(_BYTE_CHANGES)(generator, data, self._serialized)
        return data

    def _with_changed_fields(self):
        generator = self._random
        request = self._request_class()
        request.CopyFrom(generator.choice(self._requests))
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            generator.choice(_FIELD_CHANGES)(generator, request)
        return request.SerializeToString()


def _varint(number):
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _span(generator, data):
    start, end = sorted(generator.randrange(len(data) + 1) for _ in range(2))
    return start, min(end, start + 64)


def _flip_bit(generator, data, _):
    changed = bytearray(data or b"\0")
    changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _truncate(generator, data, _):
    return data[: generator.randrange(len(data) + 1)]


def _delete(generator, data, _):
    start, end = _span(generator, data)
    return data[:start] + data[end:]


def _splice(generator, data, serialized):
    other = generator.choice(serialized)
    here, there = (
        generator.randrange(len(data) + 1),
        generator.randrange(len(other) + 1),
    )
    return data[:here] + other[there:]


def _repeat(generator, data, _):
    start, end = _span(generator, data)
    return data[:end] + data[start:end] * generator.choice((1, 2, 50)) + data[end:]


def _insert_varint(generator, data, _):
    at = generator.randrange(len(data) + 1)
    number = generator.choice((*EDGES, generator.getrandbits(64)))
    return data[:at] + _varint(number) + data[at + generator.randrange(2) :]


def _insert_random(generator, data, _):
    at = generator.randrange(len(data) + 1)
    return data[:at] + generator.randbytes(generator.randrange(1, 20)) + data[at:]


def _only_random(generator, *_):
    return generator.randbytes(generator.randrange(300))


def _nested(generator, data, _):
    """Nest groups or messages deeper than parsers allow."""
    depth = generator.choice((10, 90, 101, 2000))
    if generator.random() < 0.5:
        return data + b"\x7b" * depth + b"\x7c" * generator.choice((0, depth))
    inner = b""
    for _ in range(min(depth, 101)):
        inner = b"\x7a" + _varint(len(inner)) + inner
    return data + inner


_BYTE_CHANGES = [
    _flip_bit,
    _flip_bit,
    _truncate,
    _delete,
    _splice,
    _repeat,
    _insert_varint,
]
_BYTE_CHANGES += [_insert_random, _only_random, _nested]


def _tensor(generator, request):
    name = generator.choice(sorted(request.inputs) or ["x"])
    return request.inputs[name]


def _other_type(generator, request):
    known = types_pb2.DataType.values()  # quantized, variant, resource, references
    tensor = _tensor(generator, request)
    tensor.dtype = generator.choice((*known, 32, 99, 2**31 - 1, -1))
    tensor.version_number = generator.choice((-1, 0, 0, 2**31 - 1))


def _other_shape(generator, request):
    shape = _tensor(generator, request).tensor_shape
    if generator.random() < 0.2:
        shape.unknown_rank = True
    if generator.random() < 0.5 and shape.dim:
        generator.choice(shape.dim).size = generator.choice(SIZES)
        return
    del shape.dim[:]
    rank = generator.choice((0, 1, 1, 2, 3, 4, 4, 5, 8, 9, 254, 255, 300))
    for _ in range(rank):
        shape.dim.add(size=generator.choice(SIZES) if rank < 9 else 1, name="\0")


def _filled_shape(generator, request):
    """Declare a large shape that a single value fills."""
    shape = _tensor(generator, request).tensor_shape
    rare = generator.random() < 0.01
    size = generator.choice((2**18, 2**16) if rare else (2**22 + 1, 2**40, 4096))
    for dimension in shape.dim:
        dimension.size = 1
    if shape.dim:
        generator.choice(shape.dim).size = size


def _other_content(generator, request):
    content = _tensor(generator, request).tensor_content
    length = generator.choice((0, 1, 3, len(content) - 1, len(content) + 1, 4096))
    _tensor(generator, request).tensor_content = generator.randbytes(max(0, length))


def _other_values(generator, request):
    """Write typed fields of another type or number, or out of range."""
    tensor = _tensor(generator, request)
    if generator.random() < 0.5:
        tensor.ClearField("tensor_content")
    count = generator.choice((0, 1, 2, 3, 7, 500))
    signed = [generator.choice((-(2**31), -129, -1, 0, 70000, 2**31 - 1))] * count
    unsigned = [generator.choice((0, 1, 2**31, 2**32 - 1))] * count
    floats = [generator.choice((0.0, float("nan"), float("inf"), -3e38))] * count
    fields = {
        "half_val": signed,
        "int_val": signed,
        "bool_val": [bool(count % 2)] * count,
        "int64_val": [2**31 * value for value in signed],
        "uint32_val": unsigned,
        "uint64_val": [2**32 * value for value in unsigned],
        "float_val": floats,
        "double_val": floats,
        "scomplex_val": floats,
        "dcomplex_val": floats,
        "string_val": [generator.randbytes(generator.randrange(9))] * count,
    }
    name = generator.choice(sorted(fields))
    values = getattr(tensor, name)
    if generator.random() < 0.5:
        del values[:]
    values.extend(fields[name])


def _handles(generator, request):
    tensor = _tensor(generator, request)
    if generator.random() < 0.5:
        tensor.resource_handle_val.add(device="/cpu:0", name="\0", hash_code=2**64 - 1)
        tensor.dtype = types_pb2.DT_RESOURCE
        return
    tensor.dtype = types_pb2.DT_VARIANT
    for _ in range(generator.choice((1, 5, 40))):
        inner = tensor.variant_val.add(type_name="tensorflow::Tensor", metadata=b"\xff")
        tensor = inner.tensors.add(dtype=types_pb2.DT_VARIANT)


def _other_model(generator, request):
    spec = request.model_spec
    change = generator.randrange(5)
    if change == 0:
        spec.name = generator.choice(ODD_NAMES)
    elif change == 1:
        spec.version.value = generator.choice((-1, 0, 1, 2, 2**63 - 1, -(2**63)))
    elif change == 2:
        spec.version_label = generator.choice(ODD_NAMES)
    elif change == 3:
        spec.signature_name = generator.choice(
            (*ODD_NAMES, *TYPES, "__saved_model_init")
        )
    else:
        request.ClearField("model_spec")


def _other_names(generator, request):
    name = generator.choice(ODD_NAMES)
    if generator.random() < 0.5:
        request.output_filter.extend([name] * generator.choice((1, 2, 100)))
    elif generator.random() < 0.5 and request.inputs:
        del request.inputs[generator.choice(sorted(request.inputs))]
    else:
        request.inputs[name].dtype = types_pb2.DT_FLOAT


_FIELD_CHANGES = [_other_type, _other_shape, _other_shape, _filled_shape]
_FIELD_CHANGES += [_other_content, _other_values, _other_values, _handles]
_FIELD_CHANGES += [_other_model, _other_names]


def twice_the_same_key():
    """Build a request with the same input twice; the last one is used."""
    first = request_of({"x": np.array([b"no"], object)}, NAME)
    second = predict_pb2.PredictRequest()
    second.inputs["x"].CopyFrom(request_of(name=NAME).inputs["x"])
    return first.SerializeToString() + second.SerializeToString()


def overlong_length(request, field=2):
    """Append a field that declares more bytes than follow."""
    serialized = request.SerializeToString()
    return (
        serialized + struct.pack("B", field << 3 | 2) + _varint(2**31 - 1) + b"\0" * 64
    )
