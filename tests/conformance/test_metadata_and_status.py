"""GetModelMetadata and GetModelStatus."""

import pytest
from serving_models import rpc_error, status_request
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from conformance.endpoint import INVALID, NOT_FOUND, STATES


def metadata_request(name="multiply", fields=("signature_def",)):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    return request


def test_metadata_contains_the_exported_signatures(predictions):
    response = predictions.GetModelMetadata(metadata_request(), timeout=30)
    assert response.model_spec.name == "multiply"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == ""
    assert set(response.metadata) == {"signature_def"}
    packed = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(packed)
    default = packed.signature_def["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert default.inputs["x"].name == "serving_default_x:0"
    assert [axis.size for axis in default.inputs["x"].tensor_shape.dim] == [-1, 4]
    assert set(packed.signature_def) >= {"serving_default", "pair", "image"}


def test_metadata_can_be_requested_by_version_or_label(predictions):
    request = metadata_request("all")
    request.model_spec.version.value = 124
    response = predictions.GetModelMetadata(request, timeout=30)
    assert response.model_spec.version.value == 124
    request.model_spec.version_label = "stable"
    response = predictions.GetModelMetadata(request, timeout=30)
    assert response.model_spec.version.value == 123


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["signature_def", "all"], "Metadata field all is not supported"),
        (["Signature_Def"], "Metadata field Signature_Def is not supported"),
    ],
)
def test_other_metadata_is_rejected(predictions, fields, details):
    request = metadata_request(fields=fields)
    assert rpc_error(predictions.GetModelMetadata, request) == (INVALID, details)


def test_metadata_of_an_unknown_model_is_not_found(predictions):
    assert rpc_error(predictions.GetModelMetadata, metadata_request("other")) == (
        NOT_FOUND,
        "Servable not found for request: Latest(other)",
    )


@pytest.mark.parametrize("choice", [{}, {"version": 2}, {"label": "ignored"}])
def test_status_contains_the_state_of_each_version(endpoint, choice):
    response = endpoint.models.GetModelStatus(status_request(**choice), timeout=30)
    (version,) = response.model_version_status
    assert version.version == 2
    assert version.state == STATES.AVAILABLE
    assert version.HasField("status")
    assert (version.status.error_code, version.status.error_message) == (0, "")


def test_status_lists_the_newest_version_first(endpoint):
    response = endpoint.models.GetModelStatus(status_request("all"), timeout=30)
    versions = [status.version for status in response.model_version_status]
    assert versions == [125, 124, 123]


@pytest.mark.parametrize(
    ("choice", "details"),
    [
        ({"name": "other"}, "Could not find any versions of model other"),
        ({"name": ""}, "Could not find any versions of model "),
        ({"version": 7}, "Could not find version 7 of model multiply"),
        # It is on disk, but the policy does not select it.
        ({"version": 1}, "Could not find version 1 of model multiply"),
    ],
)
def test_status_of_an_unknown_model_or_version_is_not_found(endpoint, choice, details):
    answer = rpc_error(endpoint.models.GetModelStatus, status_request(**choice))
    assert answer == (NOT_FOUND, details)


def test_status_without_a_model_is_rejected(endpoint):
    request = get_model_status_pb2.GetModelStatusRequest()
    answer = rpc_error(endpoint.models.GetModelStatus, request)
    assert answer == (INVALID, "Missing ModelSpec")
