"""The one road of a request: its turn, and what it waits for."""

import time
from concurrent import futures

import pytest
from serving_models import ROWS, Model, request_of, write

from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.configuration import single_model
from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import StatusError
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.servable.servable import Servable


@pytest.fixture
def dispatcher(tmp_path):
    write(Model(2), tmp_path, 1)
    models = ModelRegistry(
        single_model("multiply", str(tmp_path)), lambda _, *found: Servable(*found)
    )
    with models:
        yield Dispatcher(models, Metrics(models.names), parallel_runs=1)


def test_a_request_without_a_deadline_waits_for_its_turn(dispatcher, held):
    begun, opened = held
    with futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(dispatcher.answer, "Predict", request_of())
        assert begun.acquire(timeout=20)
        second = pool.submit(dispatcher.answer, "Predict", request_of())
        assert not begun.acquire(timeout=0.3)
        opened.set()
        for one in (first, second):
            answer = one.result(20).outputs["y"].float_val
            assert list(answer) == (2 * ROWS).ravel().tolist()


def test_a_deadline_ends_the_wait_for_a_turn(dispatcher, held):
    begun, opened = held
    with futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(dispatcher.answer, "Predict", request_of())
        assert begun.acquire(timeout=20)
        start = time.monotonic()
        with pytest.raises(StatusError, match="deadline passed") as raised:
            dispatcher.answer("Predict", request_of(), Deadline(0.2))
        assert raised.value.code.name == "DEADLINE_EXCEEDED"
        assert 0.15 < time.monotonic() - start < 10
        opened.set()
        assert first.result(20).outputs["y"]


def test_it_is_drained_when_the_last_model_has_run(dispatcher, held):
    begun, opened = held
    with futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(dispatcher.answer, "Predict", request_of())
        assert begun.acquire(timeout=20)
        assert not dispatcher.drain(0.2)
        opened.set()
        assert first.result(20).outputs["y"]
    assert dispatcher.drain(5)
