"""Health, reflection and message sizes."""

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_models import request_of, rpc_error

from conformance.endpoint import NOT_FOUND, embedded_only


def test_messages_above_four_mebibytes_pass_in_both_directions(predictions):
    rows = np.ones((300_000, 4), np.float32)
    response = predictions.Predict(request_of({"x": rows}), timeout=60)
    assert response.ByteSize() > 4 * 2**20
    assert sum(response.outputs["total"].float_val) == 1_200_000


def check(endpoint, service):
    stub = health_pb2_grpc.HealthStub(endpoint.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        return stub.Check(request, timeout=30).status
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            pytest.skip("started without --enable_grpc_healthcheck_service")
        return error.code()


@pytest.mark.parametrize("service", ["", "PredictionService", "ModelService"])
def test_health_is_serving(endpoint, service):
    assert check(endpoint, service) == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service_is_not_found(endpoint):
    assert check(endpoint, "other") == NOT_FOUND


@embedded_only("TensorFlow Serving reports health under the short names only")
@pytest.mark.parametrize("service", ["PredictionService", "ModelService"])
def test_health_is_available_under_the_full_names_too(endpoint, service):
    full = f"tensorflow.serving.{service}"
    assert check(endpoint, full) == health_pb2.HealthCheckResponse.SERVING


@embedded_only("TensorFlow Serving has no reflection")
def test_reflection_lists_services_and_their_files(endpoint):
    stub = reflection_pb2_grpc.ServerReflectionStub(endpoint.channel)

    def ask(**fields):
        request = reflection_pb2.ServerReflectionRequest(**fields)
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=30)
        return answer

    services = ask(list_services="").list_services_response.service
    assert {service.name for service in services} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }
    for service in services:
        answer = ask(file_containing_symbol=service.name)
        assert answer.file_descriptor_response.file_descriptor_proto


def test_an_unknown_method_is_unimplemented(endpoint):
    call = endpoint.channel.unary_unary("/tensorflow.serving.PredictionService/Dream")
    code, _ = rpc_error(call, b"")
    assert code == grpc.StatusCode.UNIMPLEMENTED
