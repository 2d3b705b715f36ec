"""Running a signature through the part of a session that is written in C++.

It is not public, so these tests state everything that the server expects of it.
"""

import contextlib
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from serving_models import ECHOED
from tensorflow.core.protobuf import meta_graph_pb2

from bn_keras_serving.servable import session_function as module
from bn_keras_serving.servable.session_function import session_function

pytestmark = pytest.mark.fast
v1 = tf.compat.v1


def definition_of(inputs, outputs):
    info = v1.saved_model.build_tensor_info
    return meta_graph_pb2.SignatureDef(
        inputs={name: info(tensor) for name, tensor in inputs.items()},
        outputs={name: info(tensor) for name, tensor in outputs.items()},
    )


@contextlib.contextmanager
def function_of(build):
    """Yield the function of a graph; `build` returns its inputs and outputs."""
    with v1.Graph().as_default() as graph:
        inputs, outputs = build()
    with v1.Session(graph=graph) as session:
        function = session_function(session, definition_of(inputs, outputs))
        yield lambda *arrays, requested=tuple(outputs), seconds=None: function(
            dict(zip(inputs, arrays, strict=True)), sorted(requested), seconds
        )


def echo(dtype, shape=None):
    def build():
        x = v1.placeholder(dtype, shape, "x")
        return {"x": x}, {"y": tf.identity(x)}

    return build


def endless():
    """Return a loop that ends after as many steps as its input says."""
    x = v1.placeholder(tf.int64, [], "x")
    (last,) = tf.while_loop(
        lambda i: i < x, lambda i: (i + 1,), (tf.constant(0, tf.int64),)
    )
    return {"x": x}, {"y": last}


@pytest.mark.parametrize("shape", [(2, 3), (3,), (), (0, 2)])
@pytest.mark.parametrize("dtype", ECHOED, ids=lambda dtype: dtype.name)
def test_arrays_of_every_type_and_rank_pass_unchanged(dtype, shape):
    count = int(np.prod(shape))
    if dtype == tf.string:
        array = np.empty(count, object)
        array[:] = [b"ends in zeros\0\0", b"\xff", b"", b"", b"", b""][:count]
        array = array.reshape(shape)
    else:
        array = np.arange(count).reshape(shape).astype(dtype.as_numpy_dtype)
    with function_of(echo(dtype)) as function:
        for seconds in (None, 10.0):
            output = function(array, seconds=seconds)["y"]
            assert isinstance(output, np.ndarray)
            assert (output.dtype, output.shape) == (array.dtype, shape)
            assert output.tolist() == array.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.frombuffer(
            b"\0" + np.arange(6, dtype=np.float32).tobytes(), np.float32, 6, 1
        ),
    ],
    ids=["strided", "transposed", "unaligned"],
)
def test_the_memory_of_an_array_may_have_any_layout(array):
    with function_of(echo(tf.float32)) as function:
        assert function(array)["y"].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("array", "details"),
    [
        (np.ones(2), "Expects arg[0] to be float but double is provided"),
        (np.array([b"1"], object), "Expects arg[0] to be float but string is provided"),
        (np.ones(2, np.int32), "Expects arg[0] to be float but int32 is provided"),
    ],
)
def test_a_wrong_type_is_an_error_with_the_text_of_tensorflow_serving(array, details):
    with function_of(echo(tf.float32)) as function:
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            function(array)
        assert raised.value.message == details


def test_shapes_are_not_compared_with_the_placeholder():
    with function_of(echo(tf.float32, [None, 4])) as function:
        for shape in ((), (3,), (2, 3), (1, 2, 3)):
            assert function(np.ones(shape, np.float32))["y"].shape == shape


def test_an_error_of_an_operation_keeps_its_text():
    def build():
        x = v1.placeholder(tf.float32, None, "x")
        return {"x": x}, {"y": tf.debugging.check_numerics(x, "the message")}

    with function_of(build) as function:
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            function(np.array([np.nan], np.float32))
        assert raised.value.message.startswith("the message : Tensor had NaN values")


@pytest.mark.parametrize("seconds", [0.0001, 0.2])
def test_a_run_that_never_ends_is_interrupted_in_time(seconds):
    with function_of(endless) as function:
        assert function(np.int64(5), seconds=30.0)["y"] == 5
        start = time.monotonic()
        with pytest.raises(tf.errors.DeadlineExceededError):
            function(np.int64(2**62), seconds=seconds)
        assert seconds <= time.monotonic() - start + 0.001 < seconds + 2
        # The next run has its own time-out.
        assert function(np.int64(7), seconds=30.0)["y"] == 7


def test_time_outs_hold_for_runs_at_the_same_time():
    durations = {}

    def run(seconds):
        start = time.monotonic()
        with pytest.raises(tf.errors.DeadlineExceededError):
            function(np.int64(2**62), seconds=seconds)
        durations[seconds] = time.monotonic() - start

    with function_of(endless) as function:
        threads = [threading.Thread(target=run, args=(n / 8,)) for n in (1, 2, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert durations.keys() == {0.125, 0.25, 0.5}
    for seconds, duration in durations.items():
        assert seconds <= duration + 0.001 < seconds + 2


def test_a_time_of_years_is_accepted():
    with function_of(endless) as function:
        assert function(np.int64(1), seconds=1e12)["y"] == 1


def many_outputs(count):
    def build():
        x = v1.placeholder(tf.float32, None, "x")
        outputs = {f"y{n:02}": x + float(n) for n in range(count)}
        outputs["failing"] = tf.debugging.check_numerics(x / 0.0, "computed")
        return {"x": x}, outputs

    return build


def test_only_the_requested_outputs_are_computed():
    one = np.ones(1, np.float32)
    with function_of(many_outputs(3)) as function:
        outputs = function(one, requested=["y02", "y00"])
        assert {name: array.tolist() for name, array in outputs.items()} == {
            "y00": [1],
            "y02": [3],
        }
        with pytest.raises(tf.errors.InvalidArgumentError, match="computed"):
            function(one)


def test_clients_cannot_make_the_session_keep_an_executor_for_every_set_of_outputs(
    monkeypatch,
):
    computed = []
    run = v1.Session._call_tf_sessionrun

    def record(session, options, feeds, fetches, targets, metadata):
        computed.append(len(fetches))
        return run(session, options, feeds, fetches, targets, metadata)

    def build():
        x = v1.placeholder(tf.float32, None, "x")
        return {"x": x}, {f"y{n:02}": x + float(n) for n in range(40)}

    with function_of(build) as function:
        monkeypatch.setattr(v1.Session, "_call_tf_sessionrun", record)
        for n in range(40):
            name = f"y{n:02}"
            assert function(np.float32(0), requested=[name]) == {name: n}
    limit = module.MAXIMUM_OUTPUT_SETS
    assert computed == [1] * limit + [40] * (40 - limit)


def test_a_closed_session_is_an_error():
    with v1.Graph().as_default() as graph:
        definition = definition_of(*echo(tf.float32)())
    session = v1.Session(graph=graph)
    function = session_function(session, definition)
    session.close()
    with pytest.raises((tf.errors.CancelledError, RuntimeError)):
        function({"x": np.float32(1)}, ["y"], None)
