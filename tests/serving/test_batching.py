"""Batching: each request gets its own rows, and what the kernel rejects."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from serving_examples import write_version_1
from serving_models import ROWS, Model, function, write

from bn_keras_serving.common.errors import ExecutionError
from bn_keras_serving.configuration import BatchingParameters
from bn_keras_serving.servable import batching
from bn_keras_serving.servable.batching import batch_function, can_batch
from bn_keras_serving.servable.servable import Servable

PARAMETERS = BatchingParameters(
    max_batch_size=4,
    batch_timeout_micros=20_000,
    max_enqueued_batches=100,
    num_batch_threads=2,
    allowed_batch_sizes=(4,),
)


class Seen(tf.Module):
    """Outputs the size of the batch that the model was run on."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.served = {
            "serving_default": function(
                lambda x: {
                    "y": factor * x,
                    "seen": tf.repeat(tf.shape(x)[:1], tf.shape(x)[0]),
                },
                x=([None], tf.float32),
            ),
            "pair": function(
                lambda a, b: {"difference": a - b},
                a=([None], tf.float32),
                b=([None], tf.float32),
            ),
            "mean": function(
                lambda x: {"mean": tf.reduce_mean(x)}, x=([None], tf.float32)
            ),
            "scalar": function(lambda x: {"y": x}, x=([], tf.float32)),
        }


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("seen")
    write(Seen(), directory, 1)
    write(Seen(-1.0), directory, 2)
    return directory


@pytest.fixture(scope="module")
def servable(directory):
    return Servable(1, directory / "1", PARAMETERS)


def rows(*values):
    return np.array(values, np.float32)


def together(calls):
    """Call all functions at the same time; return the results in order."""
    results = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number, call):
        barrier.wait()
        try:
            results[number] = call()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=call) for call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_batch_is_padded_to_the_allowed_size(servable):
    answer = servable.signature().run({"x": rows(5)})
    assert answer["y"].tolist() == [5]
    assert answer["seen"].tolist() == [4]


def test_requests_in_one_batch_get_their_own_rows(servable):
    signature = servable.signature()
    answers = together(
        [lambda value=value: signature.run({"x": rows(value)}) for value in range(4)]
    )
    assert [answer["y"].tolist() for answer in answers] == [[0], [1], [2], [3]]
    assert {answer["seen"].item() for answer in answers} == {4}


def test_inputs_keep_their_names_in_a_batch(servable):
    answer = servable.signature("pair").run({"b": rows(1, 2), "a": rows(10, 20)})
    assert answer["difference"].tolist() == [9, 18]


def test_versions_and_signatures_do_not_share_a_batch(directory, servable):
    other = Servable(2, directory / "2", PARAMETERS)
    calls = []
    for number in range(40):
        run = (servable, other)[number % 2].signature().run
        calls.append(lambda run=run, number=number: run({"x": rows(number)}))
    answers = [answer["y"].item() for answer in together(calls)]
    assert answers == [number * (-1) ** number for number in range(40)]


def test_a_request_larger_than_a_batch_is_rejected_by_the_kernel(servable):
    message = "Task size 5 is larger than maximum input batch size 4"
    with pytest.raises(ExecutionError, match=message) as raised:
        servable.signature().run({"x": rows(*range(5))})
    assert isinstance(raised.value.__cause__, tf.errors.InvalidArgumentError)
    assert "File" not in str(raised.value)


def test_a_large_request_is_split_if_the_parameters_allow_it(directory):
    split = dataclasses.replace(
        PARAMETERS,
        max_batch_size=10,
        enable_large_batch_splitting=True,
        max_execution_batch_size=4,
    )
    servable = Servable(1, directory / "1", split)
    answer = servable.signature().run({"x": rows(*range(10))})
    assert answer["y"].tolist() == list(range(10))
    assert set(answer["seen"].tolist()) == {4}


def test_batches_are_not_padded_without_allowed_sizes(directory):
    servable = Servable(
        1, directory / "1", dataclasses.replace(PARAMETERS, allowed_batch_sizes=())
    )
    assert servable.signature().run({"x": rows(5)})["seen"].tolist() == [1]


def test_an_output_without_rows_is_an_error_of_the_model(servable):
    with pytest.raises(ExecutionError, match="0 dimensions"):
        servable.signature("mean").run({"x": rows(1, 2)})


def test_a_signature_without_a_batch_axis_is_not_batched(servable):
    assert not can_batch(servable.signature("scalar").inputs)
    assert servable.signature("scalar").run({"x": np.float32(3)})["y"] == 3


def test_variables_and_tables_of_tensorflow_1_can_be_batched(tmp_path):
    write_version_1(tmp_path, 1)
    servable = Servable(1, tmp_path / "1", PARAMETERS)
    answer = servable.signature().run({"x": ROWS})
    np.testing.assert_array_equal(answer["y"], 3 * ROWS)
    answer = servable.signature("look/up").run({"a/word": np.array([b"a"], object)})
    assert answer["number"].tolist() == [1]


