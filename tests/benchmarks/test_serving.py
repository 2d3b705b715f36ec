"""The serving benchmark: its loads, its figures, and a short run of it."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from paths import ROOT

from benchmarks.serving import summarize
from benchmarks.serving_load import (
    Load,
    closed_loop,
    even_arrivals,
    open_loop,
    perfect_queue,
    poisson_arrivals,
)
from benchmarks.serving_sections import median, summary
from benchmarks.soak import growth


@pytest.mark.fast
def test_percentiles_interpolate_between_sorted_latencies():
    seconds = np.random.default_rng(0).exponential(0.01, 101)
    figures = summary(Load(seconds.tolist(), 2.0))
    ordered = np.sort(seconds) * 1e3
    assert figures["p50 ms"] == pytest.approx(ordered[50])
    assert figures["p95 ms"] == pytest.approx(ordered[95])
    assert figures["p99 ms"] == pytest.approx(ordered[99])
    assert figures["a second"] == 101 / 2
    assert figures["requests"] == 101


@pytest.mark.fast
def test_rounds_are_combined_by_medians_and_counts_by_sums():
    rounds = [
        {"requests": 10, "a second": 5.0},
        {"requests": 20, "a second": 1.0, "errors": 2},
        {"requests": 30, "a second": 9.0, "errors": 1},
    ]
    assert median(rounds) == {"requests": 60, "a second": 5.0, "errors": 3}


@pytest.mark.fast
def test_a_load_without_answers_is_an_error():
    def fail():
        raise OSError("gone")

    load = closed_loop(fail, 2, 0.0, 3)
    assert load.errors == {"OSError: gone": 3}
    with pytest.raises(RuntimeError, match="OSError: gone"):
        summary(load)


@pytest.mark.fast
def test_a_closed_loop_keeps_the_concurrency_and_makes_the_minimum_of_calls():
    lock, open_calls, peak = threading.Lock(), [0], [0]

    def call():
        with lock:
            open_calls[0] += 1
            peak[0] = max(peak[0], open_calls[0])
        time.sleep(0.005)
        with lock:
            open_calls[0] -= 1

    load = closed_loop(call, 4, 0.0, 12)
    assert peak == [4]
    assert len(load.latencies) == 12
    assert min(load.latencies) >= 0.005


def test_calls_delayed_by_a_slow_call_are_timed_from_their_scheduled_times():
    durations = iter([0.2] + [0.0] * 9)
    load = open_loop(lambda: time.sleep(next(durations)), even_arrivals(100, 0.1), 1)
    # The call scheduled for 0.09 s waits for the end of the first one at 0.2 s.
    assert len(load.latencies) == 10
    assert min(load.latencies) >= 0.2 - 0.09
    assert summary(load)["p50 ms"] >= 150


def test_arrivals_have_the_given_rate_and_the_gaps_of_their_process():
    even, poisson = even_arrivals(50, 100), np.array(poisson_arrivals(50, 100))
    assert len(even) == len(poisson) == 5000
    np.testing.assert_allclose(np.diff(even), 0.02)
    gaps = np.diff(poisson)
    # Exponential: the standard deviation is the mean. Both within four standard errors.
    assert gaps.mean() == pytest.approx(0.02, rel=4 / np.sqrt(5000))
    assert gaps.std() == pytest.approx(0.02, rel=8 / np.sqrt(5000))
    assert poisson_arrivals(50, 1) == poisson_arrivals(50, 1)
    assert poisson_arrivals(50, 1) != poisson_arrivals(50, 1, seed=1)


def test_the_ideal_server_has_the_waiting_time_of_pollaczek_and_khinchine():
    share, service = 0.8, 0.01
    latencies = perfect_queue(poisson_arrivals(share / service, 4000), service)
    expected = service * (1 + share / (2 * (1 - share)))
    assert np.mean(latencies.latencies) == pytest.approx(expected, rel=0.05)
    assert set(np.round(perfect_queue([0, 1, 1], 0.5).latencies, 9)) == {0.5, 1.0}


@pytest.mark.fast
def test_growth_is_from_the_first_to_the_last_tenth():
    assert growth([100.0] * 2 + [500.0] * 16 + [101.0] * 2) == pytest.approx(1.0)


@pytest.mark.fast
def test_the_summary_has_the_lowest_ratio_of_each_signature():
    rows = [
        {"signature": "s", "batch": 1, "by": "direct", "concurrency": 1},
        *(
            {
                "signature": "s",
                "batch": 1,
                "by": "served",
                "concurrency": concurrency,
                "of direct, one thread": ratio,
            }
            for concurrency, ratio in ((1, 0.9), (2, 1.1), (64, 0.98))
        ),
    ]
    assert [row["measured"] for row in summarize({"network": rows})] == [0.9, 0.98]


@pytest.mark.slow
def test_a_short_run_with_the_tiny_model_writes_its_figures(tmp_path):
    path = tmp_path / "serving.json"
    command = ["benchmarks.serving", "--quick", "--tiny-only", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(path.read_text())
    assert {row["by"] for row in facts["tiny"]} >= {"direct", "gRPC"}
    assert {row["arrivals"] for row in facts["load"]} == {"even", "Poisson"}
    for row in [*facts["tiny"], *facts["load"]]:
        assert "errors" not in row
        assert 0 < row["p50 ms"] <= row["p95 ms"] <= row["p99 ms"]
    figures = {row["figure"] for row in facts["summary"]}
    assert {"REST / gRPC, 1 MB in", "REST / gRPC, 8 MB out"} <= figures
    assert all(np.isfinite(row["measured"]) for row in facts["summary"])
    assert "| gRPC | 1 |" in done.stdout
