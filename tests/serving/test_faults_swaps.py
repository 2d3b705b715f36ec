"""Versions that replace one another while clients send requests."""

import collections
import shutil
import struct
import threading
import time

import grpc
import pytest
import tensorflow as tf
from served_process import ServedProcess, wait_until
from serving_models import function, request_of, write

CLIENTS = 8
BATCHING = {"max_batch_size": 4, "batch_timeout_micros": 500}
# A placeholder in the saved graph for the number of the version.
PLACEHOLDER = struct.pack("<f", 12345.678)


class Numbered(tf.Module):
    """Outputs the number of its version, and its input."""

    def __init__(self):
        super().__init__()
        (number,) = struct.unpack("<f", PLACEHOLDER)
        self.served = {
            "serving_default": function(
                lambda x: {"number": tf.constant(number) + 0 * x, "sent": x},
                x=([None], tf.float32),
            )
        }


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A version that is saved once; all others are edited copies."""
    path = write(Numbered(), tmp_path_factory.mktemp("template"), 1)
    assert PLACEHOLDER in (path / "saved_model.pb").read_bytes()
    return path


def publish(template, directory, version):
    unfinished = directory / "unfinished"
    shutil.copytree(template, unfinished)
    graph = unfinished / "saved_model.pb"
    number = struct.pack("<f", version)
    graph.write_bytes(graph.read_bytes().replace(PLACEHOLDER, number))
    unfinished.rename(directory / str(version))


class Clients:
    """Clients that send requests until they are stopped, and check the answers."""

    def __init__(self, served):
        self.answers = collections.Counter()  # by version
        self.failed = []
        self.mixed_up = []
        self._served = served
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,))
            for number in range(CLIENTS)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self, client):
        sent, last = 0, 0
        with self._served.predict() as predict:
            while not self._stop.is_set():
                sent = (sent + 1) % 2**15
                values = tf.constant([client, sent], tf.float32).numpy()
                try:
                    answer = predict(request_of({"x": values}, "numbered"), timeout=60)
                except grpc.RpcError as error:
                    self.failed.append((error.code(), error.details()))
                    continue
                version = answer.model_spec.version.value
                numbers = answer.outputs["number"].float_val
                returned = list(answer.outputs["sent"].float_val)
                if list(numbers) != [version] * 2 or returned != [client, sent]:
                    self.mixed_up.append((version, numbers, returned))
                if version < last:
                    self.mixed_up.append((version, "after", last))
                self.answers[version] += 1
                last = version
                time.sleep(0.002)


@pytest.mark.parametrize(
    ("swaps", "batching"),
    [
        (10, None),
        (10, BATCHING),
        pytest.param(1000, None, marks=pytest.mark.slow),
        pytest.param(200, BATCHING, marks=pytest.mark.slow),
    ],
)
def test_every_request_gets_its_own_answer_while_versions_swap(
    template, tmp_path, swaps, batching
):
    directory = tmp_path / "numbered"
    directory.mkdir()
    publish(template, directory, 1)
    memory = []
    with (
        ServedProcess(
            tmp_path / "log",
            directory=directory,
            poll_seconds=0.01,
            batching=batching,
        ) as served,
        Clients(served) as clients,
    ):
        start = time.monotonic()
        for version in range(2, swaps + 2):
            publish(template, directory, version)
            wait_until(lambda version=version: clients.answers[version])
            shutil.rmtree(directory / str(version - 1))
            if version % max(1, swaps // 20) == 0:
                memory.append(served.memory() >> 20)
        seconds = time.monotonic() - start
        descriptors = served.descriptors()
        assert served.exit_status() is None
    answers = sum(clients.answers.values())
    print(f"{swaps} swaps, {answers} answers, {seconds:.0f} s, {memory} MiB")  # noqa: T201
    assert clients.failed == []
    assert clients.mixed_up == []
    assert set(clients.answers) == set(range(1, swaps + 2))
    assert descriptors < 300
    # With batching, TensorFlow never frees the queue of a version: 0.12 MiB each.
    queues = 0.2 * swaps if batching else 0.0
    assert memory[-1] - memory[0] < 32 + queues
