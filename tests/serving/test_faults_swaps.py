"""Versions that are swapped, one after the other, while clients ask."""

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
# Stands in the saved graph for the number of the version.
MARK = struct.pack("<f", 12345.678)


class Numbered(tf.Module):
    """Answers the number of its version, beside what it was sent."""

    def __init__(self):
        super().__init__()
        (number,) = struct.unpack("<f", MARK)
        self.served = {
            "serving_default": function(
                lambda x: {"number": tf.constant(number) + 0 * x, "sent": x},
                x=([None], tf.float32),
            )
        }


@pytest.fixture(scope="module")
def mold(tmp_path_factory):
    """A version saved once, of which all others are made."""
    path = write(Numbered(), tmp_path_factory.mktemp("mold"), 1)
    assert MARK in (path / "saved_model.pb").read_bytes()
    return path


def publish(mold, directory, version):
    beside = directory / "unfinished"
    shutil.copytree(mold, beside)
    graph = beside / "saved_model.pb"
    number = struct.pack("<f", version)
    graph.write_bytes(graph.read_bytes().replace(MARK, number))
    beside.rename(directory / str(version))


class Askers:
    """Clients that ask without end, and compare what they are told."""

    def __init__(self, served):
        self.answers = collections.Counter()  # by version
        self.failed = []
        self.mixed_up = []
        self._served = served
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(one,)) for one in range(CLIENTS)
        ]

    def __enter__(self):
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for one in self._threads:
            one.join(120)

    def _ask(self, client):
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
                told = list(answer.outputs["sent"].float_val)
                if list(numbers) != [version] * 2 or told != [client, sent]:
                    self.mixed_up.append((version, numbers, told))
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
def test_no_answer_fails_or_is_mixed_up_while_versions_swap(
    mold, tmp_path, swaps, batching
):
    directory = tmp_path / "numbered"
    directory.mkdir()
    publish(mold, directory, 1)
    memory = []
    with (
        ServedProcess(
            tmp_path / "log",
            directory=directory,
            poll_seconds=0.01,
            batching=batching,
        ) as served,
        Askers(served) as askers,
    ):
        began = time.monotonic()
        for version in range(2, swaps + 2):
            publish(mold, directory, version)
            wait_until(lambda version=version: askers.answers[version])
            shutil.rmtree(directory / str(version - 1))
            if version % max(1, swaps // 20) == 0:
                memory.append(served.memory() >> 20)
        seconds = time.monotonic() - began
        descriptors = served.descriptors()
        assert served.exit_status() is None
    asked = sum(askers.answers.values())
    print(f"{swaps} swaps, {asked} answers, {seconds:.0f} s, {memory} MiB")  # noqa: T201
    assert askers.failed == []
    assert askers.mixed_up == []
    assert set(askers.answers) == set(range(1, swaps + 2))
    assert descriptors < 300
    # With batching, TensorFlow keeps the queues of all versions: 0.12 MiB for each.
    kept = 0.2 * swaps if batching else 0.0
    assert memory[-1] - memory[0] < 32 + kept
