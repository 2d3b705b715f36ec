"""Tiny SavedModels for the tests of serving, and requests to them."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    predict_pb2,
    prediction_log_pb2,
)

ECHOED = (
    *(tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.bool, tf.string),
    *(tf.int8, tf.int16, tf.int32, tf.int64),
    *(tf.uint8, tf.uint16, tf.uint32, tf.uint64, tf.complex64, tf.complex128),
)

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
THREE = tf.constant(3.0)


def function(python_function, **inputs):
    """Build a `tf.function`; each input is a name with (shape, type)."""
    specs = [tf.TensorSpec(*spec, name) for name, spec in inputs.items()]
    return tf.function(python_function, input_signature=specs, autograph=False)


class Model(tf.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = tf.Variable(factor, dtype=tf.float32)
        self.kernel = tf.ones((3, 3, 3, 2))
        rows = ([None, 4], tf.float32)
        self.served = {
            "serving_default": function(
                lambda x: {"y": self.factor * x, "total": tf.reduce_sum(x, 1)}, x=rows
            ),
            "pair": function(lambda a, b: {"sum": a + b}, a=rows, b=rows),
            "shifted": function(
                lambda x, shift=THREE: {"y": x + shift},
                x=rows,
                shift=([], tf.float32),
            ),
            "image": function(
                lambda x: {"y": tf.nn.conv2d(x, self.kernel, 1, "VALID")},
                x=([None, 8, 8, 3], tf.float32),
            ),
            "checked": function(
                lambda x: {
                    "y": tf.debugging.check_numerics(x, "Read /srv/secret/model.py")
                },
                x=rows,
            ),
        }


class Echo(tf.Module):
    def __init__(self):
        super().__init__()
        self.served = {
            dtype.name: function(
                lambda x: {"y": tf.identity(x), "first": x[0]}, x=([None], dtype)
            )
            for dtype in ECHOED
        }


def write(model, directory, version, warm_up=()):
    """Save a model next to its version directory, then rename it, as exporters do."""
    temporary = directory / f"unfinished-{version}"
    tf.saved_model.save(model, str(temporary), signatures=dict(model.served))
    if warm_up:
        extra = temporary / "assets.extra"
        extra.mkdir()
        with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
            for log in warm_up:
                file.write(log.SerializeToString())
    return temporary.rename(directory / str(version))


def predict_log(**inputs):
    """Build a warm-up record from arrays."""
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(
        predict_pb2.PredictRequest(
            inputs={name: tf.make_tensor_proto(array) for name, array in inputs.items()}
        )
    )
    return log


def request_of(inputs=None, name="multiply", signature="", output_filter=()):
    """Build a request from arrays or tensor protos."""
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for alias, value in ({"x": ROWS} if inputs is None else inputs).items():
        if isinstance(value, np.ndarray):
            value = tf.make_tensor_proto(value)
        request.inputs[alias].CopyFrom(value)
    return request


def proto_of(dtype, shape, **fields):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def rpc_error(call, request, **options):
    """Return the code and details of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=30, **options)
    return raised.value.code(), raised.value.details()


def status_request(name="multiply", version=None, label=None):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    return request
