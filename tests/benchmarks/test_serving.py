"""The serving benchmark counts and times what it says, and runs from end to end."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from paths import ROOT

from benchmarks.serving import targets
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


def test_percentiles_are_those_of_sorted_latencies_between_neighbours():
    seconds = np.random.default_rng(0).exponential(0.01, 101)
    found = summary(Load(seconds.tolist(), 2.0))
    ordered = np.sort(seconds) * 1e3
    assert found["p50 ms"] == pytest.approx(ordered[50])
    assert found["p95 ms"] == pytest.approx(ordered[95])
    assert found["p99 ms"] == pytest.approx(ordered[99])
    assert found["a second"] == 101 / 2
    assert found["requests"] == 101


def test_rounds_are_joined_by_medians_and_their_requests_and_errors_by_sums():
    rounds = [
        {"requests": 10, "a second": 5.0},
        {"requests": 20, "a second": 1.0, "errors": 2},
        {"requests": 30, "a second": 9.0, "errors": 1},
    ]
    assert median(rounds) == {"requests": 60, "a second": 5.0, "errors": 3}


def test_a_load_without_any_answer_is_no_figure():
    def fail():
        raise OSError("gone")

    load = closed_loop(fail, 2, 0.0, 3)
    assert load.errors == {"OSError: gone": 3}
    with pytest.raises(RuntimeError, match="OSError: gone"):
        summary(load)


def test_a_closed_loop_keeps_so_many_calls_under_way_and_makes_the_least_number():
    guard, under_way, most = threading.Lock(), [0], [0]

    def call():
        with guard:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.005)
        with guard:
            under_way[0] -= 1

    load = closed_loop(call, 4, 0.0, 12)
    assert most == [4]
    assert len(load.latencies) == 12
    assert min(load.latencies) >= 0.005


def test_calls_held_up_by_one_slow_call_are_timed_from_their_given_times():
    durations = iter([0.2] + [0.0] * 9)
    load = open_loop(lambda: time.sleep(next(durations)), even_arrivals(100, 0.1), 1)
    # The call given for 0.09 s waits for the end of the first, at 0.2 s.
    assert len(load.latencies) == 10
    assert min(load.latencies) >= 0.2 - 0.09
    assert summary(load)["p50 ms"] >= 150


def test_arrivals_have_the_rate_and_poisson_ones_gaps_as_irregular_as_it_says():
    even, poisson = even_arrivals(50, 100), np.array(poisson_arrivals(50, 100))
    assert len(even) == len(poisson) == 5000
    np.testing.assert_allclose(np.diff(even), 0.02)
    gaps = np.diff(poisson)
    # Mean and standard deviation are equal; both within four standard errors.
    assert gaps.mean() == pytest.approx(0.02, rel=4 / np.sqrt(5000))
    assert gaps.std() == pytest.approx(0.02, rel=8 / np.sqrt(5000))
    assert poisson_arrivals(50, 1) == poisson_arrivals(50, 1)
    assert poisson_arrivals(50, 1) != poisson_arrivals(50, 1, seed=1)


def test_a_perfect_queue_waits_as_pollaczek_and_khinchine_say():
    share, service = 0.8, 0.01
    latencies = perfect_queue(poisson_arrivals(share / service, 4000), service)
    expected = service * (1 + share / (2 * (1 - share)))
    assert np.mean(latencies.latencies) == pytest.approx(expected, rel=0.05)
    assert set(np.round(perfect_queue([0, 1, 1], 0.5).latencies, 9)) == {0.5, 1.0}


def test_growth_compares_the_first_tenth_with_the_last():
    assert growth([100.0] * 2 + [500.0] * 16 + [101.0] * 2) == pytest.approx(1.0)


def test_targets_take_the_lowest_ratio_of_each_signature():
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
    assert [row["found"] for row in targets({"network": rows})] == [0.9, 0.98]


@pytest.mark.slow
def test_a_short_run_of_the_tiny_model_writes_its_figures(tmp_path):
    path = tmp_path / "serving.json"
    command = ["benchmarks.serving", "--quick", "--tiny-only", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(path.read_text())
    assert {row["by"] for row in facts["tiny"]} >= {"direct", "gRPC"}
    assert {row["arrivals"] for row in facts["load"]} == {"even", "Poisson"}
    for row in [*facts["tiny"], *facts["load"]]:
        assert "errors" not in row
        assert 0 < row["p50 ms"] <= row["p95 ms"] <= row["p99 ms"]
    assert len(facts["targets"]) == 3
    assert "| gRPC | 1 |" in done.stdout
