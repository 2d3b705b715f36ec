"""A server in a process of its own, which may be flooded, starved and watched."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
from paths import ROOT
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

_HERE = Path(__file__).resolve()


class ServedProcess:
    """Starts `PredictionServer` in a child, and looks at that child from outside.

    Args:
        log: File of its standard error, appended to.
        batching: Keywords of `BatchingParameters`, or None.
        descriptors: Files and connections that it may have open, or None.
        file_bytes: Size that a file of its may reach, or None.
        environment: Variables of its beside those of this process, or None.
        settings: Keywords of `PredictionServer`, as JSON has them.
    """

    def __init__(
        self,
        log,
        *,
        batching=None,
        descriptors=None,
        file_bytes=None,
        environment=None,
        **settings,
    ):
        self.log = Path(log)
        options = {
            "batching": batching,
            "descriptors": descriptors,
            "file_bytes": file_bytes,
            "settings": {"port": 0, "rest_port": 0, "poll_seconds": 0.05, **settings},
        }
        with self.log.open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, str(_HERE), json.dumps(options, default=str)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self._process.pid
        told = self._process.stdout.readline()
        if not told:
            self.close()
            raise RuntimeError(f"the server did not start: {self.log.read_text()}")
        self.address, self.rest_address = json.loads(told)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the child: it stops in order when its input ends."""
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def exit_status(self):
        """Return None while it runs."""
        return self._process.poll()

    def memory(self):
        """Return its resident bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (kibibytes,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
        return 1024 * int(kibibytes)

    def descriptors(self):
        """Return how many files and connections it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @contextlib.contextmanager
    def channel(self):
        """Connect, sharing no connection with another channel."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        with grpc.insecure_channel(self.address, options=options) as channel:
            yield channel

    @contextlib.contextmanager
    def predict(self):
        """Connect, and lend the call Predict."""
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
            one.version: (name(one.state), one.status.error_message) for one in statuses
        }


def wait_until(happened, seconds=60.0):
    """Wait for something to become true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = happened()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} seconds: {happened}")


def _serve(options):
    import gc
    import logging
    import resource

    for limit, value in (
        (resource.RLIMIT_NOFILE, options["descriptors"]),
        (resource.RLIMIT_FSIZE, options["file_bytes"]),
    ):
        if value is not None:
            resource.setrlimit(limit, (value, value))
    from bn_keras_serving import PredictionServer
    from bn_keras_serving.configuration import BatchingParameters

    batching = options["batching"]
    if batching is not None:
        batching = BatchingParameters(**batching)
    logging.basicConfig(format="bn-keras: %(message)s", level=logging.INFO)
    gc.freeze()  # as `bn-keras serve` does
    with PredictionServer(batching=batching, **options["settings"]) as server:
        print(json.dumps([server.address, server.rest_address]), flush=True)  # noqa: T201
        sys.stdin.read()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
