"""`bn-keras serve` and `predict` together."""

import json
import signal
import subprocess
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from command_line_calls import COMMAND, user_environment
from serving_models import ROWS, Model, function, request_of, write
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras.cli import command_line
from bn_keras_serving import PredictionServer


class UnusualOutputs(tf.Module):
    """Outputs that JSON cannot represent directly."""

    def __init__(self):
        super().__init__()
        rows = ([None], tf.float32)
        self.served = {
            "serving_default": function(
                lambda x: {
                    "root": tf.sqrt(x),
                    "text": tf.strings.join([tf.as_string(tf.cast(x, tf.int32)), b"!"]),
                    "bytes": tf.constant(b"\xff"),
                    "complex": tf.complex(x, 2 * x),
                    "half": tf.cast(x, tf.bfloat16),
                    "whole": tf.cast(x, tf.int64),
                    "infinite": tf.math.log(0 * x),
                },
                x=rows,
            )
        }


class TwoInputs(tf.Module):
    """A model of two inputs of any rank, with one signature of a given name."""

    def __init__(self, name):
        super().__init__()
        anything = (None, tf.float32)
        self.served = {
            name: function(lambda a, b: {"sum": a + b}, a=anything, b=anything)
        }


@pytest.fixture
def ask(capsys, tmp_path):
    """Serve a model in this process and query it by the command line."""

    def ask(model, file):
        write(model, tmp_path / "m", 1)
        with PredictionServer(tmp_path / "m", port=0) as server:
            address = ["--address", server.address]
            status = command_line.main(
                ["predict", *address, "--model-name", "m", str(file)]
            )
        return status, *capsys.readouterr()

    (tmp_path / "m").mkdir()
    return ask


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    write(Model(2), directory, 1)
    return directory


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    "signal_number",
    # SIGTERM has its test with requests in progress, too; see test_serve.
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_serve_answers_until_a_signal_and_ends_with_0(
    models, tmp_path, capsys, signal_number
):
    np.save(tmp_path / "rows.npy", ROWS)
    with subprocess.Popen(
        [COMMAND, "serve", models, "--model-name", "multiply", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=user_environment(),
        text=True,
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("serving at 127.0.0.1:")
        address = line.split()[2].rstrip(",")
        ask = ["predict", "--address", address, "--model-name", "multiply"]
        assert command_line.main([*ask, str(tmp_path / "rows.npy")]) == 0
        process.send_signal(signal_number)
        _, error = process.communicate(timeout=30)
    assert json.loads(capsys.readouterr().out)["y"] == (2 * ROWS).tolist()
    assert process.returncode == 0
    # A line for each version that is loaded or unloaded, and nothing else.
    assert {line.partition(":")[0] for line in error.splitlines()} == {"bn-keras"}


class Endless(tf.Module):
    """A model whose computation does not end."""

    def __init__(self):
        super().__init__()
        self.served = {
            "serving_default": function(
                lambda x: {
                    "y": tf.while_loop(
                        lambda step: step < 10**12, lambda step: [step + 1], [x]
                    )[0]
                },
                x=([], tf.int64),
            )
        }


@pytest.mark.slow
def test_a_computation_that_does_not_end_does_not_keep_serve_running(tmp_path):
    write(Endless(), tmp_path, 1)
    with subprocess.Popen(
        [COMMAND, "serve", tmp_path, "--model-name", "endless", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=user_environment(),
        text=True,
    ) as process:
        address = process.stdout.readline().split()[2].rstrip(",")
        with grpc.insecure_channel(address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            call = predictions.Predict.future(
                request_of({"x": np.array(0, np.int64)}, "endless")
            )
            time.sleep(2)  # so that the request has arrived
            process.send_signal(signal.SIGTERM)
            assert call.exception(60).code() is not grpc.StatusCode.OK
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {line.partition(":")[0] for line in error.splitlines()} == {"bn-keras"}


def test_predict_prints_json_for_every_type_of_output(ask, tmp_path):
    np.save(tmp_path / "x.npy", np.array([4, -1], np.float32))
    status, out, error = ask(UnusualOutputs(), tmp_path / "x.npy")
    assert (status, error) == (0, "")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    answer = json.loads(out, parse_constant=refuse)
    assert answer.pop("file") == str(tmp_path / "x.npy")
    assert answer == {
        "root": [2, None],
        "text": ["4!", "-1!"],
        "bytes": "\\xff",
        "complex": [[4, 8], [-1, -2]],
        "half": [4, -1],
        "whole": [4, -1],
        "infinite": [None, None],
    }


def test_several_inputs_come_from_one_npz_file(ask, tmp_path):
    np.savez(tmp_path / "two.npz", a=ROWS, b=10 * ROWS)
    status, out, _ = ask(TwoInputs("serving_default"), tmp_path / "two.npz")
    assert status == 0
    assert json.loads(out)["sum"] == (11 * ROWS).tolist()


def test_a_model_without_the_default_signature_is_an_error_of_one_line(ask, tmp_path):
    np.savez(tmp_path / "two.npz", a=ROWS, b=ROWS)
    status, _, error = ask(TwoInputs("other"), tmp_path / "two.npz")
    assert status == 2
    assert (
        "signature serving_default. Received: a model with the signatures other."
        in error
    )
