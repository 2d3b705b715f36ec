"""The demo, as a newcomer runs it, and killed while it runs."""

import json
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bn_keras import data
from bn_keras.cli import command_line
from bn_keras.cli.user_files import read_inputs

COMMAND = str(Path(sys.executable).with_name("bn-keras"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Two demos in one work directory: their outputs and figures."""
    folder = tmp_path_factory.mktemp("demo")
    runs = []
    for name in ("first.json", "second.json"):
        done = subprocess.run(
            [COMMAND, "demo", "--workdir", "work", "--json", name],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        runs.append((done, json.loads((folder / name).read_text())))
    return folder, runs


def test_the_figures_hold_their_bounds(demo):
    _, [(_, figures), _] = demo
    assert set(figures) == {
        "test_accuracy_bn",
        "test_accuracy_baseline",
        "fold_max_abs_difference",
        "grpc_max_abs_difference",
        "bn_layers_folded",
        "bn_layers_left",
        "saved_model_path",
        "seconds",
    }
    assert figures["test_accuracy_bn"] >= 0.93
    assert figures["test_accuracy_bn"] > figures["test_accuracy_baseline"]
    assert figures["fold_max_abs_difference"] <= 1e-5
    assert figures["grpc_max_abs_difference"] <= 1e-5
    assert (figures["bn_layers_folded"], figures["bn_layers_left"]) == (3, 0)
    assert figures["seconds"] < 60


def test_the_exported_version_loads_and_a_second_demo_makes_the_next(demo):
    folder, runs = demo
    for number, (_, figures) in enumerate(runs, start=1):
        assert figures["saved_model_path"] == f"work/models/digits/{number}"
        tf.saved_model.load(str(folder / figures["saved_model_path"]))


def test_the_demo_shows_curves_pictures_answers_and_what_next(demo):
    folder, [(done, _), _] = demo
    for shown in ("Learning curves", "without BN", "1,437 handwritten", "360 held-out"):
        assert shown in done.stdout
    # The true digit beside each answer.
    answers = re.findall(r"(\d) -> \d \d+\.\d%", done.stdout)
    assert answers == ["0", "3", "5", "8"]
    assert done.stderr == ""
    with Image.open(folder / "work" / "learning_curves.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_what_next_is_one_story_in_the_words_that_were_typed(demo):
    _, [(done, _), _] = demo
    lines = what_next(done.stdout)
    assert all(line[0] == COMMAND for line in lines)
    train, export, serve, predict = (
        command_line.build_parser().parse_args(line[1:]) for line in lines
    )
    assert export.model == train.workdir / f"{train.recipe}.keras"
    assert serve.directory == export.directory
    assert predict.model_name == export.directory.name
    assert predict.address == f"127.0.0.1:{serve.port}"


def test_the_demo_leaves_a_held_out_digit_to_ask_about(demo):
    folder, [(done, _), _] = demo
    (file,) = (
        command_line.build_parser().parse_args(what_next(done.stdout)[-1][1:]).files
    )
    expected = {"image": (np.dtype("float32"), (None, 8, 8, 1))}
    image = read_inputs(folder / file, expected)["image"]
    test = data.digits().test
    np.testing.assert_allclose(image[0], test.images[0], atol=1 / 255)


def what_next(output):
    """The commands under the last heading, as a shell would take them apart."""
    return [shlex.split(line) for line in output.splitlines() if COMMAND in line]


@pytest.mark.slow
def test_what_next_runs_as_printed(demo):
    folder, [(done, _), _] = demo
    train, export, serve, predict = what_next(done.stdout)
    subprocess.run(train, cwd=folder, check=True, capture_output=True)
    subprocess.run(export, cwd=folder, check=True, capture_output=True)
    # The port is the one thing that another program may hold.
    serve[serve.index("8500")] = "0"
    with subprocess.Popen(
        serve, cwd=folder, stdout=subprocess.PIPE, text=True
    ) as server:
        address = server.stdout.readline().split()[2].rstrip(",")
        predict[predict.index("127.0.0.1:8500")] = address
        asked = subprocess.run(
            predict, cwd=folder, check=True, capture_output=True, text=True
        )
        server.terminate()
    answer = json.loads(asked.stdout)
    (probabilities,) = answer["predictions"]
    assert np.argmax(probabilities) == data.digits().test.labels[0]


def stopped_demo(workdir, wait, signal_number):
    """Stop a demo once `wait()` returns, which is called when its export begins.

    Returns:
        Its exit status; whether it was inside the export then; how long that took.
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
        begun = time.monotonic()
        threading.Thread(target=stop, daemon=True).start()
        inside, seconds = True, None
        for line in process.stdout:
            if line.startswith("exported to"):
                inside, seconds = False, time.monotonic() - begun
    return process.returncode, inside, seconds


def versions(workdir):
    """The versions that a server would find there, each loaded."""
    found = sorted((workdir / "models" / "digits").glob("[0-9]*"))
    for version in found:
        tf.saved_model.load(str(version))
    return found


@pytest.mark.slow
def test_a_demo_stopped_while_it_exports_leaves_no_half_written_version(tmp_path):
    moments = random.Random(0)
    _, _, seconds = stopped_demo(
        tmp_path / "whole", threading.Event().wait, signal.SIGKILL
    )
    stops = []
    for attempt in range(10):
        ending = signal.SIGKILL if attempt < 7 else signal.SIGTERM
        workdir = tmp_path / str(attempt)
        delay = moments.uniform(0, 0.8 * seconds)
        status, inside, _ = stopped_demo(
            workdir, lambda delay=delay: time.sleep(delay), ending
        )
        assert status in (0, -signal.SIGKILL, 128 + signal.SIGTERM)
        stops.append(inside)
        versions(workdir)
        # No server takes these names for a version, and only a kill leaves them.
        unfinished = list(workdir.rglob("*.tmp-*"))
        assert all(path.name.startswith(".") for path in unfinished)
        assert ending == signal.SIGKILL or not unfinished
    assert sum(stops) >= 4, f"{stops}: too few fell inside the export of {seconds} s"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_demo_stopped_within_a_version_publishes_none(tmp_path, ending):
    def half_written():
        while not any(tmp_path.rglob("*.tmp-*/**/saved_model.pb")):
            time.sleep(0.001)

    status, inside, _ = stopped_demo(tmp_path, half_written, ending)
    assert inside
    assert status in (-signal.SIGKILL, 128 + signal.SIGTERM)
    assert not versions(tmp_path)
    # A kill leaves no time to tidy up.
    assert any(tmp_path.rglob("*.tmp-*")) == (ending == signal.SIGKILL)
