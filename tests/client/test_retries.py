"""When the clients repeat a call, and for how long."""

import asyncio
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from client_servers import Told, serving

from bn_keras_serving import PredictionClient
from bn_keras_serving.client.aio import AsyncPredictionClient

DOWN = (grpc.StatusCode.UNAVAILABLE, "down")


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def address(told):
    with serving(told) as address:
        yield address


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def pauses(told):
    return np.diff(told.times)


def test_a_call_is_repeated_while_the_server_is_unavailable(told, address):
    told.refusals = [DOWN, DOWN, DOWN]
    with PredictionClient(address, "m") as client:
        assert client.status() == [(3, "AVAILABLE", "")]
    # gRPC's proposal A6: 0.1 s, growing by 2.5, each times a factor in 0.8 to 1.2.
    expected = [0.1, 0.25, 0.625]
    assert len(pauses(told)) == 3
    for pause, mean in zip(pauses(told), expected, strict=True):
        assert 0.8 * mean - 0.02 < pause < 1.2 * mean + 0.2


def test_pauses_are_random(told, address):
    told.refusals = [DOWN, None] * 6
    with PredictionClient(address, "m") as client:
        for _ in range(6):
            client.status()
    first = pauses(told)[::2]
    assert max(first) - min(first) > 0.002


def test_after_five_attempts_the_error_is_the_servers(told, address):
    told.refusals = [DOWN] * 9
    with (
        PredictionClient(address, "m") as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.status()
    assert (raised.value.code(), raised.value.details()) == DOWN
    assert len(told.requests) == 5


@pytest.mark.parametrize(
    "name",
    ["NOT_FOUND", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED", "UNKNOWN", "CANCELLED"],
)
def test_no_other_error_is_repeated(told, address, name):
    told.refusals = [(grpc.StatusCode[name], "no")]
    with (
        PredictionClient(address, "m") as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.predict(np.ones((1, 4), np.float32))
    assert raised.value.code().name == name
    assert len(told.requests) == 1


def test_fewer_retries_or_none_at_all(told, address):
    for retries in (0, 1):
        told.refusals, told.requests = [DOWN] * 9, []
        with (
            PredictionClient(address, "m", retries=retries) as client,
            pytest.raises(grpc.RpcError),
        ):
            client.status()
        assert len(told.requests) == retries + 1


@pytest.mark.parametrize("retries", [-1, 5])
def test_grpc_allows_no_more_than_four_retries(retries):
    with pytest.raises(ValueError, match=rf"from 0 to 4\. Received: retries={retries}"):
        PredictionClient("127.0.0.1:1", "m", retries=retries)


def test_a_request_of_many_images_is_repeated_too(told, address):
    # Above 256 KiB gRPC silently retries nothing, unless told otherwise.
    told.refusals = [DOWN, DOWN]
    images = np.ones((8 * 224 * 224 * 3 // 4, 4), np.float32)
    with PredictionClient(address, "m") as client:
        assert client.predict(images)["y"].shape == images.shape
    assert len(told.requests) == 3


def test_the_timeout_bounds_all_attempts_together(told, address):
    told.refusals = [DOWN] * 9
    with PredictionClient(address, "m", timeout=0.25) as client:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            client.status()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.2 < time.monotonic() - began < 5  # a loaded machine is slow


def test_the_timeout_bounds_the_look_up_and_the_prediction_together(told, address):
    look_up = told.GetModelMetadata

    def slow(request, context):
        time.sleep(1.5)
        return look_up(request, context)

    told.GetModelMetadata, told.seconds = slow, 10
    with serving(told) as address, PredictionClient(address, "m", 2) as client:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            client.predict(np.ones((1, 4), np.float32))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 1.9 < time.monotonic() - began < 3.2  # each for itself: 3.5


def starts_late(told, port, seconds):
    """Serve from a while after now until the returned function is called."""
    over = threading.Event()

    def run():
        time.sleep(seconds)
        with serving(told, f"127.0.0.1:{port}"):
            over.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    return lambda: (over.set(), thread.join())


@pytest.mark.parametrize("wait", [False, True])
def test_a_server_that_starts_a_second_later_is_reached(told, free_port, wait):
    stop = starts_late(told, free_port, 1.0)
    try:
        with PredictionClient(
            f"127.0.0.1:{free_port}", "m", wait_for_ready=wait
        ) as client:
            assert client.status() == [(3, "AVAILABLE", "")]
    finally:
        stop()


def test_waiting_for_a_server_ends_with_the_timeout(free_port):
    with (
        PredictionClient(f"127.0.0.1:{free_port}", "m", 0.3, wait_for_ready=True) as it,
        pytest.raises(grpc.RpcError) as raised,
    ):
        it.status()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_outlives_its_server(told, free_port):
    address = f"127.0.0.1:{free_port}"
    with PredictionClient(address, "m") as client:
        for _ in range(2):
            with serving(told, address):
                assert client.status() == [(3, "AVAILABLE", "")]


def test_the_asyncio_client_repeats_and_gives_up_alike(told, address):
    async def ask(**options):
        async with AsyncPredictionClient(address, "m", **options) as client:
            return await client.status()

    told.refusals = [DOWN, DOWN]
    assert asyncio.run(ask()) == [(3, "AVAILABLE", "")]
    assert len(told.requests) == 3
    told.refusals, told.requests = [DOWN] * 9, []
    with pytest.raises(grpc.RpcError) as raised:
        asyncio.run(ask(timeout=0.25))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(told.requests) < 4
