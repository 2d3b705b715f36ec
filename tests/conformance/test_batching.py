"""Batching, with a parameters file in TensorFlow Serving's format."""

import time

import grpc
import numpy as np
from serving_models import request_of, rpc_error

from conformance.endpoint import INVALID


def rows(count):
    return {"x": np.arange(count, dtype=np.float32)}


def test_requests_are_padded_to_an_allowed_size(batching):
    for sent, ran in ((1, 2), (2, 2), (3, 4), (4, 4)):
        request = request_of(rows(sent), "all", "rows")
        response = batching.predictions.Predict(request, timeout=30)
        assert list(response.outputs["seen"].int_val) == [ran] * sent


def test_requests_at_the_same_time_share_a_batch(batching):
    slow = request_of({"x": np.full(1, 500_000)}, "all", "slow")
    before = batching.predictions.Predict.future(slow, timeout=30)
    time.sleep(0.2)  # the only thread is busy, so further requests wait together
    calls = [
        batching.predictions.Predict.future(
            request_of(rows(1), "all", "rows"), timeout=30
        )
        for _ in range(4)
    ]
    assert [list(call.result().outputs["seen"].int_val) for call in calls] == [[4]] * 4
    assert before.result()


def test_each_request_gets_its_own_rows(batching):
    calls = [
        batching.predictions.Predict.future(
            request_of({"x": np.full(1, value, np.float32)}, "all"), timeout=30
        )
        for value in range(4)
    ]
    answers = [call.result().outputs["y"].float_val[0] for call in calls]
    assert answers == [0, 125, 250, 375]


def test_a_request_larger_than_a_batch_is_rejected(batching):
    code, details = rpc_error(batching.predictions.Predict, request_of(rows(5), "all"))
    assert code == INVALID
    assert "size 5 is larger than maximum input batch size 4" in details


def test_requests_to_a_full_queue_are_unavailable(batching):
    def send():
        request = request_of({"x": np.full(4, 500_000)}, "all", "slow")
        return batching.predictions.Predict.future(request, timeout=30)

    # One runs and one waits; further ones are rejected.
    calls = [send() for _ in range(6)]
    codes = [call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
