"""The list of operations that abort the process is what aborts when it is tried."""

import json
import os
import platform
import subprocess
import sys

import pytest
from paths import SUPPORT

from bn_keras_serving.servable.operations import ABORTING_OPERATIONS

# Whether these abort depends on what is in the memory after a shape: in about one of
# twelve runs for the first.
SOMETIMES = {"CombinedNonMaxSuppression"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs forked processes"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of all trials, each tried with oneDNN."""

    def run(kind):
        completed = subprocess.run(
            [sys.executable, SUPPORT / "abort_trials.py", kind],
            cwd=tmp_path_factory.mktemp(kind),
            env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1"},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            timeout=1800,
        )
        return [json.loads(line) for line in completed.stdout.splitlines()]

    return {kind: run(kind) for kind in ("operations", "graphs")}


def test_every_operation_that_aborts_is_listed(results):
    aborting = {result["name"] for result in results["operations"] if result["signal"]}
    assert aborting - ABORTING_OPERATIONS == set()


def test_every_graph_that_aborts_has_a_listed_operation(results):
    unexplained = [
        result
        for result in results["graphs"]
        if result["signal"] and not ABORTING_OPERATIONS & set(result["operations"])
    ]
    assert unexplained == []
    # Some graphs cannot be built for inputs of unknown shape.
    for result in results["graphs"]:
        assert result["cases"] > 20 or result["signal"] or not result["known"], result


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN has other kernels"
)
def test_every_listed_operation_aborts(results):
    aborting = {result["name"] for result in results["operations"] if result["signal"]}
    for result in results["graphs"]:
        if result["signal"]:
            aborting.update(result["operations"])
    assert ABORTING_OPERATIONS - aborting - SOMETIMES == set()


def test_a_check_in_the_graph_protects_it(results):
    checked = [r for r in results["graphs"] if r["name"] == "checked convolution"]
    assert [result["signal"] for result in checked] == [0, 0]
    unchecked = [r for r in results["graphs"] if r["name"] == "convolution"]
    assert all(result["signal"] for result in unchecked)
