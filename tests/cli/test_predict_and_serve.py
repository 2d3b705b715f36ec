"""`bn-keras serve` and `predict` together, and what signals do to the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import ROWS, Model, function, request_of, write
from tensorflow_serving.apis import prediction_service_pb2_grpc

from bn_keras import __main__ as entry
from bn_keras.cli import command_line
from bn_keras_serving import PredictionServer

COMMAND = str(Path(sys.executable).with_name("bn-keras"))
# As a user's: what silences TensorFlow in these tests is not in it.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("TF_CPP", "GRPC_"))
}


class Odd(tf.Module):
    """Answers that JSON has no words for."""

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


class Named(tf.Module):
    """A model of two inputs, of any rank."""

    def __init__(self, name):
        super().__init__()
        anything = (None, tf.float32)
        self.served = {
            name: function(lambda a, b: {"sum": a + b}, a=anything, b=anything)
        }


@pytest.fixture
def ask(capsys, tmp_path):
    """Serve a model in this process and ask it by the command line."""

    def asked(model, file):
        write(model, tmp_path / "m", 1)
        with PredictionServer(tmp_path / "m", port=0) as server:
            address = ["--address", server.address]
            status = command_line.main(
                ["predict", *address, "--model-name", "m", str(file)]
            )
        return status, *capsys.readouterr()

    (tmp_path / "m").mkdir()
    return asked


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    write(Model(2), directory, 1)
    return directory


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_until_a_signal_and_ends_with_0(models, tmp_path, capsys, end):
    np.save(tmp_path / "rows.npy", ROWS)
    with subprocess.Popen(
        [COMMAND, "serve", models, "--model-name", "multiply", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("serving at 127.0.0.1:")
        address = line.split()[2].rstrip(",")
        ask = ["predict", "--address", address, "--model-name", "multiply"]
        assert command_line.main([*ask, str(tmp_path / "rows.npy")]) == 0
        process.send_signal(end)
        _, error = process.communicate(timeout=30)
    assert json.loads(capsys.readouterr().out)["y"] == (2 * ROWS).tolist()
    assert process.returncode == 0
    # What is loaded and unloaded, a line each, and nothing else.
    assert {line.partition(":")[0] for line in error.splitlines()} == {"bn-keras"}


class Endless(tf.Module):
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
def test_a_model_that_does_not_end_does_not_keep_the_command(tmp_path):
    write(Endless(), tmp_path, 1)
    with subprocess.Popen(
        [COMMAND, "serve", tmp_path, "--model-name", "endless", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as process:
        address = process.stdout.readline().split()[2].rstrip(",")
        with grpc.insecure_channel(address) as channel:
            predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            begun = predictions.Predict.future(
                request_of({"x": np.array(0, np.int64)}, "endless")
            )
            time.sleep(2)  # that it has arrived
            process.send_signal(signal.SIGTERM)
            assert begun.exception(60).code() is not grpc.StatusCode.OK
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {line.partition(":")[0] for line in told.splitlines()} == {"bn-keras"}


def test_predict_prints_json_whatever_the_answer(ask, tmp_path):
    np.save(tmp_path / "x.npy", np.array([4, -1], np.float32))
    status, out, error = ask(Odd(), tmp_path / "x.npy")
    assert (status, error) == (0, "")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

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
    status, out, _ = ask(Named("serving_default"), tmp_path / "two.npz")
    assert status == 0
    assert json.loads(out)["sum"] == (11 * ROWS).tolist()


def test_a_model_without_the_default_signature_is_one_line(ask, tmp_path):
    np.savez(tmp_path / "two.npz", a=ROWS, b=ROWS)
    status, _, error = ask(Named("other"), tmp_path / "two.npz")
    assert status == 2
    assert "signature serving_default. Received: the signatures other;" in error


def test_what_tensorflow_wrote_is_shown_if_the_start_fails(capfd):
    def start():
        with entry._silenced():
            os.write(2, b"hidden")
            raise ImportError

    with pytest.raises(ImportError):
        start()
    assert capfd.readouterr().err == "hidden"


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_start_without_a_word_though_an_import_swallows_it():
    code = (
        "import os, sys, time, types, from bn_keras import __main__ as entry\n"
        "def start():\n"
        "    os.write(2, b'hidden')\n"
        "    print('begun', flush=True)\n"
        "    try: time.sleep(60)\n"
        "    except BaseException: pass\n"
        "cli = types.SimpleNamespace(start_backend=start, main=lambda: 0)\n"
        "sys.modules['bn_keras'] = types.SimpleNamespace(cli=cli)\n"
        "sys.exit(__main__.main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "")


def test_a_character_that_the_terminal_does_not_know_ends_nothing():
    code = (
        "import sys, types, from bn_keras import __main__ as entry\n"
        "def main():\n"
        "    print('L\u221e norm')\n"
        "    return 0\n"
        "cli = types.SimpleNamespace(start_backend=lambda: None, main=main)\n"
        "sys.modules['bn_keras'] = types.SimpleNamespace(cli=cli)\n"
        "sys.exit(__main__.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"L? norm\n", b"")


def test_a_terminated_command_clears_its_files_away(tmp_path):
    code = (
        "import time, sys, bn_keras_command;"
        "from bn_keras.cli import command_line;"
        "from bn_keras.atomic_files import atomic_write\n"
        "def main():\n"
        "    with atomic_write('model') as temporary_path:\n"
        "        temporary_path.write_text('half')\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(60)\n"
        "command_line.main = main\n"
        "sys.exit(__main__.main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []
