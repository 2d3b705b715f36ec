"""Versions on disk: which are served, and how one takes over from another."""

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
# Several looks at the disk.
LOOKS = 0.5 if EMBEDDED else 3.0


def asked(predictions, name, version=None, label=None):
    """The factor of a version, and its number."""
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
def test_a_version_is_found_by_number_or_label_or_is_the_largest(
    predictions, choice, version
):
    assert asked(predictions, "all", **choice) == (version, version)


@pytest.mark.parametrize(
    ("name", "served"),
    [("all", {123, 124, 125}), ("specific", {123, 124}), ("two", {124, 125})],
)
def test_a_policy_says_which_versions_are_served(endpoint, name, served):
    states = endpoint.states(name)
    available = {one for one in states if states[one].state == STATES.AVAILABLE}
    assert available == served
    assert asked(endpoint.predictions, name) == (max(served), max(served))
    for version in {123, 124, 125} - served:
        request = request_of(ONE, name)
        request.model_spec.version.value = version
        assert rpc_error(endpoint.predictions.Predict, request) == (
            NOT_FOUND,
            f"Servable not found for request: Specific({name}, {version})",
        )


def test_the_latest_version_is_served_by_default_and_others_are_no_versions(endpoint):
    assert set(endpoint.states("multiply")) == {2}


def test_a_label_is_of_one_model(predictions):
    request = request_of(ONE, "two")
    request.model_spec.version_label = "stable"
    expected = "Unrecognized servable version label: stable"
    assert rpc_error(predictions.Predict, request) == (INVALID, expected)


class Askers:
    """Ask a model without pause, by gRPC and REST; keep answers and failures."""

    def __init__(self, endpoint, name):
        self.endpoint = endpoint
        self.name = name
        self.answers = []
        self.failures = []
        self._stop = threading.Event()
        asks = [self._by_grpc] + ([self._by_rest] if endpoint.rest else [])
        self._threads = [threading.Thread(target=self._run, args=(a,)) for a in asks]

    def __enter__(self):
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for one in self._threads:
            one.join()

    def wait_for_more(self):
        seen = len(self.answers)
        while len(self.answers) < seen + 20 and not self.failures:
            time.sleep(0.01)

    def _run(self, ask):
        while not self._stop.is_set():
            try:
                self.answers.append(ask())
            except Exception as error:
                self.failures.append(error)

    def _by_grpc(self):
        return asked(self.endpoint.predictions, self.name)[0]

    def _by_rest(self):
        path = f"/v1/models/{self.name}:predict"
        status, answer = self.endpoint.post(path, {"instances": [1.0]})
        assert status == 200, answer
        return answer["predictions"][0]


def test_no_request_fails_while_a_version_swaps_and_a_bad_one_comes(disk, embedded):
    old = max(disk.states("swap"))
    seen = []
    with Askers(disk, "swap") as askers:
        askers.wait_for_more()
        good = disk.write(Factor(old + 1), "swap")
        disk.wait_for("swap", old, "END", seen)
        askers.wait_for_more()
        (disk.disk / "swap" / str(good + 1)).mkdir()
        bad = disk.wait_for("swap", good + 1, "END", seen)
        askers.wait_for_more()
    assert not askers.failures
    assert askers.answers[-1] == good
    # The new one is loaded before the old one is unloaded.
    assert all(STATES.AVAILABLE in states.values() for states in seen)
    assert bad.status.error_code != 0
    assert bad.status.error_message
    if embedded:
        assert bad.status.error_code == grpc.StatusCode.UNKNOWN.value[0]
        assert str(disk.disk) not in bad.status.error_message


def test_a_version_that_failed_is_not_tried_again(disk, tmp_path):
    served = asked(disk.predictions, "swap")[0]
    bad = 1 + max(int(one.name) for one in (disk.disk / "swap").glob("[0-9]*"))
    directory = disk.disk / "swap" / str(bad)
    directory.mkdir()
    disk.wait_for("swap", bad, "END")
    # Whole now, and too late.
    shutil.copytree(write(Factor(bad), tmp_path, bad), directory, dirs_exist_ok=True)
    time.sleep(LOOKS)
    assert disk.states("swap")[bad].state == STATES.END
    assert asked(disk.predictions, "swap")[0] == served
    good = disk.write(Factor(bad + 1), "swap")
    disk.wait_for("swap", good, "AVAILABLE")
    assert asked(disk.predictions, "swap") == (good, good)


def test_a_version_is_told_through_all_of_its_states(disk):
    old = max(disk.states("swap"))
    seen = []
    slow = {"x": np.full(1, 1_500_000)}
    warm_up = predict_log(x=tf.constant([300_000], tf.int64))
    warm_up.predict_log.request.model_spec.signature_name = "slow"
    under_way = disk.predictions.Predict.future(
        request_of(slow, "swap", "slow"), timeout=30
    )
    # It takes time to load, and the old one has time to be seen in use.
    new = disk.write(Factor(old + 1), "swap", [warm_up])
    disk.wait_for("swap", new, "AVAILABLE", seen)
    assert not under_way.done()
    disk.wait_for("swap", old, "END", seen)
    assert under_way.result().model_spec.version.value == old

    def told(version):
        states = [one[version] for one in seen if version in one]
        changes = [
            one for n, one in enumerate(states) if n == 0 or one != states[n - 1]
        ]
        return [STATES.Name(one) for one in changes]

    assert told(old) == ["AVAILABLE", "UNLOADING", "END"]
    assert [one for one in told(new) if one != "START"] == ["LOADING", "AVAILABLE"]


def test_a_deadline_ends_the_run_itself(disk):
    old = max(disk.states("swap"))
    slow = request_of({"x": np.full(1, 60_000_000)}, "swap", "slow")
    with pytest.raises(grpc.RpcError) as raised:
        disk.predictions.Predict(slow, timeout=0.5)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # A version in use would stay for a minute; nothing uses this one any more.
    disk.write(Factor(old + 1), "swap")
    begun = time.monotonic()
    disk.wait_for("swap", old, "END")
    assert time.monotonic() - begun < 30


@embedded_only("TensorFlow Serving takes a file for a version, and fails to load it")
def test_a_file_named_by_a_number_is_no_version(disk):
    file = disk.disk / "multiply" / "9"
    file.write_text("no version")
    try:
        time.sleep(LOOKS)
        assert set(disk.states("multiply")) == {2}
    finally:
        file.unlink()
