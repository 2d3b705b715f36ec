"""Predict: requests and their answers."""

import numpy as np
import pytest
import tensorflow as tf
from serving_models import ECHOED, ROWS, proto_of, request_of, rpc_error
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from conformance.endpoint import (
    FAILED_PRECONDITION,
    INVALID,
    NOT_FOUND,
    embedded_only,
)


def test_the_response_names_model_version_and_default_signature(predictions):
    response = predictions.Predict(request_of(), timeout=30)
    assert response.model_spec.name == "multiply"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == "serving_default"
    assert set(response.outputs) == {"y", "total"}


def test_tensors_are_returned_in_typed_fields(predictions):
    outputs = predictions.Predict(request_of(), timeout=30).outputs
    assert outputs["y"].tensor_content == b""
    assert outputs["y"].dtype == tf.float32.as_datatype_enum
    assert [axis.size for axis in outputs["y"].tensor_shape.dim] == [2, 4]
    np.testing.assert_array_equal(outputs["y"].float_val, 2 * ROWS.ravel())
    np.testing.assert_array_equal(outputs["total"].float_val, ROWS.sum(1))


def test_a_signature_and_a_version_can_be_chosen(predictions):
    request = request_of({"a": ROWS, "b": ROWS}, signature="pair")
    request.model_spec.version.value = 2
    response = predictions.Predict(request, timeout=30)
    assert response.model_spec.signature_name == "pair"
    np.testing.assert_array_equal(response.outputs["sum"].float_val, 2 * ROWS.ravel())


def test_an_input_with_a_default_may_be_omitted(predictions):
    response = predictions.Predict(request_of(signature="shifted"), timeout=30)
    np.testing.assert_array_equal(response.outputs["y"].float_val, ROWS.ravel() + 3)


def test_an_output_filter_selects_outputs(predictions):
    response = predictions.Predict(request_of(output_filter=["total"]), timeout=30)
    assert set(response.outputs) == {"total"}


def test_inputs_may_be_in_typed_fields(predictions):
    proto = proto_of(tf.float32, (2, 4), float_val=ROWS.ravel().tolist())
    response = predictions.Predict(request_of({"x": proto}), timeout=30)
    np.testing.assert_array_equal(response.outputs["y"].float_val, 2 * ROWS.ravel())


def test_a_single_value_fills_its_shape(predictions):
    proto = proto_of(tf.float32, (2, 4), float_val=[1.5])
    response = predictions.Predict(request_of({"x": proto}), timeout=30)
    values = tf.make_ndarray(response.outputs["y"])
    np.testing.assert_array_equal(values, np.full((2, 4), 3.0))


@pytest.mark.parametrize("dtype", ECHOED, ids=lambda dtype: dtype.name)
def test_every_element_type_is_returned_unchanged(predictions, dtype):
    array = np.array([1, 0, 1], dtype.as_numpy_dtype)
    if dtype is tf.string:
        array = np.array([b"one\x00", b"", b"\xff"], object)
    elif dtype.is_complex:
        array = np.array([1 + 2j, 0, -3j], dtype.as_numpy_dtype)
    elif dtype.is_floating or dtype.is_integer:
        array = np.array([dtype.max, dtype.min, 1], dtype.as_numpy_dtype)
    request = request_of({"x": array}, "echo", dtype.name)
    outputs = predictions.Predict(request, timeout=30).outputs
    assert not outputs["y"].tensor_content
    # TensorFlow's own function is the oracle.
    returned = tf.make_ndarray(outputs["y"])
    assert returned.dtype == array.dtype
    assert returned.tolist() == array.tolist()
    assert tf.make_ndarray(outputs["first"]).shape == ()


@pytest.mark.parametrize("method", ["Predict", "GetModelMetadata"])
def test_a_request_without_a_model_or_its_name_is_rejected(predictions, method):
    request_class = {
        "Predict": predict_pb2.PredictRequest,
        "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    }[method]
    request = request_class()
    if method == "GetModelMetadata":
        request.metadata_field.append("signature_def")
    call = getattr(predictions, method)
    assert rpc_error(call, request) == (INVALID, "Missing ModelSpec")
    request.model_spec.signature_name = "serving_default"
    assert rpc_error(call, request) == (INVALID, "ModelSpec has no name specified.")


def test_an_unknown_model_version_or_label_is_rejected(predictions):
    request = request_of(name="other")
    expected = "Servable not found for request: Latest(other)"
    assert rpc_error(predictions.Predict, request) == (NOT_FOUND, expected)
    request = request_of()
    request.model_spec.version.value = 7
    expected = "Servable not found for request: Specific(multiply, 7)"
    assert rpc_error(predictions.Predict, request) == (NOT_FOUND, expected)
    request.model_spec.version_label = "best"
    expected = "Unrecognized servable version label: best"
    assert rpc_error(predictions.Predict, request) == (INVALID, expected)


def test_an_unknown_signature_is_a_failed_precondition(predictions):
    assert rpc_error(predictions.Predict, request_of(signature="nope")) == (
        FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    )


@pytest.mark.parametrize(
    ("output_filter", "details"),
    [
        (
            ["nope"],
            "output tensor alias not found in signature: nope Outputs expected to be "
            "in the set {total,y}.",
        ),
        (["y", "y"], "duplicate output tensor alias: y"),
    ],
)
def test_an_invalid_output_filter_is_rejected(predictions, output_filter, details):
    request = request_of(output_filter=output_filter)
    assert rpc_error(predictions.Predict, request) == (INVALID, details)


def test_an_error_of_an_operation_keeps_its_code(predictions):
    infinite = {"x": np.full_like(ROWS, np.inf)}
    request = request_of(infinite, signature="checked")
    code, details = rpc_error(predictions.Predict, request)
    assert (code, "Tensor had Inf" in details) == (INVALID, True)


@embedded_only("TensorFlow Serving does not redact paths")
def test_an_error_of_an_operation_reveals_no_paths(predictions):
    infinite = {"x": np.full_like(ROWS, np.inf)}
    request = request_of(infinite, signature="checked")
    _, details = rpc_error(predictions.Predict, request)
    assert "Read <path>" in details
    assert "secret" not in details
    assert "/" not in details.replace("<path>", "").replace("n/a", "")


def test_long_details_are_truncated_at_1024(predictions):
    code, details = rpc_error(predictions.Predict, request_of(signature="s" * 2000))
    assert code == FAILED_PRECONDITION
    assert details.endswith("sss...TRUNCATED")
    assert len(details) == 1024 + len("...TRUNCATED")


@embedded_only("TensorFlow Serving may truncate inside a character")
def test_long_details_are_truncated_between_characters(predictions):
    code, details = rpc_error(
        predictions.Predict, request_of(signature="\u20ac" * 2000)
    )
    assert code == FAILED_PRECONDITION
    assert details.endswith("\u20ac...TRUNCATED")
