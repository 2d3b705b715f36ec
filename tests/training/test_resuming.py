"""A training that was interrupted ends as one that was not."""

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
import small_training
from small_training import RECIPE, STEPS, build_small

from bn_keras import data, models
from bn_keras.training import run_record, train
from bn_keras.training.recipes import BN_MLP


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "Small", build_small, raising=False)
        yield


class StopAt(keras.callbacks.Callback):
    """Raise in a step, as a fault would."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def whole(small_network, tmp_path_factory, digits):
    """The model of a run that nothing interrupts, and its learning curve."""
    return train(RECIPE, digits, tmp_path_factory.mktemp("whole"), verbose=0)


def assert_same(model, other):
    weights = [*model.weights, *model.optimizer.variables]
    others = [*other.weights, *other.optimizer.variables]
    for weight, its in zip(weights, others, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(its)
        )


# In the first epoch, at its end, in the second, and with no checkpoint yet.
@pytest.mark.parametrize("moments", [(7,), (STEPS,), (STEPS + 5, 3), (2, 2, 9)])
def test_an_interrupted_training_ends_with_bitwise_the_same_weights(
    tmp_path, digits, whole, moments
):
    model, history = whole
    for moment in moments:
        with pytest.raises(KeyboardInterrupt):
            train(
                RECIPE,
                digits,
                tmp_path,
                [StopAt(moment)],
                verbose=0,
                checkpoint_steps=4,
            )
    resumed, curve = train(RECIPE, digits, tmp_path, verbose=0, checkpoint_steps=4)
    assert_same(model, resumed)
    for name in ("val_loss", "val_accuracy"):
        assert curve[name] == history[name]
    assert {path.suffix for path in tmp_path.iterdir()} == {".keras", ".csv", ".json"}


def test_an_interrupted_validation_leaves_no_gap_in_the_learning_curve(
    tmp_path, digits, whole
):
    class StopInValidation(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            if self.model.optimizer.iterations > STEPS:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            RECIPE,
            digits,
            tmp_path,
            [StopInValidation()],
            verbose=0,
            checkpoint_steps=STEPS,
        )
    model, history = train(RECIPE, digits, tmp_path, verbose=0)
    assert_same(model, whole[0])
    assert history == whole[1]


def test_scaled_losses_resume_bitwise_too(tmp_path, digits):
    recipe = replace(RECIPE, dtype="mixed_float16")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, digits, tmp_path, [StopAt(7)], verbose=0, checkpoint_steps=3)
    resumed, _ = train(recipe, digits, tmp_path, verbose=0)
    assert_same(resumed, train(recipe, digits, verbose=0)[0])


def test_an_unfinished_run_leaves_the_model_before_it_and_its_facts(tmp_path, digits):
    train(replace(BN_MLP, epochs=1), digits, tmp_path, verbose=0)
    names = ("bn-mlp.keras", "bn-mlp.json")
    before = [(tmp_path / name).read_bytes() for name in names]
    other = replace(BN_MLP, epochs=3, learning_rate=0.1)
    with pytest.raises(KeyboardInterrupt):
        train(other, digits, tmp_path, [StopAt(30)], verbose=0)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    train(other, digits, tmp_path, verbose=0)
    assert run_record.read_for_model(tmp_path / "bn-mlp.keras").recipe == other


def test_two_processes_do_not_train_in_one_folder(tmp_path, digits):
    class Again(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            train(replace(BN_MLP, epochs=1), digits, tmp_path, verbose=0)

    with pytest.raises(
        ValueError, match=r"Received: a folder in which another process trains bn-mlp"
    ):
        train(replace(BN_MLP, epochs=1), digits, tmp_path, [Again()], verbose=0)
    train(replace(BN_MLP, epochs=1), digits, tmp_path, verbose=0)


def interrupted(tmp_path, digits):
    recipe = replace(BN_MLP, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, digits, tmp_path, [StopAt(23 * 3)], verbose=0)
    newest, before = sorted(
        (tmp_path / "bn-mlp.checkpoints").glob("step-*"), reverse=True
    )
    return recipe, newest, before


def cut(path):
    file = path / "state.weights.h5"
    file.write_bytes(file.read_bytes()[:-100])


def flip(path):
    file = path / "state.weights.h5"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(path):
    (path / "state.weights.h5").unlink()


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_checkpoint_is_left_out_with_a_warning(tmp_path, digits, damage):
    recipe, newest, before = interrupted(tmp_path, digits)
    damage(newest)
    begun = []
    first = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begun.append(epoch)
    )
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged"):
        model, _ = train(recipe, digits, tmp_path, [first], verbose=0)
    assert begun == [int(before.name[-10:]) // 23, 3]
    assert_same(model, train(recipe, digits, verbose=0)[0])


def test_checkpoints_that_are_all_damaged_are_an_error(tmp_path, digits):
    recipe, *paths = interrupted(tmp_path, digits)
    for path in paths:
        flip(path)
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match=r"Received: 2, all damaged; remove the folder"),
    ):
        train(recipe, digits, tmp_path, verbose=0)


def test_a_run_of_other_facts_does_not_go_on(tmp_path, digits):
    recipe, *_ = interrupted(tmp_path, digits)
    with pytest.raises(
        ValueError, match=r"Received \(there, now\): learning_rate: 0.5, 0.25; name"
    ):
        train(replace(recipe, learning_rate=0.25), digits, tmp_path, verbose=0)
    # More epochs are more of the same run.
    longer = replace(recipe, epochs=5)
    _, history = train(longer, digits, tmp_path, verbose=0)
    assert len(history["loss"]) == 5


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_bitwise_the_same_weights(
    tmp_path,
):
    folders = [tmp_path / name for name in ("whole", "killed")]

    def command(folder):
        return [sys.executable, small_training.__file__, folder, "60"]

    subprocess.run(command(folders[0]), check=True, capture_output=True)
    choice = random.Random(0)
    checkpoints = folders[1] / "ensemble-2.checkpoints"
    kills, steps = 0, set()
    while kills < 20:
        before = set(checkpoints.glob("step-*"))
        process = subprocess.Popen(
            command(folders[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Half of them at any moment from the start, half of them while it trains.
        if kills % 2:
            while process.poll() is None and set(checkpoints.glob("step-*")) <= before:
                time.sleep(0.01)
            time.sleep(choice.uniform(0, 0.4))
        else:
            time.sleep(choice.uniform(0, 10))
        if process.poll() is not None:  # it was faster; begin another run
            assert process.returncode == 0
            shutil.rmtree(folders[1])
            kills, steps = 0, set()
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        steps |= {path.name for path in checkpoints.glob("step-*")}
    subprocess.run(command(folders[1]), check=True, capture_output=True)
    assert len(steps) > 5
    whole, killed = (
        keras.models.load_model(folder / "ensemble-2.keras") for folder in folders
    )
    assert_same(whole, killed)
    curves = [
        [
            line.split(",")[3:]
            for line in (folder / "ensemble-2.csv").read_text().split()
        ]
        for folder in folders
    ]
    assert curves[0][0] == ["val_accuracy", "val_loss"]
    assert curves[0] == curves[1]
