"""The client for event loops, compared with the synchronous one."""

import asyncio
import contextlib
import functools
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from client_servers import ROWS_OF_FOUR, ScriptedServer, make_signature, serve
from serving_models import ROWS, Model, write

from bn_keras_serving import PredictionClient, PredictionServer
from bn_keras_serving.client.aio import AsyncPredictionClient

ANY = make_signature({"x": (tf.float32, None)})


def run_in_event_loop(test):
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(*arguments, **named):
        return asyncio.run(test(*arguments, **named))

    return run


@pytest.fixture
def scripted():
    scripted = ScriptedServer()
    scripted.signatures = {"serving_default": ANY}
    return scripted


@pytest.fixture
def address(scripted):
    with serve(scripted) as address:
        yield address


def test_both_clients_give_the_same_answers(tmp_path):
    write(Model(2), tmp_path, 5)
    pair = {"a": ROWS, "b": ROWS}

    async def ask(address):
        async with AsyncPredictionClient(address, "multiply") as client:
            return [
                await client.predict(ROWS.tolist()),
                await client.predict(pair, "pair", 5, ["sum"]),
                await client.metadata(5),
                await client.status(),
            ]

    with PredictionServer(tmp_path, "multiply", port=0) as server:
        answers = asyncio.run(ask(server.address))
        with PredictionClient(server.address, "multiply") as client:
            expected = [
                client.predict(ROWS.tolist()),
                client.predict(pair, "pair", 5, ["sum"]),
                client.metadata(5),
                client.status(),
            ]
    np.testing.assert_equal(answers, expected)
    np.testing.assert_array_equal(answers[0]["y"], 2 * ROWS)


@pytest.mark.fast
@run_in_event_loop
async def test_requests_run_concurrently(scripted, address):
    scripted.barrier = 20
    async with AsyncPredictionClient(address, "m") as client:
        answers = await asyncio.gather(*map(client.predict, range(20)))
    assert [answer["y"].tolist() for answer in answers] == list(range(20))


@pytest.mark.fast
@run_in_event_loop
async def test_examples_are_classified_and_regressed(scripted, address):
    inputs = {"inputs": (tf.string, [None])}
    scripted.signatures = {
        name: make_signature(inputs, method=name) for name in ("classify", "regress")
    }
    async with AsyncPredictionClient(address, "m") as client:
        labels, scores = await client.classify([{"a": 1}], "classify")
        values = await client.regress([{"a": 1}], "regress")
    assert (labels.tolist(), scores.tolist()) == ([["cat", "dog"]], [[0.5, 0.25]])
    assert values.tolist() == [0.5]


@run_in_event_loop
async def test_errors_are_those_of_the_synchronous_client(scripted, address):
    async with AsyncPredictionClient(address, "m") as client:
        with pytest.raises(ValueError, match="lists of different lengths"):
            await client.predict([[1], [2, 3]])
        scripted.refusals = [(grpc.StatusCode.NOT_FOUND, "gone")]
        with pytest.raises(grpc.RpcError) as raised:
            await client.predict(1)
        assert (raised.value.code(), raised.value.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "gone",
        )
    scripted.delay = 10
    async with AsyncPredictionClient(address, "m", timeout=0.2) as client:
        with pytest.raises(grpc.RpcError) as raised:
            await client.predict(1)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.fast
@run_in_event_loop
async def test_a_replaced_model_is_called_with_its_new_signature(scripted, address):
    async with AsyncPredictionClient(address, "m") as client:
        await client.predict(1)
        scripted.signatures = {"serving_default": ROWS_OF_FOUR}
        scripted.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, "no")]
        assert (await client.predict(ROWS))["y"].shape == (2, 4)


@pytest.mark.fast
def test_it_must_be_constructed_in_a_running_event_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncPredictionClient("127.0.0.1:1", "m")


async def asynchronous(items):
    for item in items:
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("source", [list, asynchronous])
@pytest.mark.parametrize(("batch_size", "in_flight"), [(None, 1), (None, 4), (3, 2)])
@run_in_event_loop
async def test_answers_come_in_order_and_a_limited_number_of_requests_is_open(
    scripted, address, source, batch_size, in_flight
):
    scripted.delay, scripted.barrier = 0.002, in_flight
    async with AsyncPredictionClient(address, "m") as client:
        answers = client.predict_many(
            source(range(20)), batch_size=batch_size, in_flight=in_flight
        )
        assert [answer["y"].tolist() async for answer in answers] == list(range(20))
    assert scripted.peak_open == in_flight
    assert len(scripted.requests) == (20 if batch_size is None else 7)
    assert len(scripted.look_ups) == 1


@pytest.mark.fast
@run_in_event_loop
async def test_a_wrong_item_is_named_after_the_answers_before_it(scripted, address):
    seen = []
    async with AsyncPredictionClient(address, "m") as client:
        with pytest.raises(ValueError, match="different lengths") as raised:  # noqa: PT012
            async for answer in client.predict_many([0, 1, [[1], [2, 3]], 4]):
                seen.append(answer["y"].tolist())
        assert raised.value.__notes__ == ["From item 2 (the first is 0)."]
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async for answer in client.predict_many(1 / x for x in (1, 0)):
                seen.append(answer["y"].tolist())
    assert seen == [0, 1, 1]


@pytest.mark.fast
@run_in_event_loop
async def test_leaving_early_cancels_the_open_requests(scripted, address):
    scripted.slow_from, scripted.barrier = 2, 4
    async with AsyncPredictionClient(address, "m") as client:
        async with contextlib.aclosing(
            client.predict_many(range(100), in_flight=4)
        ) as answers:
            await anext(answers)
            await anext(answers)
            while scripted.open < 2:
                await asyncio.sleep(0.01)
        until = time.monotonic() + 30
        while scripted.open and time.monotonic() < until:
            await asyncio.sleep(0.01)
        # The client leaves no task behind.
        assert [task.get_coro().__name__ for task in asyncio.all_tasks()] == [
            "test_leaving_early_cancels_the_open_requests"
        ]
    assert scripted.open == 0
    assert scripted.cancelled >= 2
    assert len(scripted.requests) < 10


@pytest.mark.fast
@run_in_event_loop
async def test_images_can_be_files(scripted, address, tmp_path):
    scripted.signatures["predict_encoded"] = make_signature(
        {"files": (tf.string, [None])}
    )
    contents = [b"\x89PNG\r\n\x1a\n" + bytes([index, 0]) for index in range(5)]
    paths = [tmp_path / str(index) for index in range(5)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    async with AsyncPredictionClient(address, "m") as client:
        assert (await client.predict_images(paths))["y"].tolist() == contents
        rows = client.predict_many_images(paths, batch_size=2)
        assert [row["y"].item() async for row in rows] == contents
