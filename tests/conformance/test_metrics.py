"""Metrics under TensorFlow Serving's names."""

import grpc
import numpy as np
import pytest
from serving_examples import example_of, input_of
from serving_models import request_of
from tensorflow_serving.apis import classification_pb2, regression_pb2

from conformance.endpoint import known_defect

PREFIX = ":tensorflow:serving"


def send_requests(predictions):
    """Send one request to each method that is counted, and one that is rejected."""
    predictions.Predict(request_of(), timeout=30)
    with pytest.raises(grpc.RpcError):
        predictions.Predict(request_of(signature="nope"), timeout=30)
    for call, kind, signature in (
        (predictions.Classify, classification_pb2.ClassificationRequest, "scores"),
        (predictions.Regress, regression_pb2.RegressionRequest, "sum"),
    ):
        request = kind(input=input_of(example_of(1, 2)))
        request.model_spec.name = "judge"
        request.model_spec.signature_name = signature
        call(request, timeout=30)


def test_requests_and_their_latencies_are_recorded(rest):
    send_requests(rest.predictions)
    before = rest.metrics()
    send_requests(rest.predictions)
    rest.post("/v1/models/multiply:predict", {"instances": [[1, 2, 3, 4]]})
    after = rest.metrics()

    def added(sample):
        return after[sample] - before.get(sample, 0)

    def labels(name, **values):
        pairs = ",".join(f'{key}="{value}"' for key, value in values.items())
        return f"{PREFIX}:{name}{{{pairs}}}"

    count = "request_count"
    assert added(labels(count, model_name="multiply", status="OK")) == 2
    rejected = labels(count, model_name="multiply", status="FAILED_PRECONDITION")
    assert added(rejected) == 1
    assert added(labels(count, model_name="judge", status="OK")) == 2

    for api, entrypoint, name in (
        ("Predict", "GRPC", "multiply"),
        ("predict", "REST", "multiply"),
        ("Classify", "GRPC", "judge"),
        ("Regress", "GRPC", "judge"),
    ):
        of = {"model_name": name, "API": api, "entrypoint": entrypoint}
        assert added(labels("request_latency_count", **of)) == 1
        assert added(labels("request_latency_bucket", **of, le="+Inf")) == 1
        # In microseconds: longer than 1 and below the time-out.
        assert 1 < added(labels("request_latency_sum", **of)) < 30e6
    for api, name in (("Predict", "multiply"), ("Classify", "judge")):
        of = {"model_name": name, "API": api, "runtime": "TF1"}
        assert added(labels("runtime_latency_count", **of)) >= 1
        assert added(labels("runtime_latency_sum", **of)) > 1


def test_buckets_grow_by_a_factor_of_1_8_from_10_microseconds(rest):
    rest.predictions.Predict(request_of(), timeout=30)
    start = f'{PREFIX}:request_latency_bucket{{model_name="multiply",API="Predict"'
    bounds = [
        sample.split('le="')[1].rstrip('"}')
        for sample in rest.metrics()
        if sample.startswith(start)
    ]
    assert bounds[-1] == "+Inf"
    expected = 10 * 1.8 ** np.arange(len(bounds) - 1)
    np.testing.assert_allclose([float(bound) for bound in bounds[:-1]], expected, 1e-5)


@known_defect("TensorFlow's batching kernel does not report waiting times")
def test_the_time_in_a_batching_queue_is_recorded(batching):
    if batching.rest is None:
        pytest.skip("TFS_BATCHING_REST_ENDPOINT is not set")
    batching.predictions.Predict(request_of({"x": np.ones(1, np.float32)}, "all"))
    names = [sample.split("{")[0] for sample in batching.metrics()]
    assert f"{PREFIX}:batching_session:queuing_latency_count" in names


def test_loads_of_versions_are_recorded(rest):
    start = ":tensorflow:cc:saved_model:load_"
    samples = [sample for sample in rest.metrics() if sample.startswith(start)]
    # On TensorFlow Serving `model_path` is a path.
    assert any("multiply/" in sample and '"success"' in sample for sample in samples)
    assert any(sample.startswith(f"{start}latency") for sample in samples)
