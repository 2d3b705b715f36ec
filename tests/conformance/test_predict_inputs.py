"""Predict: inputs that do not match the signature."""

import numpy as np
import pytest
import tensorflow as tf
from serving_models import ROWS, proto_of, request_of, rpc_error
from tensorflow.core.framework import tensor_pb2

from conformance.endpoint import INVALID, embedded_only


@pytest.mark.parametrize(
    ("inputs", "details"),
    [
        (
            {},
            "input size does not match signature: 0!=1 len({}) != len({x}). "
            "Sent extra: {}. Missing but required: {x}.",
        ),
        (
            {"x": ROWS, "z": ROWS},
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). "
            "Sent extra: {z}. Missing but required: {}.",
        ),
        (
            {"z": ROWS},
            "Signature input alias: x(feed name: serving_default_x:0) not found in "
            "request and no default value provided. Inputs expected to be in the "
            "request {z}, or default input alias set: ",
        ),
        (
            {"x": ROWS.astype(np.float64)},
            "Expects arg[0] to be float but double is provided",
        ),
    ],
    ids=["missing", "extra", "another name", "another type"],
)
def test_inputs_that_do_not_match_the_signature_are_rejected(
    predictions, inputs, details
):
    code, message = rpc_error(predictions.Predict, request_of(inputs))
    assert (code, details in message) == (INVALID, True), message


@pytest.mark.parametrize(
    "proto",
    [
        proto_of(tf.float32, (2, 4), tensor_content=b"\0" * 31),
        proto_of(tf.float32, (2, 4), tensor_content=b"\0" * 33),
        proto_of(tf.float32, (-1, 4), float_val=[1.0]),
        proto_of(tf.float32, [1] * 300, float_val=[1.0]),
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=99),
    ],
    ids=["short", "long", "negative", "300 axes", "no type", "unknown type"],
)
def test_a_malformed_tensor_is_rejected_by_name(predictions, proto):
    answer = rpc_error(predictions.Predict, request_of({"x": proto}))
    assert answer == (INVALID, "tensor parsing error: x")


@embedded_only("TensorFlow Serving allocates the declared size of a tensor")
@pytest.mark.parametrize(
    "shape",
    [(2**40, 4), (2**62, 4), (2**20 + 1, 4), (2**20, 2**20), (2**62, 2**62)],
    ids=["40", "62", "20", "20 twice", "62 twice"],
)
def test_a_tensor_larger_than_its_message_is_rejected(predictions, shape):
    proto = proto_of(tf.float32, shape, float_val=[1.0])
    answer = rpc_error(predictions.Predict, request_of({"x": proto}))
    assert answer == (INVALID, "tensor parsing error: x")


@embedded_only("TensorFlow Serving parses a tensor before it checks the type")
@pytest.mark.parametrize(
    ("proto", "details"),
    [
        (proto_of(tf.resource, (2, 4)), "to be float but resource is provided"),
        (proto_of(tf.variant, (2, 4)), "to be float but variant is provided"),
        (proto_of(tf.string, (2, 4)), "to be float but string is provided"),
    ],
)
def test_a_tensor_of_another_type_is_rejected_before_parsing(
    predictions, proto, details
):
    code, message = rpc_error(predictions.Predict, request_of({"x": proto}))
    assert (code, details in message) == (INVALID, True)


@pytest.mark.parametrize("rows", [ROWS[0], ROWS[:0], ROWS[0, 0], ROWS[None]])
def test_shapes_are_left_to_the_graph(predictions, rows):
    request = request_of({"a": np.asarray(rows), "b": ROWS[:1]}, signature="pair")
    answer = predictions.Predict(request, timeout=30).outputs["sum"]
    np.testing.assert_array_equal(tf.make_ndarray(answer), rows + ROWS[:1])


def test_a_shape_that_the_graph_does_not_accept_is_rejected(predictions):
    code, details = rpc_error(predictions.Predict, request_of({"x": ROWS[0]}))
    assert (code, "Invalid reduction dimension" in details) == (INVALID, True), details


@embedded_only("this aborts the process of TensorFlow Serving (tensorflow#111453)")
def test_a_rank_that_would_abort_the_process_is_rejected(predictions):
    image = np.ones((8, 8, 3), np.float32)
    for inputs in (image, np.float32(1)):
        request = request_of({"x": np.asarray(inputs)}, signature="image")
        code, details = rpc_error(predictions.Predict, request)
        assert (code, "Received: shape (" in details) == (INVALID, True)
    assert (
        "Add a leading batch axis"
        in rpc_error(predictions.Predict, request_of({"x": image}, signature="image"))[
            1
        ]
    )
    request = request_of({"x": image[None]}, signature="image")
    outputs = predictions.Predict(request, timeout=30).outputs
    assert set(outputs["y"].float_val) == {27.0}


@embedded_only("TensorFlow Serving passes an empty batch to the operations")
def test_an_empty_batch_is_rejected_where_shapes_are_checked(predictions):
    images = np.ones((0, 8, 8, 3), np.float32)
    answer = rpc_error(
        predictions.Predict, request_of({"x": images}, signature="image")
    )
    assert answer == (
        INVALID,
        'Input "x" of shape (None, 8, 8, 3) must contain at least one example. '
        "Received: shape (0, 8, 8, 3), an empty batch. Do not send a request without "
        "examples.",
    )
