"""The dispatcher, deadlines, and the worker threads."""

import asyncio
import threading
import time

import pytest
from serving_models import ROWS, request_of
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import model_management_pb2

from bn_keras_serving.common.errors import DeadlineExceededError, ServerStoppingError
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.configuration import single_model
from bn_keras_serving.dispatch.deadline import UNLIMITED, Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import StatusError
from bn_keras_serving.dispatch.workers import Workers
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.servable.servable import Servable


@pytest.fixture(scope="module")
def models(doubling):
    def load(_, version, path):
        return Servable(version, path)

    with ModelRegistry(single_model("multiply", str(doubling)), load) as models:
        yield models


@pytest.fixture(scope="module")
def dispatcher(models):
    return Dispatcher(models, Metrics(models.names))


def test_arrays_are_answered_like_messages(dispatcher):
    spec = request_of().model_spec
    outputs = dispatcher.predict_arrays(spec, {"x": ROWS})
    assert outputs["y"].tolist() == (2 * ROWS).tolist()
    response = dispatcher.answer("Predict", request_of())
    assert list(response.outputs["y"].float_val) == outputs["y"].ravel().tolist()
    assert dispatcher.input_types(spec)["serving_default"] == {"x": types_pb2.DT_FLOAT}
    spec.name = "unknown"
    for call in (
        lambda: dispatcher.predict_arrays(spec, {}),
        lambda: dispatcher.input_types(spec),
    ):
        with pytest.raises(StatusError, match="Servable not found") as raised:
            call()
        assert raised.value.code.name == "NOT_FOUND"


def test_no_model_runs_after_the_deadline(dispatcher):
    deadline = Deadline(0.01)
    time.sleep(0.02)
    with pytest.raises(StatusError, match="deadline passed") as raised:
        dispatcher.answer("Predict", request_of(), deadline)
    assert raised.value.code.name == "DEADLINE_EXCEEDED"


def test_a_reload_can_be_forbidden(models):
    dispatcher = Dispatcher(models, Metrics(models.names), allow_reload=False)
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    with pytest.raises(StatusError, match="--allow_model_reload") as raised:
        dispatcher.answer("HandleReloadConfigRequest", request)
    assert raised.value.code.name == "PERMISSION_DENIED"
    assert models.names() == ["multiply"]


@pytest.mark.fast
def test_a_deadline_counts_down_and_then_raises():
    assert UNLIMITED.remaining() is None
    deadline = Deadline(0.05)
    assert 0 < deadline.remaining() <= 0.05
    assert not deadline.has_passed()
    time.sleep(0.06)
    assert deadline.has_passed()
    with pytest.raises(DeadlineExceededError, match="The deadline passed"):
        deadline.remaining()


@pytest.mark.fast
def test_a_deadline_raises_once_the_client_has_left():
    deadline = Deadline()
    assert deadline.remaining() is None
    deadline.cancel()
    with pytest.raises(DeadlineExceededError, match="or the client disconnected"):
        deadline.remaining()


@pytest.mark.fast
def test_workers_run_at_most_so_many_functions_at_a_time_and_all_of_them():
    workers, lock = Workers(3, "test"), threading.Lock()
    running, most = 0, 0

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return number

    async def run_all():
        calls = [
            workers.run(lambda number=number: work(number)) for number in range(60)
        ]
        return await asyncio.gather(*calls)

    assert asyncio.run(run_all()) == list(range(60))
    assert most == 3
    assert workers.stop(5)


@pytest.mark.fast
def test_workers_pass_errors_on_and_continue():
    workers = Workers(1, "test")

    async def run():
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0)
        return await workers.run(lambda: "next")

    assert asyncio.run(run()) == "next"
    assert workers.stop(5)


@pytest.mark.fast
def test_a_cancelled_call_that_waits_is_never_started():
    workers, blocked = Workers(1, "test"), threading.Event()
    started = []

    async def run():
        first = asyncio.ensure_future(workers.run(blocked.wait))
        second = asyncio.ensure_future(workers.run(lambda: started.append("second")))
        await asyncio.sleep(0.05)
        second.cancel()
        third = asyncio.ensure_future(workers.run(lambda: started.append("third")))
        await asyncio.sleep(0)
        blocked.set()
        await asyncio.gather(first, third)
        assert second.cancelled()

    asyncio.run(run())
    assert started == ["third"]
    assert workers.stop(5)


@pytest.mark.fast
def test_stopped_workers_finish_what_they_accepted_and_accept_no_more():
    workers, blocked = Workers(1, "test"), threading.Event()

    async def run():
        accepted = asyncio.ensure_future(workers.run(lambda: blocked.wait() and "done"))
        await asyncio.sleep(0.05)
        assert not workers.stop(0.05)
        with pytest.raises(ServerStoppingError):
            await workers.run(lambda: None)
        blocked.set()
        return await accepted

    assert asyncio.run(run()) == "done"
    assert workers.stop(5)
