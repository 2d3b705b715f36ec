"""The demo, as a newcomer runs it, and killed while it runs."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

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
    for shown in ("Learning curves", "without BN", "%)", "bn-keras serve"):
        assert shown in done.stdout
    assert done.stderr == ""
    with Image.open(folder / "work" / "learning_curves.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.slow
def test_a_demo_killed_at_any_moment_leaves_no_half_written_version(tmp_path, demo):
    _, [(_, figures), _] = demo
    moments = random.Random(0)
    for attempt in range(10):
        workdir = tmp_path / str(attempt)
        process = subprocess.Popen(
            [COMMAND, "demo", "--workdir", workdir],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Imports come before the demo's own clock starts.
        time.sleep(moments.uniform(0.2, 1.2) * (figures["seconds"] + 5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for version in (workdir / "models" / "digits").glob("[0-9]*"):
            tf.saved_model.load(str(version))
