"""The gRPC contract row by row, over a real port with the real stubs."""

import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import (
    ECHOED,
    ROWS,
    UNLIMITED,
    Echo,
    Model,
    proto_of,
    refusal,
    request_of,
    status_request,
    write,
)
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import PredictionServer
from serving.signatures import Signature

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    write(Model(2), directory, 2)
    write(Model(3), directory, 3)
    write(Echo(), directory, 4)
    return directory


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "multiply"
    shutil.copytree(saved / "2", directory / "2")
    with PredictionServer(directory, port=0) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def test_predict_fills_in_name_version_and_default_signature(predictions):
    response = predictions.Predict(request_of())
    assert response.model_spec.name == "multiply"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == "serving_default"
    assert set(response.outputs) == {"y", "total"}


def test_predict_answers_in_typed_fields(predictions):
    outputs = predictions.Predict(request_of()).outputs
    assert outputs["y"].tensor_content == b""
    assert outputs["y"].dtype == tf.float32.as_datatype_enum
    assert [one.size for one in outputs["y"].tensor_shape.dim] == [2, 4]
    np.testing.assert_array_equal(outputs["y"].float_val, 2 * ROWS.ravel())
    np.testing.assert_array_equal(outputs["total"].float_val, ROWS.sum(1))


def test_predict_runs_a_named_signature_of_a_numbered_version(predictions):
    request = request_of({"a": ROWS, "b": ROWS}, signature="pair")
    request.model_spec.version.value = 2
    response = predictions.Predict(request)
    assert response.model_spec.signature_name == "pair"
    np.testing.assert_array_equal(response.outputs["sum"].float_val, 2 * ROWS.ravel())


def test_predict_answers_the_filtered_outputs_alone(predictions):
    response = predictions.Predict(request_of(output_filter=["total"]))
    assert set(response.outputs) == {"total"}


def test_typed_fields_are_read_as_tensor_content_is(predictions):
    proto = proto_of(tf.float32, (2, 4), float_val=ROWS.ravel().tolist())
    response = predictions.Predict(request_of({"x": proto}))
    np.testing.assert_array_equal(response.outputs["y"].float_val, 2 * ROWS.ravel())


def test_one_value_fills_its_shape(predictions):
    proto = proto_of(tf.float32, (2, 4), float_val=[1.5])
    response = predictions.Predict(request_of({"x": proto}))
    assert list(response.outputs["y"].float_val) == [3.0] * 8


def test_every_element_type_goes_there_and_back(saved, tmp_path):
    shutil.copytree(saved / "4", tmp_path / "echo" / "4")
    with (
        PredictionServer(tmp_path / "echo", port=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for dtype in ECHOED:
            array = np.array([1, 0, 1], dtype.as_numpy_dtype)
            if dtype is tf.string:
                array = np.array([b"one\x00", b"", b"\xff"], object)
            elif dtype.is_complex:
                array = np.array([1 + 2j, 0, -3j], dtype.as_numpy_dtype)
            elif dtype.is_floating or dtype.is_integer:
                array = np.array([dtype.max, dtype.min, 1], dtype.as_numpy_dtype)
            request = request_of({"x": array}, "echo", dtype.name)
            outputs = stub.Predict(request, timeout=30).outputs
            assert not outputs["y"].tensor_content, dtype
            # TensorFlow's own reader is the oracle.
            back = tf.make_ndarray(outputs["y"])
            assert back.dtype == array.dtype, dtype
            assert back.tolist() == array.tolist(), dtype
            assert tf.make_ndarray(outputs["first"]).shape == ()


@pytest.mark.parametrize("method", ["Predict", "GetModelMetadata"])
def test_a_request_without_model_or_name_is_refused(predictions, method):
    kind = {
        "Predict": predict_pb2.PredictRequest,
        "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    }[method]
    request = kind()
    if method == "GetModelMetadata":
        request.metadata_field.append("signature_def")
    call = getattr(predictions, method)
    assert refusal(call, request) == (INVALID, "Missing ModelSpec")
    request.model_spec.signature_name = "serving_default"
    assert refusal(call, request) == (INVALID, "ModelSpec has no name specified.")


def test_an_unknown_model_version_or_label_is_refused(predictions):
    request = request_of(name="other")
    expected = "Servable not found for request: Latest(other)"
    assert refusal(predictions.Predict, request) == (NOT_FOUND, expected)
    request = request_of()
    request.model_spec.version.value = 7
    expected = "Servable not found for request: Specific(multiply, 7)"
    assert refusal(predictions.Predict, request) == (NOT_FOUND, expected)
    request.model_spec.version_label = "best"
    expected = "Unrecognized servable version label: best"
    assert refusal(predictions.Predict, request) == (INVALID, expected)


def test_an_unknown_signature_is_a_failed_precondition(predictions):
    assert refusal(predictions.Predict, request_of(signature="nope")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    )


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
        (
            {"x": ROWS[0]},
            'Expected input "x" of shape (None, 4). Received: shape (4,); a single '
            "example needs a leading batch axis of 1.",
        ),
        (
            {"x": ROWS[:0]},
            'Expected input "x" of shape (None, 4) with at least one example. '
            "Received: shape (0, 4), an empty batch; send no request for no examples.",
        ),
    ],
)
def test_inputs_unlike_the_signature_are_refused(predictions, inputs, details):
    assert refusal(predictions.Predict, request_of(inputs)) == (INVALID, details)


@pytest.mark.parametrize(
    "proto",
    [
        proto_of(tf.float32, (2, 4), tensor_content=b"\0" * 31),
        proto_of(tf.float32, (2, 4), tensor_content=b"\0" * 33),
        proto_of(tf.float32, (-1, 4), float_val=[1.0]),
        proto_of(tf.float32, [1] * 300, float_val=[1.0]),
        proto_of(tf.float32, (2**40, 4), float_val=[1.0]),
        proto_of(tf.float32, (2**62, 4), float_val=[1.0]),
        proto_of(tf.float32, (2**20 + 1, 4), float_val=[1.0]),
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=99),
    ],
)
def test_a_malformed_tensor_is_refused_by_its_name(predictions, proto):
    answer = refusal(predictions.Predict, request_of({"x": proto}))
    assert answer == (INVALID, "tensor parsing error: x")


