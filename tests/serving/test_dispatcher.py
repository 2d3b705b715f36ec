"""The dispatcher: how many models run at a time, and how long a request waits."""

import time
from concurrent import futures

import pytest
from serving_models import ROWS, request_of

from bn_keras_serving.common.errors import DeadlineExceededError
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.configuration import single_model
from bn_keras_serving.dispatch.deadline import UNLIMITED, Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import StatusError
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.servable.servable import Servable


@pytest.fixture(scope="module")
def dispatcher(doubling):
    def load(_, version, path):
        return Servable(version, path)

    with ModelRegistry(single_model("multiply", str(doubling)), load) as models:
        yield Dispatcher(models, Metrics(models.names), parallel_runs=1)


def test_a_request_without_a_deadline_waits_until_its_model_may_run(dispatcher, gate):
    with futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(dispatcher.answer, "Predict", request_of())
        gate.wait_for(1)
        second = pool.submit(dispatcher.answer, "Predict", request_of())
        assert not gate.has_arrival(seconds=0.3)
        gate.open()
        for call in (first, second):
            values = call.result(20).outputs["y"].float_val
            assert list(values) == (2 * ROWS).ravel().tolist()


def test_a_request_stops_waiting_at_its_deadline(dispatcher, gate):
    with futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(dispatcher.answer, "Predict", request_of())
        gate.wait_for(1)
        start = time.monotonic()
        with pytest.raises(StatusError, match="deadline passed") as raised:
            dispatcher.answer("Predict", request_of(), Deadline(0.2))
        assert raised.value.code.name == "DEADLINE_EXCEEDED"
        assert 0.15 < time.monotonic() - start < 10
        gate.open()
        assert first.result(20).outputs["y"]


def test_the_dispatcher_is_drained_when_the_last_model_has_run(dispatcher, gate):
    with futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(dispatcher.answer, "Predict", request_of())
        gate.wait_for(1)
        assert not dispatcher.drain(0.2)
        gate.open()
        assert first.result(20).outputs["y"]
    assert dispatcher.drain(5)


@pytest.mark.fast
def test_a_deadline_counts_down_and_then_raises():
    assert UNLIMITED.remaining() is None
    deadline = Deadline(0.05)
    assert 0 < deadline.remaining() <= 0.05
    time.sleep(0.06)
    with pytest.raises(DeadlineExceededError, match="The deadline passed"):
        deadline.remaining()


@pytest.mark.fast
def test_a_deadline_raises_once_the_client_has_left():
    waiting = [True, False]
    deadline = Deadline(client_is_waiting=lambda: waiting.pop(0))
    assert deadline.remaining() is None
    with pytest.raises(DeadlineExceededError, match="or the client disconnected"):
        deadline.remaining()
