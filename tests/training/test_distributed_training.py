"""Several processes on this machine train as one process on the joint mini-batch."""

import json
import os
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from paths import SUPPORT
from train_on_machines import train_small

PROGRAM = SUPPORT / "train_on_machines.py"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for unused in sockets:
        unused.bind(("127.0.0.1", 0))
    ports = [unused.getsockname()[1] for unused in sockets]
    for unused in sockets:
        unused.close()
    return ports


def start(workdir, epochs, distribution=(), **environment):
    """Start a process of `train_on_machines`; return it and the file of its output."""
    workdir.mkdir(exist_ok=True)
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`stop` closes it)
    process = subprocess.Popen(
        [sys.executable, PROGRAM, workdir, str(epochs), *distribution],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        # Not a pipe: the processes wait for one another, and one whose pipe is full
        # would wait for its reader.
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    return process, output


def wait_for_results(processes):
    results = []
    try:
        for process, output in processes:
            process.wait(timeout=300)
            output.seek(0)
            text = output.read()
            assert process.returncode == 0, text[-3000:]
            results.append(json.loads(text.splitlines()[-1]))
    finally:
        stop(processes)
    return results


def stop(processes):
    for process, output in processes:
        process.kill()
        process.wait()
        output.close()


def start_cluster(workdir, epochs, name, machines=2):
    """Start the processes of one training run."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(machines)]
    processes = []
    for machine in range(machines):
        if name == "multi_worker":
            settings = {
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"worker": addresses},
                        "task": {"type": "worker", "index": machine},
                    }
                )
            }
        else:
            settings = {
                "KERAS_BACKEND": "jax",
                "JAX_PLATFORMS": "cpu",
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": ",".join(addresses),
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(machines),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(machine),
            }
        processes.append(start(workdir, epochs, [name], **settings))
    return processes


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """The result of two epochs on one device, with TensorFlow."""
    return train_small(tmp_path_factory.mktemp("one"), 2)


def assert_weights_close(result, expected):
    for weight, expected_weight in zip(
        result["weights"], expected["weights"], strict=True
    ):
        # The order of summation over a mini-batch differs.
        np.testing.assert_allclose(weight, expected_weight, rtol=1e-4, atol=2e-6)


def check_two_machines(folder, name, expected):
    results = wait_for_results(start_cluster(folder, 2, name))
    assert [result["replicas"] for result in (*results, expected)] == [2, 2, 1]
    assert results[0]["weights"] == results[1]["weights"]
    assert_weights_close(results[0], expected)
    np.testing.assert_allclose(
        results[0]["history"]["loss"], expected["history"]["loss"], rtol=1e-4
    )
    names = {path.name for path in folder.iterdir()}
    assert names == {"bn-convnet.keras", "bn-convnet.csv", "bn-convnet.json"}
    return results[0]["history"]


def test_two_machines_train_as_one_does_on_the_joint_batch(tmp_path, on_one_device):
    history = check_two_machines(tmp_path, "multi_worker", on_one_device)
    # Each machine has all test examples.
    np.testing.assert_allclose(
        history["val_accuracy"], on_one_device["history"]["val_accuracy"]
    )


@pytest.mark.slow
def test_two_machines_train_as_one_does_on_jax(tmp_path):
    (expected,) = wait_for_results([start(tmp_path / "one", 2, KERAS_BACKEND="jax")])
    (tmp_path / "two").mkdir()
    check_two_machines(tmp_path / "two", "data_parallel", expected)


def test_two_replicas_on_one_machine_train_as_one_does(tmp_path, on_one_device):
    process = start(tmp_path, 2, ["mirrored"], LOGICAL_DEVICES="2")
    (result,) = wait_for_results([process])
    assert (result["replicas"], on_one_device["replicas"]) == (2, 1)
    assert_weights_close(result, on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi_worker", "data_parallel"])
def test_two_machines_resume_after_a_kill(tmp_path, name):
    expected = wait_for_results(start_cluster(tmp_path / "uninterrupted", 30, name))
    processes = start_cluster(tmp_path / "killed", 30, name)
    checkpoints = tmp_path / "killed" / "bn-convnet.checkpoints"
    while len(list(checkpoints.glob("step-*"))) < 2:
        assert processes[0][0].poll() is None
    stop(processes)
    resumed = wait_for_results(start_cluster(tmp_path / "killed", 30, name))
    assert resumed[0]["weights"] == expected[0]["weights"]