@pytest.mark.parametrize(
    ("proto", "details"),
    [
        (proto_of(tf.resource, (2, 4)), "to be float but resource is provided"),
        (proto_of(tf.variant, (2, 4)), "to be float but variant is provided"),
        (proto_of(tf.string, (2, 4)), "to be float but string is provided"),
        (proto_of(tf.float32, (2**20, 2**20), float_val=[1.0]), "Received: shape (10"),
        (proto_of(tf.float32, (2**62, 2**62), float_val=[1.0]), "Received: shape (46"),
    ],
)
def test_a_tensor_unlike_the_signature_is_refused_unread(predictions, proto, details):
    code, told = refusal(predictions.Predict, request_of({"x": proto}))
    assert (code, details in told) == (INVALID, True)


def test_a_rank_that_aborts_the_kernel_leaves_the_server_alive(predictions):
    image = np.ones((8, 8, 3), np.float32)
    request = request_of({"x": image}, signature="image")
    code, details = refusal(predictions.Predict, request)
    assert (code, "Received: shape (8, 8, 3)" in details) == (INVALID, True)
    request = request_of({"x": image[None]}, signature="image")
    outputs = predictions.Predict(request).outputs
    assert set(outputs["y"].float_val) == {27.0}


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
def test_a_wrong_output_filter_is_refused(predictions, output_filter, details):
    request = request_of(output_filter=output_filter)
    assert refusal(predictions.Predict, request) == (INVALID, details)


def test_an_error_of_the_model_keeps_its_code_but_no_path(predictions):
    infinite = {"x": np.full_like(ROWS, np.inf)}
    request = request_of(infinite, signature="checked")
    code, details = refusal(predictions.Predict, request)
    assert code == INVALID
    assert "Tensor had Inf" in details
    assert "Read <path>" in details
    assert "secret" not in details


def test_an_unforeseen_error_tells_the_client_nothing(predictions, monkeypatch, caplog):
    def run(*_):
        raise OSError("/srv/secret")

    monkeypatch.setattr(Signature, "run", run)
    assert refusal(predictions.Predict, request_of()) == (
        grpc.StatusCode.INTERNAL,
        "Internal error; the server's log tells its cause.",
    )
    assert "/srv/secret" in caplog.text


def test_long_details_are_cut_at_1024(predictions):
    code, details = refusal(predictions.Predict, request_of(signature="s" * 2000))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert details.endswith("sss...TRUNCATED")
    assert len(details) == 1024 + len("...TRUNCATED")
    code, details = refusal(predictions.Predict, request_of(signature="\u20ac" * 2000))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert details.endswith("\u20ac...TRUNCATED")


def test_metadata_packs_the_signatures_as_exported(predictions):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        metadata_field=["signature_def"]
    )
    request.model_spec.name = "multiply"
    response = predictions.GetModelMetadata(request)
    assert response.model_spec.name == "multiply"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == ""
    packed = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(packed)
    default = packed.signature_def["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert default.inputs["x"].name == "serving_default_x:0"
    assert [one.size for one in default.inputs["x"].tensor_shape.dim] == [-1, 4]


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["signature_def", "all"], "Metadata field all is not supported"),
    ],
)
def test_any_other_metadata_is_refused(predictions, fields, details):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "multiply"
    assert refusal(predictions.GetModelMetadata, request) == (INVALID, details)


@pytest.mark.parametrize("choice", [{}, {"version": 2}, {"label": "ignored"}])
def test_status_tells_the_state_of_versions(models, choice):
    response = models.GetModelStatus(status_request(**choice))
    (version,) = response.model_version_status
    assert version.version == 2
    assert version.state == get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
    assert version.status.error_code == 0


@pytest.mark.parametrize(
    ("choice", "details"),
    [
        ({"name": "other"}, "Could not find any versions of model other"),
        ({"version": 7}, "Could not find version 7 of model multiply"),
    ],
)
def test_status_of_what_never_was_is_not_found(models, choice, details):
    answer = refusal(models.GetModelStatus, status_request(**choice))
    assert answer == (NOT_FOUND, details)


def test_status_without_a_model_is_refused(models):
    request = get_model_status_pb2.GetModelStatusRequest()
    assert refusal(models.GetModelStatus, request) == (INVALID, "Missing ModelSpec")


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("Classify", classification_pb2.ClassificationRequest),
        ("Regress", regression_pb2.RegressionRequest),
        ("MultiInference", inference_pb2.MultiInferenceRequest),
        ("HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest),
    ],
)
def test_what_is_not_built_says_so(predictions, models, method, kind):
    stub = models if method.startswith("Handle") else predictions
    code, details = refusal(getattr(stub, method), kind())
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert details.startswith(f"{method} is not served here; Predict,")
