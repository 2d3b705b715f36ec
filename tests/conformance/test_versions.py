"""Versions on disk: which are served, and how one replaces another."""

import itertools
import shutil
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import predict_log, request_of, rpc_error, write

from conformance.endpoint import EMBEDDED, INVALID, NOT_FOUND, STATES, embedded_only
from conformance.models import Factor

ONE = {"x": np.ones(1, np.float32)}
# Time for several polls.
POLLS = 0.2 if EMBEDDED else 3.0


def factor_and_version(predictions, name, version=None, label=None):
    """Send a request; return the factor of the version that answers, and its number."""
    request = request_of(ONE, name)
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    response = predictions.Predict(request, timeout=30)
    return response.outputs["y"].float_val[0], response.model_spec.version.value


@pytest.mark.parametrize(
    ("choice", "version"),
    [
        ({}, 125),
        ({"version": 125}, 125),
        ({"version": 124}, 124),
        # On disk it is 00000123.
        ({"version": 123}, 123),
        ({"label": "stable"}, 123),
        ({"label": "canary"}, 125),
    ],
)
def test_a_version_is_chosen_by_number_or_label_or_is_the_latest(
    predictions, choice, version
):
    assert factor_and_version(predictions, "all", **choice) == (version, version)


@pytest.mark.parametrize(
    ("name", "served"),
    [("all", {123, 124, 125}), ("specific", {123, 124}), ("two", {124, 125})],
)
def test_the_policy_selects_the_versions(endpoint, name, served):
    states = endpoint.states(name)
    available = {
        version
        for version, status in states.items()
        if status.state == STATES.AVAILABLE
    }
    assert available == served
    assert factor_and_version(endpoint.predictions, name) == (max(served), max(served))
    for version in {123, 124, 125} - served:
        request = request_of(ONE, name)
        request.model_spec.version.value = version
        assert rpc_error(endpoint.predictions.Predict, request) == (
            NOT_FOUND,
            f"Servable not found for request: Specific({name}, {version})",
        )


def test_only_the_latest_version_is_served_by_default(endpoint):
    assert set(endpoint.states("multiply")) == {2}


def test_a_label_belongs_to_one_model(predictions):
    request = request_of(ONE, "two")
    request.model_spec.version_label = "stable"
    expected = "Unrecognized servable version label: stable"
    assert rpc_error(predictions.Predict, request) == (INVALID, expected)


class Clients:
    """Send requests continuously over gRPC and REST; keep answers and failures."""

    def __init__(self, endpoint, name):
        self.endpoint = endpoint
        self.name = name
        self.answers = []
        self.failures = []
        self._stop = threading.Event()
        senders = [self._send_grpc] + ([self._send_rest] if endpoint.rest else [])
        self._threads = [
            threading.Thread(target=self._run, args=(send,)) for send in senders
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self):
        seen = len(self.answers)
        while len(self.answers) < seen + 20 and not self.failures:
            time.sleep(0.01)

    def _run(self, send):
        while not self._stop.is_set():
            try:
                self.answers.append(send())
            except Exception as error:
                self.failures.append(error)

    def _send_grpc(self):
        return factor_and_version(self.endpoint.predictions, self.name)[0]

    def _send_rest(self):
        path = f"/v1/models/{self.name}:predict"
        status, answer = self.endpoint.post(path, {"instances": [1.0]})
        assert status == 200, answer
        return answer["predictions"][0]


def test_no_request_fails_while_a_good_and_a_bad_version_arrive(disk, embedded):
    old = max(disk.states("swap"))
    seen = []
    with Clients(disk, "swap") as clients:
        clients.wait_for_more()
        good = disk.write(Factor(old + 1), "swap")
        disk.wait_for("swap", old, "END", seen)
        clients.wait_for_more()
        (disk.disk / "swap" / str(good + 1)).mkdir()
        bad = disk.wait_for("swap", good + 1, "END", seen)
        clients.wait_for_more()
    assert not clients.failures
    assert clients.answers[-1] == good
    # The new version is loaded before the old one is unloaded.
    assert all(STATES.AVAILABLE in states.values() for states in seen)
    assert bad.status.error_code != 0
    assert bad.status.error_message
    if embedded:
        assert bad.status.error_code == grpc.StatusCode.UNKNOWN.value[0]
        assert str(disk.disk) not in bad.status.error_message


def test_a_version_that_failed_is_not_tried_again(disk, tmp_path):
    served = factor_and_version(disk.predictions, "swap")[0]
    bad = 1 + max(int(path.name) for path in (disk.disk / "swap").glob("[0-9]*"))
    directory = disk.disk / "swap" / str(bad)
    directory.mkdir()
    disk.wait_for("swap", bad, "END")
    # It is complete now, but too late.
    shutil.copytree(write(Factor(bad), tmp_path, bad), directory, dirs_exist_ok=True)
    time.sleep(POLLS)
    assert disk.states("swap")[bad].state == STATES.END
    assert factor_and_version(disk.predictions, "swap")[0] == served
    good = disk.write(Factor(bad + 1), "swap")
    disk.wait_for("swap", good, "AVAILABLE")
    assert factor_and_version(disk.predictions, "swap") == (good, good)


def test_a_version_passes_through_all_states(disk):
    old = max(disk.states("swap"))
    seen = []
    slow = {"x": np.full(1, 1_500_000)}
    warm_up = predict_log(x=tf.constant([300_000], tf.int64))
    warm_up.predict_log.request.model_spec.signature_name = "slow"
    running = disk.predictions.Predict.future(
        request_of(slow, "swap", "slow"), timeout=30
    )
    # Its warm-up takes time, so that both versions can be seen in every state.
    new = disk.write(Factor(old + 1), "swap", [warm_up])
    disk.wait_for("swap", new, "AVAILABLE", seen)
    assert not running.done()
    disk.wait_for("swap", old, "END", seen)
    assert running.result().model_spec.version.value == old

    def history(version):
        states = [sample[version] for sample in seen if version in sample]
        return [STATES.Name(state) for state, _ in itertools.groupby(states)]

    assert history(old) == ["AVAILABLE", "UNLOADING", "END"]
    states = [state for state in history(new) if state != "START"]
    assert states == ["LOADING", "AVAILABLE"]


def test_a_deadline_interrupts_the_model(disk):
    old = max(disk.states("swap"))
    slow = request_of({"x": np.full(1, 60_000_000)}, "swap", "slow")
    with pytest.raises(grpc.RpcError) as raised:
        disk.predictions.Predict(slow, timeout=0.5)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # If the request were still running, its version would stay for a minute.
    disk.write(Factor(old + 1), "swap")
    start = time.monotonic()
    disk.wait_for("swap", old, "END")
    assert time.monotonic() - start < 30


@embedded_only("TensorFlow Serving takes a file as a version that fails to load")
def test_a_file_whose_name_is_a_number_is_not_a_version(disk):
    file = disk.disk / "multiply" / "9"
    file.write_text("not a version")
    try:
        time.sleep(POLLS)
        assert set(disk.states("multiply")) == {2}
    finally:
        file.unlink()
