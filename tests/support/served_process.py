"""A server in a process of its own, which tests can flood, starve and watch."""

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import resource
import time
from pathlib import Path

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

# Each process is forked from one that has imported TensorFlow but never run it: it
# starts in a fraction of the five seconds that the import takes.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["bn_keras_serving.server"])

# glibc's malloc.h.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


class ServedProcess:
    """A `PredictionServer` in a child process, which can be observed from outside.

    Args:
        log: File for its standard error, appended to.
        batching: Keyword arguments of `BatchingParameters`, or None.
        descriptors: Maximum number of open files and connections, or None.
        file_bytes: Maximum size of a file that it writes, or None.
        return_memory: Whether freed memory goes back to the system at once. By default
            glibc's malloc keeps hundreds of MiB of it, and gives it back 100 MiB at a
            time, which hides a leak.
        settings: Keyword arguments of `PredictionServer`.
    """

    def __init__(
        self,
        log,
        *,
        batching=None,
        descriptors=None,
        file_bytes=None,
        return_memory=False,
        **settings,
    ):
        self.log = Path(log)
        options = {
            "log": self.log,
            "batching": batching,
            "descriptors": descriptors,
            "file_bytes": file_bytes,
            "return_memory": return_memory,
            "settings": {"port": 0, "rest_port": 0, "poll_seconds": 0.05, **settings},
        }
        self._connection, connection = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(connection, options))
        self._process.start()
        connection.close()
        self.pid = self._process.pid
        try:
            self.address, self.rest_address = self._connection.recv()
        except EOFError:
            self.close()
            message = f"the server did not start: {self.log.read_text()}"
            raise RuntimeError(message) from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Stop the server, which shuts down in order when its connection closes."""
        self._connection.close()
        self._process.join(60)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def exit_status(self):
        """Return None while it runs."""
        return self._process.exitcode

    def memory(self):
        """Return its resident memory in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (kibibytes,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
        return 1024 * int(kibibytes)

    def descriptors(self):
        """Return the number of its open files and connections."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @contextlib.contextmanager
    def channel(self):
        """Connect without sharing a connection with another channel."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        with grpc.insecure_channel(self.address, options=options) as channel:
            yield channel

    @contextlib.contextmanager
    def predict(self):
        """Connect, and yield the method Predict."""
        with self.channel() as channel:
            yield prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict

    def states(self, model_name):
        """Return version to (state, error) of a model."""
        request = get_model_status_pb2.GetModelStatusRequest(
            model_spec={"name": model_name}
        )
        with self.channel() as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            statuses = stub.GetModelStatus(request, timeout=60).model_version_status
        name = get_model_status_pb2.ModelVersionStatus.State.Name
        return {
            status.version: (name(status.state), status.status.error_message)
            for status in statuses
        }


def run_in_process(function, *arguments):
    """Run a function of an importable module in a child process; return its result."""
    connection, child_connection = _processes.Pipe()
    process = _processes.Process(
        target=_run, args=(child_connection, function, arguments)
    )
    process.start()
    child_connection.close()
    try:
        return connection.recv()
    finally:
        connection.close()
        process.join(60)


@contextlib.contextmanager
def start_process(function, *arguments):
    """Run a function of an importable module beside the test, in a child process.

    Its last argument is one end of a connection; yield the process' number and the
    other end.
    """
    connection, child_connection = _processes.Pipe()
    process = _processes.Process(target=function, args=(*arguments, child_connection))
    process.start()
    child_connection.close()
    try:
        yield process.pid, connection
    finally:
        connection.close()
        process.join(60)


def wait_until(condition, seconds=60.0):
    """Wait until a function returns something true, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} seconds: {condition}")


def _run(connection, function, arguments):
    connection.send(function(*arguments))


def _serve(connection, options):
    with options["log"].open("ab") as log:
        os.dup2(log.fileno(), 2)
    for limit, value in (
        (resource.RLIMIT_NOFILE, options["descriptors"]),
        (resource.RLIMIT_FSIZE, options["file_bytes"]),
    ):
        if value is not None:
            resource.setrlimit(limit, (value, value))
    if options["return_memory"]:
        malloc = ctypes.CDLL(None)
        malloc.mallopt(_M_ARENA_MAX, 1)
        malloc.mallopt(_M_MMAP_THRESHOLD, 131072)
    from bn_keras_serving import PredictionServer
    from bn_keras_serving.configuration import BatchingParameters

    batching = options["batching"]
    if batching is not None:
        batching = BatchingParameters(**batching)
    logging.basicConfig(format="bn-keras: %(message)s", level=logging.INFO)
    gc.freeze()  # as `bn-keras serve` does
    with PredictionServer(batching=batching, **options["settings"]) as server:
        connection.send((server.address, server.rest_address))
        with contextlib.suppress(EOFError):
            connection.recv()
