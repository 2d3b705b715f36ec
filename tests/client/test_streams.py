"""`predict_many`: order, limits, errors, leaving the loop early."""

import gc
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from client_servers import ScriptedServer, make_signature, serve

from bn_keras_serving import PredictionClient

ANY = make_signature({"x": (tf.float32, None)})


@pytest.fixture
def scripted():
    scripted = ScriptedServer()
    scripted.signatures = {"serving_default": ANY}
    return scripted


@pytest.fixture
def client(scripted):
    with serve(scripted) as address, PredictionClient(address, "m") as client:
        yield client


def numbers(answers):
    return [answer["y"].tolist() for answer in answers]


def wait_until(condition):
    until = time.monotonic() + 30  # a loaded machine may pause for seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_answers_come_in_order_even_if_later_requests_end_first(scripted, client):
    scripted.slow_from, scripted.slow_delay, scripted.barrier = 19, 0.3, 8
    items = list(range(20))[::-1]
    answers = client.predict_many(items)
    first = next(answers)
    assert len(scripted.requests) == 8
    assert numbers([first, *answers]) == items


@pytest.mark.parametrize("in_flight", [1, 3, 8])
def test_no_more_than_in_flight_requests_are_open_or_in_memory(
    scripted, client, in_flight
):
    scripted.delay, scripted.barrier = 0.005, in_flight
    taken = []

    def items():
        for index in range(20):
            taken.append(index)
            yield index

    for answered, _ in enumerate(client.predict_many(items(), in_flight=in_flight)):
        assert len(taken) <= answered + in_flight
    assert len(taken) == 20
    assert scripted.peak_open == in_flight


def test_a_slow_source_does_not_hold_back_answers(client):
    seen = []

    def items():
        yield 0
        yield 1
        for index in range(2, 5):
            time.sleep(0.1)
            # While no answer has arrived, items are taken one after another.
            assert index == 2 or len(seen) >= index - 1
            yield index

    for answer in client.predict_many(items()):
        seen.append(answer)
    assert len(seen) == 5


@pytest.mark.fast
def test_batches_are_sent_and_rows_come_back(scripted, client):
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    assert numbers(client.predict_many(rows, batch_size=4)) == rows.tolist()
    sizes = [one.inputs["x"].tensor_shape.dim[0].size for one in scripted.requests]
    assert sorted(sizes) == [2, 4, 4]  # the server's threads take them in any order
    assert list(client.predict_many([], batch_size=4)) == []
    (answer,) = client.predict_many([7], batch_size=4)
    assert answer["y"].shape == ()


@pytest.mark.fast
def test_batches_of_named_inputs(scripted, client):
    scripted.signatures = {
        "serving_default": make_signature(
            {"a": (tf.float32, [None]), "b": (tf.string, [None])}
        )
    }
    items = [{"a": index, "b": bytes([index, 0])} for index in range(5)]
    list(client.predict_many(items, batch_size=3, in_flight=1))
    first = scripted.requests[0].inputs
    assert tf.make_ndarray(first["a"]).tolist() == [0, 1, 2]
    assert list(first["b"].string_val) == [b"\x00\x00", b"\x01\x00", b"\x02\x00"]
    with pytest.raises(ValueError, match=r"same names\. .*\['a', 'b'\] for the first"):
        list(client.predict_many([items[0], {"a": 1}], batch_size=2))


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(), (1, 3), (4,)])
def test_an_output_without_a_row_for_each_item_is_an_error(scripted, client, shape):
    scripted.answer = tf.make_tensor_proto(np.zeros(shape))
    with pytest.raises(ValueError, match=r"y must have a row for each of the 3 items"):
        list(client.predict_many([1, 2, 3], batch_size=3))


@pytest.mark.fast
def test_the_signature_is_looked_up_once_for_all_items(scripted, client):
    list(client.predict_many(range(20)))
    assert len(scripted.look_ups) == 1


