"""Which calls the clients repeat, and for how long."""

import asyncio
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from client_servers import ScriptedServer, serve

from bn_keras_serving import PredictionClient
from bn_keras_serving.client.aio import AsyncPredictionClient

DOWN = (grpc.StatusCode.UNAVAILABLE, "down")


@pytest.fixture
def scripted():
    return ScriptedServer()


@pytest.fixture
def address(scripted):
    with serve(scripted) as address:
        yield address


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def pauses(scripted):
    """Seconds between the calls that have arrived."""
    return np.diff(scripted.arrivals)


def test_a_call_is_repeated_while_the_server_is_unavailable(scripted, address):
    scripted.refusals = [DOWN, DOWN, DOWN]
    with PredictionClient(address, "m") as client:
        assert client.status() == [(3, "AVAILABLE", "")]
    # Proposal A6 of gRPC: 0.1 s, growing by 2.5, each times a factor in 0.8 to 1.2.
    expected = [0.1, 0.25, 0.625]
    assert len(pauses(scripted)) == 3
    for pause, mean in zip(pauses(scripted), expected, strict=True):
        # A busy machine can wake a process late.
        assert 0.8 * mean - 0.02 < pause < 1.2 * mean + 0.5


def test_pauses_are_random(scripted, address):
    scripted.refusals = [DOWN, None] * 6
    with PredictionClient(address, "m") as client:
        for _ in range(6):
            client.status()
    first = pauses(scripted)[::2]
    assert max(first) - min(first) > 0.002


@pytest.mark.slow  # 2.5 s of pauses
def test_after_five_attempts_the_servers_error_is_raised(scripted, address):
    scripted.refusals = [DOWN] * 9
    with (
        PredictionClient(address, "m") as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.status()
    assert (raised.value.code(), raised.value.details()) == DOWN
    assert len(scripted.requests) == 5


@pytest.mark.fast
@pytest.mark.parametrize(
    "name",
    ["NOT_FOUND", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED", "UNKNOWN", "CANCELLED"],
)
def test_calls_that_fail_with_other_errors_are_not_repeated(scripted, address, name):
    scripted.refusals = [(grpc.StatusCode[name], "no")]
    with (
        PredictionClient(address, "m") as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.predict(np.ones((1, 4), np.float32))
    assert raised.value.code().name == name
    assert len(scripted.requests) == 1


def test_the_number_of_retries_can_be_chosen(scripted, address):
    for retries in (0, 1):
        scripted.refusals, scripted.requests = [DOWN] * 9, []
        with (
            PredictionClient(address, "m", retries=retries) as client,
            pytest.raises(grpc.RpcError),
        ):
            client.status()
        assert len(scripted.requests) == retries + 1


def test_a_large_request_is_repeated_too(scripted, address):
    # By default gRPC silently does not retry requests above 256 KiB.
    scripted.refusals = [DOWN, DOWN]
    images = np.ones((8 * 224 * 224 * 3 // 4, 4), np.float32)
    with PredictionClient(address, "m") as client:
        assert client.predict(images)["y"].shape == images.shape
    assert len(scripted.requests) == 3


def test_the_timeout_bounds_all_attempts_together(scripted, address):
    scripted.refusals = [DOWN] * 9
    with PredictionClient(address, "m", timeout=0.25) as client:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            client.status()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.2 < time.monotonic() - began < 5  # a loaded machine is slow


def test_the_look_up_and_the_prediction_share_the_timeout(scripted, address):
    scripted.look_up_delay = 0.4
    with PredictionClient(address, "m", timeout=5.0) as client:
        client.predict(np.ones((1, 4), np.float32))
    (remaining,) = scripted.remaining
    assert remaining < 5 - 0.3  # gRPC rounds deadlines up by as much as 0.1 s


def start_later(scripted, port, seconds):
    """Serve after a while, until the returned function is called."""
    stopped = threading.Event()

    def run():
        time.sleep(seconds)
        with serve(scripted, f"127.0.0.1:{port}"):
            stopped.wait(30)

    thread = threading.Thread(target=run)
    thread.start()
    return lambda: (stopped.set(), thread.join())


@pytest.mark.parametrize("wait", [False, True])
def test_a_server_that_starts_later_is_reached(scripted, free_port, wait):
    stop = start_later(scripted, free_port, 0.4)
    try:
        with PredictionClient(
            f"127.0.0.1:{free_port}", "m", wait_for_ready=wait
        ) as client:
            assert client.status() == [(3, "AVAILABLE", "")]
    finally:
        stop()


def test_waiting_for_a_server_ends_at_the_timeout(free_port):
    with (
        PredictionClient(
            f"127.0.0.1:{free_port}", "m", 0.3, wait_for_ready=True
        ) as client,
        pytest.raises(grpc.RpcError) as raised,
    ):
        client.status()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_reconnects_to_a_restarted_server(scripted, free_port):
    address = f"127.0.0.1:{free_port}"
    with PredictionClient(address, "m") as client:
        for _ in range(2):
            with serve(scripted, address):
                assert client.status() == [(3, "AVAILABLE", "")]


def test_the_asyncio_client_repeats_calls_in_the_same_way(scripted, address):
    async def ask_status(**options):
        async with AsyncPredictionClient(address, "m", **options) as client:
            return await client.status()

    scripted.refusals = [DOWN, DOWN]
    assert asyncio.run(ask_status()) == [(3, "AVAILABLE", "")]
    assert len(scripted.requests) == 3
    scripted.refusals, scripted.requests = [DOWN] * 9, []
    with pytest.raises(grpc.RpcError) as raised:
        asyncio.run(ask_status(timeout=0.25))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(scripted.requests) < 4
