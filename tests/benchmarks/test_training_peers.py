"""The benchmark of training beside Keras: turns, and a short run of it."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from benchmarks.training_peers import Turn


@pytest.mark.fast
def test_trainings_take_turns_epoch_by_epoch_and_only_steps_are_timed():
    gates = [threading.Semaphore(1), threading.Semaphore(0)]
    turns = [Turn(gates[0], gates[1]), Turn(gates[1], gates[0])]
    order = []

    def train(index):
        for _ in range(3):
            turns[index].begin()
            order.append(index)
            turns[index].step()
            # What follows the last step is in the turn, not in its time.
            threading.Event().wait(0.05)
            order.append(index)
            turns[index].end()

    threads = [threading.Thread(target=train, args=(index,)) for index in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert order == [0, 0, 1, 1] * 3
    assert all(len(turn.seconds) == 3 for turn in turns)
    assert max(turns[0].seconds) < 0.05


@pytest.mark.slow
def test_a_short_run_measures_speed_and_accuracy(tmp_path):
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        for name in range(10):
            folder = tmp_path / "pictures" / split / f"{name}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.training_peers"]
    command += ["--data-dir", tmp_path / "pictures", "--json", result]
    command += ["--width", "0.0625", "--steps", "3"]
    command += ["--accuracy-width", "0.0625", "--accuracy-steps", "5"]
    subprocess.run([*command, "--rounds", "2", "--seeds", "1"], cwd=ROOT, check=True)
    record = json.loads(result.read_text())
    assert {"bn_keras", "Keras"} <= set(record["speed"])
    assert all(len(one["epochs"]) == 2 for one in record["speed"].values())
    (row,) = record["accuracy"]
    assert (row["seed"], row["steps"]) == (0, 5)
    # The first steps of the same network on the same mini-batches.
    assert row["bn_keras"]["training"] == pytest.approx(
        row["Keras"]["training"], abs=0.1
    )
