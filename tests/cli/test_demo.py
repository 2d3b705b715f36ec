"""`bn-keras demo`, as a new user runs it, and killed while it runs."""

import functools
import json
import random
import re
import shlex
import signal
import subprocess
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from command_line_calls import COMMAND
from PIL import Image

from bn_keras import data
from bn_keras.cli import command_line
from bn_keras.cli import demo as demo_command
from bn_keras.cli.user_files import read_inputs
from bn_keras.experiments import digits
from bn_keras.training.recipes import BN_MLP, MLP


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which the demo has run, its process and its results."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [COMMAND, "demo", "--workdir", "work", "--json", "results.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done, json.loads((folder / "results.json").read_text())


def test_the_results_are_within_their_bounds(demo):
    _, _, results = demo
    assert set(results) == {
        "test_accuracy_bn",
        "test_accuracy_baseline",
        "fold_max_abs_difference",
        "grpc_max_abs_difference",
        "bn_layers_folded",
        "bn_layers_left",
        "saved_model_path",
        "seconds",
    }
    assert results["test_accuracy_bn"] >= 0.93
    assert results["test_accuracy_bn"] > results["test_accuracy_baseline"]
    assert results["fold_max_abs_difference"] <= 1e-5
    assert results["grpc_max_abs_difference"] <= 1e-5
    assert (results["bn_layers_folded"], results["bn_layers_left"]) == (3, 0)
    # A minute on two quiet cores; here another test runs beside it.
    assert results["seconds"] < 120


def test_the_exported_version_loads(demo):
    folder, _, results = demo
    assert results["saved_model_path"] == "work/models/digits/1"
    tf.saved_model.load(str(folder / results["saved_model_path"]))


def test_a_second_demo_exports_the_next_version_and_reports_a_missed_bound(
    demo, capsys, monkeypatch
):
    folder, _, _ = demo
    # Too few epochs to be accurate, but enough for the network without BN to differ.
    epochs = 2
    monkeypatch.setattr(digits, "run", functools.partial(digits.run, epochs=epochs))
    for name, recipe in (("MLP", MLP), ("BN_MLP", BN_MLP)):
        monkeypatch.setattr(demo_command, name, replace(recipe, epochs=epochs))
    monkeypatch.setattr(demo_command, "SMALLEST_ACCURACY", 1.0)
    monkeypatch.chdir(folder)
    line = ["demo", "--workdir", "work", "--json", "second.json"]
    assert command_line.main(line) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"bn-keras: test_accuracy_bn is 0\.\d+, less than 1\.0\n", error
    )
    results = json.loads((folder / "second.json").read_text())
    assert results["saved_model_path"] == "work/models/digits/2"
    tf.saved_model.load(str(folder / results["saved_model_path"]))


