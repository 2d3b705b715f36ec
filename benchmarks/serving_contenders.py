"""The programs under test as a client sees them, each in its own processes."""

import base64
import copy
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np

from benchmarks.serving_load import Load, closed_loop, open_loop
from benchmarks.serving_processes import READY
from benchmarks.serving_requests import TEXT, TINY

ROOT = Path(__file__).parents[1]
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


class Contender:
    """A program that reports when it is ready, and exits with its standard input.

    Args:
        name: Name of the program in results.
        command: Arguments after `python -m`.
        folder: Folder of the models, and of the program's log.
        python: Interpreter to use. Defaults to this one.

    Attributes:
        facts: What the program reported about itself, such as its address.
    """

    def __init__(self, name, command, folder, python=sys.executable):
        self.name = name
        self.started = time.perf_counter()
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        self.facts = self._read_facts()

    def ask(self, question):
        """Send a line of JSON, and return the facts of the line that answers it."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._read_facts()

    def _read_facts(self):
        for line in self.process.stdout or ():
            if line.startswith(READY):
                return json.loads(line.removeprefix(READY))
        raise RuntimeError(f"{self.name} has exited:\n{self.log.read_text()[-3000:]}")

    def processes(self):
        """Return the numbers of its process and of that process's descendants."""
        parents = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:  # it has just exited
                continue
            parents[int(status.parent.name)] = int(fields[1])
        family = [self.process.pid]
        for member in family:  # grows meanwhile
            family += [child for child, parent in parents.items() if parent == member]
        return family

    def memory(self):
        """Return the resident megabytes; pages that its processes share count once."""
        kibibytes = 0
        for process in self.processes():
            try:
                text = Path(f"/proc/{process}/smaps_rollup").read_text()
            except OSError:
                continue
            kibibytes += int(text.partition("\nPss:")[2].split()[0])
        return kibibytes * 1024 / 1e6

    def close(self):
        """End the program."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


class Direct:
    """Direct calls of the signatures, in a process without a server.

    Attributes:
        pause: Seconds before each call.
    """

    def __init__(self, folder):
        command = ["benchmarks.serving_processes", "direct", folder]
        self.contender = Contender("direct", command, folder)
        self.pause = 0.0

    def with_pauses(self, seconds):
        """Return the same process, called with pauses."""
        paused = copy.copy(self)
        paused.pause = seconds
        return paused

    def closed_loop(self, case, concurrency, seconds, minimum=1):
        """Call as `serving_load.closed_loop` does."""
        settings = [case, concurrency, seconds, minimum, self.pause]
        return Load(**self.contender.ask(settings))

    def close(self):
        """End the process."""
        self.contender.close()


class Served:
    """A server on loopback, called with requests that were serialized beforehand.

    Args:
        contender: The program. It reports its `address`, `method`, `form` (of the
            files of requests) and `metadata`.
        folder: Folder of the requests.
    """

    def __init__(self, contender, folder):
        self.contender = contender
        self.facts = contender.facts
        self._folder = folder / "requests"
        self.channel = grpc.insecure_channel(self.facts["address"], UNLIMITED)
        grpc.channel_ready_future(self.channel).result(60)
        self._send = self.channel.unary_unary(self.facts["method"])
        self._metadata = tuple(self.facts.get("metadata", {}).items())
        self.check(TINY)
        self.seconds_to_first_answer = time.perf_counter() - contender.started

    def request(self, case):
        """Return the bytes of a request."""
        return (self._folder / f"{case}.{self.facts['form']}").read_bytes()

    def call(self, case):
        """Return a function that calls once and returns the bytes of the answer."""
        request = self.request(case)
        return lambda: self._send(request, timeout=120, metadata=self._metadata)

    def closed_loop(self, case, concurrency, seconds, minimum=1):
        """Call as `serving_load.closed_loop` does."""
        return closed_loop(self.call(case), concurrency, seconds, minimum)

    def open_loop(self, case, arrivals, concurrency):
        """Call as `serving_load.open_loop` does."""
        return open_loop(self.call(case), arrivals, concurrency)

    def check(self, case):
        """Raise AssertionError unless the answer equals that of the direct call."""
        expected = np.load(self._folder / f"{case}.answer.npy")
        answer = self.call(case)()
        if self.facts["form"] == "predict":
            from tensorflow_serving.apis import predict_pb2

            (proto,) = predict_pb2.PredictResponse.FromString(answer).outputs.values()
            values = np.array(proto.float_val, np.float32)
            if proto.tensor_content:
                values = np.frombuffer(proto.tensor_content, np.float32)
        else:  # the values are the last field of the message
            values = np.frombuffer(answer[-expected.nbytes :], np.float32)
        np.testing.assert_allclose(
            values, expected.ravel(), rtol=1e-3, atol=1e-6, err_msg=self.contender.name
        )

    def close(self):
        """Close the connection, and end the server."""
        self.channel.close()
        self.contender.close()


class Rest:
    """The HTTP port of a server, with one connection for each thread."""

    def __init__(self, served, folder):
        self._address = served.facts["rest"]
        self._folder = folder / "requests"
        self._local = threading.local()

    def call(self, case):
        """Return a function that calls once and returns the bytes of the answer."""
        with np.load(self._folder / f"{case}.npz") as arrays:
            (array,) = arrays.values()
        rows = array.tolist()
        if case is TEXT:
            rows = [{"b64": base64.b64encode(row).decode()} for row in rows]
        body = {"signature_name": case.signature, "instances": rows}
        text = json.dumps(body)
        return lambda: self._post(case, text)

    def _post(self, case, body):
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(
                self._address, timeout=120
            )
        connection = self._local.connection
        connection.request("POST", f"/v1/models/{case.model}:predict", body)
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {text.decode()}")
        return text

    def closed_loop(self, case, concurrency, seconds, minimum=1):
        """Call as `serving_load.closed_loop` does."""
        return closed_loop(self.call(case), concurrency, seconds, minimum)
