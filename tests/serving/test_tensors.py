"""Conversion between arrays and tensor protos in their two encodings."""

import numpy as np
import pytest
import tensorflow as tf

from bn_keras_serving.common import tensors

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("shape", [(2, 3), (1,), (), (0, 3)])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.complex64, tf.int64])
def test_an_array_is_restored_from_either_encoding(dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    array = values.astype(dtype.as_numpy_dtype)
    content, fields = tensors.to_content(array), tensors.to_typed_fields(array)
    assert content.tensor_content == array.tobytes()
    assert not fields.tensor_content
    for proto in (content, fields):
        # TensorFlow's own function is the oracle for the protos.
        for restored in (tensors.from_typed_fields(proto), tf.make_ndarray(proto)):
            assert (restored.dtype, restored.shape) == (array.dtype, shape)
            assert restored.tolist() == array.tolist()


def test_the_last_value_of_an_abbreviated_proto_is_repeated():
    proto = tf.make_tensor_proto(0.5, tf.float32, shape=[2, 2])
    assert tensors.from_typed_fields(proto).tolist() == [[0.5, 0.5], [0.5, 0.5]]