def test_the_demo_shows_curves_pictures_and_answers(demo):
    folder, done, _ = demo
    for text in ("Learning curves", "without BN", "1,437 handwritten", "360 held-out"):
        assert text in done.stdout
    # The true digit next to each answer.
    answers = re.findall(r"(\d) -> \d \d+\.\d%", done.stdout)
    assert answers == ["0", "3", "5", "8"]
    assert done.stderr == ""
    with Image.open(folder / "work" / "learning_curves.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_next_commands_fit_together_and_start_as_the_demo_was_typed(demo):
    _, done, _ = demo
    lines = next_commands(done.stdout)
    assert all(line[0] == COMMAND for line in lines)
    train, export, serve, predict = (command_line.parse(line[1:]) for line in lines)
    assert export.model == train.workdir / f"{train.recipe}.keras"
    assert serve.directory == export.directory
    assert predict.model_name == export.directory.name
    assert predict.address == f"127.0.0.1:{serve.port}"


def test_the_demo_writes_a_digit_of_the_test_set_to_ask_about(demo):
    folder, done, _ = demo
    (file,) = command_line.parse(next_commands(done.stdout)[-1][1:]).files
    specs = {"image": (np.dtype("float32"), (None, 8, 8, 1))}
    image = read_inputs(folder / file, specs)["image"]
    test = data.digits().test
    np.testing.assert_allclose(image[0], test.images[0], atol=1 / 255)


def next_commands(output):
    """Return the commands under the last heading, as a shell would split them."""
    return [shlex.split(line) for line in output.splitlines() if COMMAND in line]


@pytest.mark.slow
def test_the_next_commands_run_as_printed(demo):
    folder, done, _ = demo
    train, export, serve, predict = next_commands(done.stdout)
    subprocess.run(train, cwd=folder, check=True, capture_output=True)
    subprocess.run(export, cwd=folder, check=True, capture_output=True)
    # Another program may use the printed port.
    serve[serve.index("8500")] = "0"
    with subprocess.Popen(
        serve, cwd=folder, stdout=subprocess.PIPE, text=True
    ) as server:
        address = server.stdout.readline().split()[2].rstrip(",")
        predict[predict.index("127.0.0.1:8500")] = address
        done = subprocess.run(
            predict, cwd=folder, check=True, capture_output=True, text=True
        )
        server.terminate()
    answer = json.loads(done.stdout)
    (probabilities,) = answer["predictions"]
    assert np.argmax(probabilities) == data.digits().test.labels[0]


def stop_demo(workdir, wait, signal_number):
    """Stop a demo when `wait()` returns, which is called when its export begins.

    Returns:
        The exit status, whether the demo was stopped during the export, and how many
        seconds the export took if it was not.
    """

    def stop():
        wait()
        process.send_signal(signal_number)

    with subprocess.Popen(
        [COMMAND, "demo", "--workdir", workdir],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("3 folded"):
                break
        start = time.monotonic()
        threading.Thread(target=stop, daemon=True).start()
        exporting, seconds = True, None
        for line in process.stdout:
            if line.startswith("exported to"):
                exporting, seconds = False, time.monotonic() - start
    return process.returncode, exporting, seconds


def versions(workdir):
    """Return the versions that a server would find, after loading each of them."""
    paths = sorted((workdir / "models" / "digits").glob("[0-9]*"))
    for path in paths:
        tf.saved_model.load(str(path))
    return paths


@pytest.mark.slow
def test_a_demo_killed_during_the_export_leaves_no_incomplete_version(tmp_path):
    generator = random.Random(0)
    _, _, seconds = stop_demo(
        tmp_path / "whole", threading.Event().wait, signal.SIGKILL
    )
    stops = []
    for attempt in range(10):
        signal_number = signal.SIGKILL if attempt < 7 else signal.SIGTERM
        workdir = tmp_path / str(attempt)
        delay = generator.uniform(0, 0.8 * seconds)
        status, exporting, _ = stop_demo(
            workdir, lambda delay=delay: time.sleep(delay), signal_number
        )
        assert status in (0, -signal.SIGKILL, 128 + signal.SIGTERM)
        stops.append(exporting)
        versions(workdir)
        # No server takes these names for versions. Only SIGKILL leaves such files.
        unfinished = list(workdir.rglob("*.tmp-*"))
        assert all(path.name.startswith(".") for path in unfinished)
        assert signal_number == signal.SIGKILL or not unfinished
    assert sum(stops) >= 4, f"{stops}: too few were during the export of {seconds} s"


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_demo_killed_while_it_writes_a_version_publishes_none(
    tmp_path, signal_number
):
    def wait_until_half_written():
        while not any(tmp_path.rglob("*.tmp-*/**/saved_model.pb")):
            time.sleep(0.001)

    status, exporting, _ = stop_demo(tmp_path, wait_until_half_written, signal_number)
    assert exporting
    assert status in (-signal.SIGKILL, 128 + signal.SIGTERM)
    assert not versions(tmp_path)
    # After SIGKILL nothing can be removed.
    assert any(tmp_path.rglob("*.tmp-*")) == (signal_number == signal.SIGKILL)
