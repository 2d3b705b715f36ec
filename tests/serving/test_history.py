"""Requests and latencies of the last minutes."""

import sys

import numpy as np
import pytest

from bn_keras_serving.common.history import INTERVALS, History
from bn_keras_serving.common.metrics import Metrics

pytestmark = pytest.mark.fast


class Clock:
    def __init__(self):
        self.now = 12_345.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def history(clock):
    return History(clock)


@pytest.mark.parametrize("scale", [1, 1e3, 1e6])
def test_percentiles_are_right_within_ten_percent(history, scale):
    latencies = scale * np.random.default_rng(0).lognormal(3, 1, 5000)
    for latency in latencies:
        history.record("m", latency)
    read = history.read()["m"]
    expected = np.percentile(latencies, (50, 99))
    np.testing.assert_allclose([read["p50"][-1], read["p99"][-1]], expected, rtol=0.1)


@pytest.mark.parametrize("latency", [0.0, 1.0, 1.2e9, 1e15])
def test_no_latency_is_out_of_range(history, latency):
    history.record("m", latency)
    expected = min(max(latency, 1), 1.2e9)
    # The last range is beyond 20 minutes.
    assert history.read()["m"]["p50"][-1] == pytest.approx(expected, rel=0.2)


def test_each_interval_has_its_own_counts_and_the_old_ones_are_forgotten(
    history, clock
):
    for count in (1, 2, 3):
        for _ in range(count):
            history.record("m", 1000.0 * count)
        clock.now += 10
    read = history.read()["m"]
    assert read["requests"] == [0] * (INTERVALS - 4) + [1, 2, 3, 0]
    assert read["p50"][:-4] == [None] * (INTERVALS - 4)
    assert read["p50"][-4:-1] == pytest.approx([1000, 2000, 3000], rel=0.1)
    clock.now += 10 * (INTERVALS - 3)
    history.record("m", None)
    read = history.read()["m"]
    assert read["requests"] == [2, 3] + [0] * (INTERVALS - 3) + [1]
    assert read["p99"][-1] is None
    clock.now += 1e6
    assert history.read()["m"]["requests"] == [0] * INTERVALS


def test_the_rate_is_that_of_the_last_minute(history, clock):
    for _ in range(30):
        clock.now += 1
        for _ in range(5):
            history.record("m", 1.0)
    # 30 seconds after the start, not 60.
    assert history.uptime() == 30
    assert history.read()["m"]["per_second"] == pytest.approx(5)
    clock.now += 120
    assert history.read()["m"]["per_second"] == 0


def test_requests_do_not_take_memory(history):
    history.record("m", 1.0)
    model = history._models["m"]
    before = sys.getsizeof(model._latencies) + model._latencies.nbytes
    for latency in range(10_000):
        history.record("m", latency)
    assert sys.getsizeof(model._latencies) + model._latencies.nbytes == before < 30_000
    assert list(history._models) == ["m"]


def test_metrics_keep_a_history_of_inference():
    metrics = Metrics(lambda: ["m"])
    metrics.record_request("m", "Predict", "GRPC", "OK", 1000.0)
    metrics.record_request("m", "predict", "REST", "INVALID_ARGUMENT", 9.0)
    metrics.record_request("m", "", "REST", "OK", 9.0)  # a request for the state
    metrics.record_request("unknown", "Predict", "GRPC", "NOT_FOUND", 9.0)
    history = metrics.history.read()
    assert set(history) == {"m", ""}
    assert history["m"]["requests"][-1] == 3
    assert history["m"]["p99"][-1] == pytest.approx(1000, rel=0.1)
    assert history[""]["requests"][-1] == 1
