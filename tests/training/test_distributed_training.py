"""Several processes on loopback train as one process on the joint batch."""

import json
import os
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from paths import SUPPORT

PROGRAM = SUPPORT / "train_on_machines.py"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(workdir, epochs, distribution=(), **environment):
    workdir.mkdir(exist_ok=True)
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`stop` closes it)
    process = subprocess.Popen(
        [sys.executable, PROGRAM, workdir, str(epochs), *distribution],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        # Not pipes: the processes wait for one another, and a full pipe for its reader.
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    return process, output


def results(processes):
    found = []
    try:
        for process, output in processes:
            process.wait(timeout=120)
            output.seek(0)
            text = output.read()
            assert process.returncode == 0, text[-3000:]
            found.append(json.loads(text.splitlines()[-1]))
    finally:
        stop(processes)
    return found


def stop(processes):
    for process, output in processes:
        process.kill()
        process.wait()
        output.close()


def cluster(workdir, epochs, name, machines=2):
    """Start `machines` processes of one training."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(machines)]
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
        yield start(workdir, epochs, [name], **settings)


def assert_alike(one, other):
    for mine, its in zip(one["weights"], other["weights"], strict=True):
        # The sums over a batch are made in another order.
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "backend"), [("multi_worker", "tensorflow"), ("data_parallel", "jax")]
)
def test_two_machines_train_as_one_does_on_the_joint_batch(tmp_path, name, backend):
    pair = results(list(cluster(tmp_path / "two", 2, name)))
    (single,) = results([start(tmp_path / "one", 2, KERAS_BACKEND=backend)])
    assert [found["replicas"] for found in (*pair, single)] == [2, 2, 1]
    assert pair[0]["weights"] == pair[1]["weights"]
    assert_alike(pair[0], single)
    np.testing.assert_allclose(
        pair[0]["history"]["loss"], single["history"]["loss"], rtol=1e-4
    )
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {"bn-convnet.keras", "bn-convnet.csv", "bn-convnet.json"}
    if name == "multi_worker":  # each has all test examples
        np.testing.assert_allclose(
            pair[0]["history"]["val_accuracy"], single["history"]["val_accuracy"]
        )


def test_two_replicas_on_one_machine_train_as_one_does(tmp_path):
    (double,) = results([start(tmp_path / "two", 2, ["mirrored"], LOGICAL_DEVICES="2")])
    (single,) = results([start(tmp_path / "one", 2)])
    assert (double["replicas"], single["replicas"]) == (2, 1)
    assert_alike(double, single)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi_worker", "data_parallel"])
def test_two_machines_resume_after_a_kill(tmp_path, name):
    whole = results(list(cluster(tmp_path / "whole", 30, name)))
    processes = list(cluster(tmp_path / "killed", 30, name))
    checkpoints = tmp_path / "killed" / "bn-convnet.checkpoints"
    while len(list(checkpoints.glob("step-*"))) < 2:
        assert processes[0][0].poll() is None
    stop(processes)
    resumed = results(list(cluster(tmp_path / "killed", 30, name)))
    assert whole[0]["weights"] == resumed[0]["weights"]