@pytest.mark.fast
def test_a_model_replaced_meanwhile_is_called_with_its_new_signature(scripted, client):
    answers = client.predict_many([[1], [2], [3]], in_flight=1)
    assert next(answers)["y"].dtype == np.float32
    scripted.signatures = {"serving_default": make_signature({"z": (tf.float64, None)})}
    scripted.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, "no x")]
    assert [one["y"].dtype for one in answers] == [np.float64] * 2


@pytest.mark.fast
def test_a_wrong_item_is_named_after_the_answers_before_it(scripted, client):
    seen = []
    with pytest.raises(ValueError, match="lists of different lengths") as raised:  # noqa: PT012
        for answer in client.predict_many([0, 1, 2, [[1], [2, 3]], 4]):
            seen.append(answer["y"].tolist())
    assert seen == [0, 1, 2]
    assert raised.value.__notes__ == ["From item 3 (the first is 0)."]
    assert len(scripted.requests) == 3


@pytest.mark.fast
def test_a_refused_item_is_named(scripted, client):
    scripted.refusals = [None] * 4 + [(grpc.StatusCode.NOT_FOUND, "gone")] * 9
    seen = []
    with pytest.raises(grpc.RpcError) as raised:  # noqa: PT012
        for answer in client.predict_many(range(8), batch_size=2, in_flight=1):
            seen.append(answer)
        list(client.predict_many(range(8), batch_size=2, in_flight=1))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.__notes__ == ["From items 0 to 1 (the first is 0)."]
    assert len(seen) == 8


@pytest.mark.fast
def test_an_error_of_the_source_comes_after_the_answers_before_it(client):
    def items():
        yield 0
        yield 1
        raise OSError("disk")

    seen = []
    with pytest.raises(OSError, match="disk"):  # noqa: PT012
        for answer in client.predict_many(items()):
            seen.append(answer)
    assert len(seen) == 2


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_leaving_early_cancels_the_open_requests(scripted, client, leave):
    scripted.slow_from, scripted.barrier = 2, 4
    answers = client.predict_many(range(100), in_flight=4)
    assert numbers([next(answers), next(answers)]) == [0, 1]
    wait_until(lambda: scripted.open >= 2)
    if leave == "close":
        answers.close()
    else:
        del answers
        gc.collect()
    wait_until(lambda: scripted.open == 0)
    assert scripted.cancelled >= 2
    assert len(scripted.requests) < 10


def test_a_request_of_a_client_that_is_closed_is_cancelled(scripted, client):
    scripted.delay = 10
    threading.Timer(0.2, client.close).start()
    with pytest.raises(grpc.RpcError) as raised:
        next(client.predict_many([1]))
    assert raised.value.code() is grpc.StatusCode.CANCELLED


@pytest.mark.fast
def test_without_the_check_signatures_are_not_looked_up(scripted):
    with (
        serve(scripted) as address,
        PredictionClient(address, "m", check=False) as client,
    ):
        assert numbers(client.predict_many([{"z": 1}, {"z": 2}])) == [1, 2]
    assert scripted.look_ups == []


@pytest.mark.fast
@pytest.mark.parametrize(
    "numbers", [{"batch_size": 0}, {"in_flight": 0}, {"in_flight": -1}]
)
def test_numbers_below_one_are_refused_before_the_loop_starts(client, numbers):
    (name,) = numbers
    with pytest.raises(ValueError, match=rf"`{name}` must be 1 or more\. Received: "):
        client.predict_many([], **numbers)


@pytest.mark.parametrize(("terminal", "progress"), [(1, True), (1, False), (0, True)])
def test_a_progress_bar_is_shown_only_on_a_terminal(
    client, monkeypatch, capsys, terminal, progress
):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    for answer in client.predict_many(range(5), progress=progress):
        print(answer["y"])  # noqa: T201
    out, error = capsys.readouterr()
    # What the loop prints stays on standard output.
    assert out.split() == ["0.0", "1.0", "2.0", "3.0", "4.0"]
    assert ("100%" in error) == bool(terminal and progress)
    assert bool(error) == bool(terminal and progress)
