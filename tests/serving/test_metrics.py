"""Metrics under TensorFlow Serving's names, read with Prometheus' own parser."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bn_keras_serving.common.metrics import BUCKETS, RECENT_REQUESTS, Metrics

COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"
RUNTIME = ":tensorflow:serving:runtime_latency"


@pytest.fixture
def metrics():
    return Metrics(lambda: ["digits"])


LOADS = ":tensorflow:cc:saved_model:load_attempt_count"
LOAD_LATENCY = ":tensorflow:cc:saved_model:load_latency"


def samples(metrics, prefix=":tensorflow:"):
    """Return `{(name, *labels): value}` from the exposition."""
    return {
        # The parser adds the suffix that newer formats require for a counter.
        (sample.name.removesuffix("_total"), *sample.labels.items()): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def test_names_labels_and_types_are_those_of_tensorflow_serving(metrics):
    metrics.record_request("digits", "Predict", "GRPC", "OK", 1500.0)
    metrics.record_runtime("digits", "Predict", 1200.0)
    text = metrics.exposition().decode()
    assert text.endswith("\n")
    assert "_created" not in text
    lines = [line for line in text.splitlines() if ":tensorflow:" in line]
    assert not any("_total" in line for line in lines)
    assert [line for line in lines if line.startswith("#")] == [
        f"# TYPE {COUNT} counter",
        f"# TYPE {LATENCY} histogram",
        f"# TYPE {RUNTIME} histogram",
        f"# TYPE {LOADS} counter",
        f"# TYPE {LOAD_LATENCY} counter",
    ]
    assert f'{COUNT}{{model_name="digits",status="OK"}} 1' in lines
    request = 'model_name="digits",API="Predict",entrypoint="GRPC"'
    assert f"{LATENCY}_count{{{request}}} 1" in lines
    assert f"{LATENCY}_sum{{{request}}} 1500" in lines
    runtime = 'model_name="digits",API="Predict",runtime="TF1"'
    assert f"{RUNTIME}_count{{{runtime}}} 1" in lines
    assert f"{RUNTIME}_sum{{{runtime}}} 1200" in lines


def test_buckets_are_written_with_six_digits_as_in_tensorflow_serving(metrics):
    metrics.record_request("digits", "Predict", "GRPC", "OK", 1.0)
    bounds = [
        dict(key[1:])["le"] for key in samples(metrics) if key[0] == f"{LATENCY}_bucket"
    ]
    assert len(bounds) == 34
    assert bounds[:6] == ["10", "18", "32.4", "58.32", "104.976", "188.957"]
    assert bounds[-2:] == ["1.47476e+09", "+Inf"]


def test_buckets_are_cumulative_and_sum_and_count_agree(metrics):
    rng = np.random.default_rng(7)
    times = 10 ** rng.uniform(0, 11, 500)
    for microseconds in times:
        metrics.record_request("digits", "predict", "REST", "OK", microseconds)
    buckets = [
        value
        for (name, *_), value in samples(metrics).items()
        if name == f"{LATENCY}_bucket"
    ]
    expected = [np.sum(times <= bound) for bound in (*BUCKETS, np.inf)]
    assert buckets == expected
    labels = (("model_name", "digits"), ("API", "predict"), ("entrypoint", "REST"))
    assert samples(metrics)[(f"{LATENCY}_count", *labels)] == 500
    np.testing.assert_allclose(
        samples(metrics)[(f"{LATENCY}_sum", *labels)], times.sum(), rtol=1e-12
    )


def test_a_rejected_request_is_counted_but_not_timed(metrics):
    metrics.record_request("digits", "Predict", "GRPC", "INVALID_ARGUMENT", 5.0)
    labels = (("model_name", "digits"), ("status", "INVALID_ARGUMENT"))
    assert samples(metrics) == {(COUNT, *labels): 1}


def test_names_that_are_not_served_occupy_no_memory(metrics):
    for number in range(1000):
        metrics.record_request(f"no{number}", "Predict", "GRPC", "NOT_FOUND", 5.0)
        metrics.record_runtime(f"no{number}", "Predict", 5.0)
    assert samples(metrics)[(COUNT, ("model_name", ""), ("status", "NOT_FOUND"))] == (
        1000
    )
    assert len(metrics.exposition().splitlines()) < 70


def test_a_removed_model_keeps_its_counts():
    names = ["old"]
    metrics = Metrics(lambda: names)
    metrics.record_request("old", "Predict", "GRPC", "OK", 5.0)
    names[:] = ["new"]
    metrics.record_request("new", "Predict", "GRPC", "OK", 5.0)
    metrics.record_request("old", "Predict", "GRPC", "NOT_FOUND", 5.0)
    assert {key[1:] for key in samples(metrics) if key[0] == COUNT} == {
        (("model_name", "old"), ("status", "OK")),
        (("model_name", "old"), ("status", "NOT_FOUND")),
        (("model_name", "new"), ("status", "OK")),
    }


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "<script>", "数字", "a}b,c=d"])
def test_any_name_survives_the_text_format(name):
    metrics = Metrics(lambda: [name])
    metrics.record_request(name, "Predict", "GRPC", "OK", 5.0)
    assert (COUNT, ("model_name", name), ("status", "OK")) in samples(metrics)


def test_two_servers_count_separately(metrics):
    other = Metrics(lambda: ["digits"])
    metrics.record_request("digits", "Predict", "GRPC", "OK", 5.0)
    assert samples(other) == {}


def test_the_summary_has_statuses_and_recent_percentiles(metrics):
    for time_ in (*[1e9] * 10, *range(1, RECENT_REQUESTS + 1)):
        metrics.record_request("digits", "Predict", "GRPC", "OK", float(time_))
    metrics.record_request("digits", "predict", "REST", "OK", 7.0)
    metrics.record_request("digits", "predict", "REST", "UNAVAILABLE", 7.0)
    metrics.record_request("nothing", "predict", "REST", "NOT_FOUND", 7.0)
    recent = np.arange(1, RECENT_REQUESTS + 1)
    p50, p95, p99 = (float(np.percentile(recent, part)) for part in (50, 95, 99))
    assert metrics.summary() == {
        "": {"requests": {"NOT_FOUND": 1}, "latencies": []},
        "digits": {
            "requests": {"OK": RECENT_REQUESTS + 11, "UNAVAILABLE": 1},
            "latencies": [
                {
                    "api": "Predict",
                    "entrypoint": "GRPC",
                    "count": RECENT_REQUESTS,
                    "p50": p50,
                    "p95": p95,
                    "p99": p99,
                },
                {
                    "api": "predict",
                    "entrypoint": "REST",
                    "count": 1,
                    "p50": 7.0,
                    "p95": 7.0,
                    "p99": 7.0,
                },
            ],
        },
    }


def test_loads_are_counted_and_successful_ones_are_timed(metrics):
    with metrics.record_load("digits", 7):
        time.sleep(0.02)
    for _ in range(2):
        with pytest.raises(OSError, match="half"), metrics.record_load("digits", 8):
            raise OSError("half a file")
    path = ("model_path", "digits/7")
    measured = samples(metrics)
    latency = measured.pop((LOAD_LATENCY, path))
    assert 20_000 <= latency < 20e6
    assert measured == {
        (LOADS, path, ("status", "success")): 1,
        (LOADS, ("model_path", "digits/8"), ("status", "fail")): 2,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="they are read from /proc")
def test_metrics_of_the_process_have_the_names_of_prometheus(metrics):
    lines = metrics.exposition().decode().splitlines()
    assert "# TYPE process_cpu_seconds_total counter" in lines
    assert "# TYPE process_resident_memory_bytes gauge" in lines
    values = dict(line.split() for line in lines if line.startswith("process_"))
    assert float(values["process_cpu_seconds_total"]) > 0
    assert float(values["process_resident_memory_bytes"]) > 1e6
    assert 3 <= float(values["process_open_fds"]) <= float(values["process_max_fds"])
    assert abs(float(values["process_start_time_seconds"]) - time.time()) < 86400


# In a process of its own, as the memory of other tests moves by tens of MiB.
RECORD_NEXT_TO_LARGE_ANSWERS = """
import mmap
from pathlib import Path

