"""A server that cannot write its log."""

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
def directory(doubling, tmp_path):
    return shutil.copytree(doubling, tmp_path / "model")


@pytest.fixture(params=["full disk", "file of a bounded size"])
def served(request, directory):
    """A server whose log cannot be written at all, or beyond 4,096 bytes."""
    if request.param == "full disk":
        with (
            FULL.open("w") as full,
            pytest.raises(OSError, match=os.strerror(errno.ENOSPC)),
        ):
            os.write(full.fileno(), b"a line")
        options = {"log": FULL}
    else:
        options = {"log": directory.parent / "log", "file_bytes": BYTES}
    with ServedProcess(directory=directory, poll_seconds=0.01, **options) as process:
        yield process
        assert process.exit_status() is None
    assert process.exit_status() == 0, "the server must stop in order"
    if request.param != "full disk":
        assert options["log"].stat().st_size == BYTES


def test_the_server_answers_and_swaps_versions_while_its_disk_is_full(
    served, directory
):
    with served.predict() as predict:
        for number in range(60):
            # An empty version fails to load, which is logged.
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
                predict(request_of({"z": ROWS}, "model"), timeout=60)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            shutil.rmtree(directory / str(10 + number))
        write(Model(3), directory, 100)
        wait_until(lambda: served.states("model").get(100, ("",))[0] == "AVAILABLE")
        answer = predict(request_of(name="model"), timeout=60)
        assert answer.outputs["y"].float_val[1] == 3


def test_the_command_serves_although_its_output_cannot_be_written(directory):
    """On a full disk only the line with the address is lost."""
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
