"""Warm-up: the requests in a version are run before it is served."""

import numpy as np
import pytest
import tensorflow as tf
from serving_models import predict_log, request_of
from tensorflow_serving.apis import prediction_log_pb2

from conformance.models import Counted, warm_up_logs

ONE = np.ones(1, np.float32)


def calls(endpoint):
    """Return how often the latest version has been called, and its number."""
    response = endpoint.predictions.Predict(request_of({"x": ONE}, "warmed"))
    return response.outputs["calls"].float_val[0] - 1, response.model_spec.version.value


def test_records_of_every_kind_are_run_before_the_first_request(endpoint):
    before, _ = calls(endpoint)
    # MultiInference calls two signatures.
    assert before >= 5


def test_a_thousand_records_are_run(disk):
    version = disk.write(Counted(), "warmed", [predict_log(x=ONE)] * 1000)
    disk.wait_for("warmed", version, "AVAILABLE")
    assert calls(disk) == (1000, version)


def unsupported_record():
    log = prediction_log_pb2.PredictionLog()
    log.session_run_log.SetInParent()
    return log


@pytest.mark.parametrize(
    "bad",
    [
        [predict_log(x=ONE), predict_log(x=tf.ones([1], tf.int32))],
        [unsupported_record()],
        [predict_log(x=ONE)] * 1001,
    ],
    ids=["one fails", "unknown kind", "1,001"],
)
def test_a_bad_record_fails_the_load_and_the_old_version_stays(disk, bad):
    _, good = calls(disk)
    version = disk.write(Counted(), "warmed", bad)
    status = disk.wait_for("warmed", version, "END").status
    assert status.error_code != 0
    assert calls(disk)[1] == good


def test_a_good_version_serves_after_bad_ones(disk):
    version = disk.write(Counted(), "warmed", warm_up_logs())
    disk.wait_for("warmed", version, "AVAILABLE")
    assert calls(disk) == (5, version)
