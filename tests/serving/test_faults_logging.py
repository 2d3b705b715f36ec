"""A server that cannot write down what it has to say."""

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from paths import ROOT
from served_process import ServedProcess, wait_until
from serving_models import ROWS, Model, request_of, write

FULL = Path("/dev/full")
BYTES = 4096

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    write(Model(2), directory, 2)
    return directory


@pytest.fixture(params=["full disk", "file of a bounded size"])
def served(request, directory):
    """A server whose log takes nothing, or 4,096 bytes."""
    if request.param == "full disk":
        with (
            FULL.open("w") as full,
            pytest.raises(OSError, match=os.strerror(errno.ENOSPC)),
        ):
            os.write(full.fileno(), b"a line")
        options = {"log": FULL}
    else:
        options = {"log": directory.parent / "log", "file_bytes": BYTES}
    with ServedProcess(directory=directory, **options) as process:
        yield process
        assert process.exit_status() is None
    assert process.exit_status() == 0, "it stops in order, too"
    if request.param != "full disk":
        assert options["log"].stat().st_size == BYTES


def test_it_serves_and_swaps_while_its_disk_is_full(served, directory):
    with served.predict() as predict:
        for number in range(60):
            # Each of these versions fails to load, and that is logged.
            (directory / str(10 + number)).mkdir()
            wait_until(
                lambda version=10 + number: (
                    served.states("model").get(version, ("",))[0] != ""
                )
            )
            answer = predict(request_of(name="model"), timeout=60)
            np.testing.assert_array_equal(
                answer.outputs["y"].float_val, 2 * ROWS.ravel()
            )
            with pytest.raises(grpc.RpcError) as raised:
                predict(request_of({"x": ROWS[:, :2]}, "model"), timeout=60)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            shutil.rmtree(directory / str(10 + number))
        write(Model(3), directory, 100)
        wait_until(lambda: served.states("model").get(100, ("",))[0] == "AVAILABLE")
        answer = predict(request_of(name="model"), timeout=60)
        assert answer.outputs["y"].float_val[1] == 3


def test_the_command_serves_though_nobody_reads_what_it_prints(directory):
    """Its first line tells the address; on a full disk it is lost, no more."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with FULL.open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "bn_keras", "serve", directory, f"--port={port}"],
            cwd=ROOT,
            stdout=full,
            stderr=full,
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ready = grpc.channel_ready_future(channel)
            wait_until(lambda: ready.done() or process.poll() is not None)
            ready.cancel()
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0