import numpy as np

from bn_keras_serving.common.metrics import Metrics

metrics = Metrics(lambda: ["digits"])

def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

def record(number):
    answer = np.arange(3e6).tolist()  # floats of 24 bytes: 69 MiB
    metrics.record_request("digits", "Predict", "GRPC", "OK", answer[-1] + number)

record(0)
before = memory()
for number in range(40):
    record(number)
print(memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_time_recorded_next_to_a_large_answer_keeps_none_of_its_memory():
    done = subprocess.run(
        [sys.executable, "-c", RECORD_NEXT_TO_LARGE_ANSWERS],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 15 * 2**20  # 40 MiB if each keeps its arena


def test_no_request_is_lost_when_threads_read_and_write(metrics):
    def record():
        for _ in range(500):
            metrics.record_request("digits", "Predict", "GRPC", "OK", 5.0)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.exposition()
        metrics.summary()
    assert samples(metrics)[(COUNT, ("model_name", "digits"), ("status", "OK"))] == 4000


def test_recording_costs_microseconds(metrics):
    start = time.process_time()
    for _ in range(2000):
        metrics.record_request("digits", "Predict", "GRPC", "OK", 5.0)
    # 4 microseconds measured; a request to the tiniest model takes 900.
    assert (time.process_time() - start) / 2000 < 50e-6