def test_the_other_requests_in_a_batch_do_not_change_a_bit_of_an_answer(tmp_path):
    servable = Servable(1, write(Model(3), tmp_path, 1), PARAMETERS)
    signature = servable.signature("image")
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    alone = [signature.run({"x": images[n : n + 1]})["y"] for n in range(4)]
    shared = together(
        [lambda n=n: signature.run({"x": images[n : n + 1]})["y"] for n in range(4)]
    )
    assert [array.tobytes() for array in alone] == [array.tobytes() for array in shared]


def test_requests_to_a_full_queue_are_unavailable():
    release = threading.Event()

    def slow(x):
        release.wait(30)
        return x

    call = batch_function(
        lambda x: {"y": tf.numpy_function(slow, [x], tf.float32)},
        {"x": tf.TensorSpec([None], tf.float32, "x")},
        dataclasses.replace(PARAMETERS, max_enqueued_batches=1, num_batch_threads=1),
    )
    calls = [lambda: call({"x": rows(1, 1, 1, 1)}, ["y"], None)] * 8
    results = []
    threads = [
        threading.Thread(target=lambda call=call: results.extend(together([call])))
        for call in calls
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)  # a rejected call returns at once, the others wait for `release`
    rejected = list(results)
    release.set()
    for thread in threads:
        thread.join()
    assert rejected
    for error in rejected:
        assert isinstance(error, tf.errors.UnavailableError)
        assert "queue" in str(error)
    assert len(results) == 8
    assert any(isinstance(result, dict) for result in results)


@pytest.fixture(scope="module")
def batched():
    """A batched function that adds one, and fails for rows with a negative value."""

    def check(x):
        tf.debugging.assert_non_negative(x)
        return {"y": x + 1}

    return batch_function(
        check,
        {"x": tf.TensorSpec([None, None], tf.float32, "x")},
        dataclasses.replace(
            PARAMETERS, max_batch_size=64, allowed_batch_sizes=(), num_batch_threads=1
        ),
    )


def run_all(batched, arrays):
    calls = [lambda x=x: batched({"x": x}, ["y"], 30.0) for x in arrays]
    return together(calls)


def test_requests_of_different_shapes_do_not_share_a_batch(batched):
    arrays = [np.full((1, 1 + n % 3), n, np.float32) for n in range(30)]
    for array, answer in zip(arrays, run_all(batched, arrays), strict=True):
        np.testing.assert_array_equal(answer["y"], array + 1)


def test_a_request_that_fails_does_not_fail_the_others_of_its_batch(batched):
    arrays = [np.full((1, 2), n if n % 5 else -1, np.float32) for n in range(20)]
    for array, answer in zip(arrays, run_all(batched, arrays), strict=True):
        if array.min() < 0:
            assert isinstance(answer, tf.errors.InvalidArgumentError)
        else:
            np.testing.assert_array_equal(answer["y"], array + 1)


def test_the_number_of_queues_is_bounded(batched, monkeypatch):
    monkeypatch.setattr(batching, "_new_queue_name", None)  # fails for a further one
    monkeypatch.setattr(batching, "MAXIMUM_QUEUES", 1)
    arrays = [np.full((1 + n % 4, n), n, np.float32) for n in range(1, 31)]
    for array, answer in zip(arrays, run_all(batched, arrays), strict=True):
        np.testing.assert_array_equal(answer["y"], array + 1)


@pytest.mark.parametrize("rows", [1, 3, 4, 10])
def test_a_call_that_runs_alone_is_padded_and_split_like_a_batch(
    directory, monkeypatch, rows
):
    split = dataclasses.replace(
        PARAMETERS,
        max_batch_size=10,
        enable_large_batch_splitting=True,
        max_execution_batch_size=4,
        allowed_batch_sizes=(2, 4),
    )
    loaded = tf.saved_model.load(str(directory / "1")).signatures["serving_default"]
    call = batch_function(loaded, {"x": tf.TensorSpec([None], tf.float32, "x")}, split)
    x = np.arange(rows, dtype=np.float32)
    answers = []
    answers.append(call({"x": x}, ["y", "seen"], None))
    monkeypatch.setattr(batching._Queues, "_find", lambda *_: None)
    answers.append(call({"x": x}, ["y", "seen"], None))
    for name in ("y", "seen"):
        assert answers[0][name].tolist() == answers[1][name].tolist()


def test_a_call_that_runs_alone_changes_no_bit(tmp_path, monkeypatch):
    servable = Servable(1, write(Model(3), tmp_path, 1), PARAMETERS)
    signature = servable.signature("image")
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    batched = signature.run({"x": image})["y"]
    monkeypatch.setattr(batching._Queues, "_find", lambda *_: None)
    assert signature.run({"x": image})["y"].tobytes() == batched.tobytes()
