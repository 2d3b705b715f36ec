"""A training run that was interrupted ends as one that was not."""

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

LONG_RECIPE = replace(BN_MLP, epochs=4)
LONG_STEPS = 1437 // BN_MLP.batch_size


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "Small", build_small, raising=False)
        yield


class StopAt(keras.callbacks.Callback):
    """Raises an error in a step."""

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
def uninterrupted(small_network, tmp_path_factory, digits):
    """The model and the learning curve of a run that nothing interrupts."""
    return train(RECIPE, digits, tmp_path_factory.mktemp("uninterrupted"), verbose=0)


def assert_same(model, expected):
    variables = [*model.weights, *model.optimizer.variables]
    expected_variables = [*expected.weights, *expected.optimizer.variables]
    for variable, expected_variable in zip(variables, expected_variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable),
            keras.ops.convert_to_numpy(expected_variable),
        )


# Each run is interrupted after these numbers of steps: twice, in the second epoch and
# after it resumed; in the first epoch; at its end; and with no checkpoint yet.
@pytest.mark.parametrize(
    "moments",
    [
        (STEPS + 5, 3),
        pytest.param((7,), marks=pytest.mark.slow),
        pytest.param((STEPS,), marks=pytest.mark.slow),
        pytest.param((2, 2, 9), marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_with_bitwise_the_same_weights(
    tmp_path, digits, uninterrupted, moments
):
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
    model, history = train(RECIPE, digits, tmp_path, verbose=0, checkpoint_steps=4)
    assert_same(model, uninterrupted[0])
    for name in ("val_loss", "val_accuracy"):
        assert history[name] == uninterrupted[1][name]
    assert {path.suffix for path in tmp_path.iterdir()} == {".keras", ".csv", ".json"}


def test_an_interrupted_validation_leaves_no_gap_in_the_learning_curve(
    tmp_path, digits, uninterrupted
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
    assert_same(model, uninterrupted[0])
    for name in ("val_loss", "val_accuracy", "loss"):
        assert history[name] == uninterrupted[1][name]


@pytest.mark.slow
def test_a_run_with_scaled_losses_resumes_bitwise_too(tmp_path, digits):
    recipe = replace(RECIPE, dtype="mixed_float16")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, digits, tmp_path, [StopAt(7)], verbose=0, checkpoint_steps=3)
    model, _ = train(recipe, digits, tmp_path, verbose=0)
    assert_same(model, train(recipe, digits, verbose=0)[0])


def test_an_unfinished_run_leaves_an_earlier_model_and_its_record(tmp_path, digits):
    train(replace(BN_MLP, epochs=1), digits, tmp_path, verbose=0)
    names = ("bn-mlp.keras", "bn-mlp.json")
    contents = [(tmp_path / name).read_bytes() for name in names]
    other = replace(BN_MLP, epochs=2, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"finished run.*learning_rate: 0.5, 0.1; ep"):
        train(other, digits, tmp_path, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        train(other, digits, tmp_path, [StopAt(30)], verbose=0, restart=True)
    assert [(tmp_path / name).read_bytes() for name in names] == contents
    train(other, digits, tmp_path, verbose=0)
    assert run_record.read_for_model(tmp_path / "bn-mlp.keras").recipe == other


def test_two_processes_cannot_train_in_one_folder(tmp_path, digits):
    class TrainAgain(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            train(replace(BN_MLP, epochs=1), digits, tmp_path, verbose=0)

    with pytest.raises(
        ValueError, match=r"Received: a folder in which another process trains bn-mlp"
    ):
        train(replace(BN_MLP, epochs=1), digits, tmp_path, [TrainAgain()], verbose=0)
    train(replace(BN_MLP, epochs=1), digits, tmp_path, verbose=0)


def test_a_finished_run_is_not_trained_again_unless_it_is_asked_for(tmp_path, digits):
    recipe = replace(BN_MLP, epochs=2)
    model, history = train(recipe, digits, tmp_path, verbose=0)
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again, again_history = train(recipe, digits, tmp_path, [StopAt(0)], verbose=0)
    assert_same(again, model)
    assert again_history == history
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents
    with pytest.raises(
        ValueError, match=r"Received \(finished, this\): epochs: 2, 1\."
    ):
        train(replace(recipe, epochs=1), digits, tmp_path, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, digits, tmp_path, [StopAt(0)], verbose=0, restart=True)


def test_fewer_epochs_than_were_made_are_refused(interrupted, digits):
    folder, *_ = interrupted
    with pytest.raises(ValueError, match=r"at least 3, those of .*Received: 2\. Give"):
        train(replace(LONG_RECIPE, epochs=2), digits, folder, verbose=0)
    _, history = train(replace(LONG_RECIPE, epochs=3), digits, folder, verbose=0)
    assert len(history["loss"]) == 3


@pytest.fixture(scope="module")
def interrupted_run(digits, tmp_path_factory):
    """The folder of a run of `LONG_RECIPE` that stopped after three epochs."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        train(LONG_RECIPE, digits, folder, [StopAt(LONG_STEPS * 3)], verbose=0)
    return folder


@pytest.fixture
def interrupted(interrupted_run, tmp_path):
    """A copy of that folder, and its checkpoints, the newest first."""
    folder = shutil.copytree(interrupted_run, tmp_path / "interrupted")
    checkpoints = folder / "bn-mlp.checkpoints"
    return folder, *sorted(checkpoints.glob("step-*"), reverse=True)


def truncate(path):
    file = path / "state.npz"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(path):
    file = path / "state.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(path):
    (path / "state.npz").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        pytest.param(truncate, marks=pytest.mark.slow),
        pytest.param(remove, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_checkpoint_is_left_out_with_a_warning(interrupted, digits, damage):
    folder, newest, before = interrupted
    damage(newest)
    epochs = []
    note_epoch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epochs.append(epoch)
    )
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged"):
        model, _ = train(LONG_RECIPE, digits, folder, [note_epoch], verbose=0)
    assert epochs == [int(before.name[-10:]) // LONG_STEPS, 3]
    assert_same(model, train(LONG_RECIPE, digits, verbose=0)[0])


def test_an_error_is_raised_if_all_checkpoints_are_damaged(interrupted, digits):
    folder, *paths = interrupted
    assert len(paths) == 2
    for path in paths:
        flip_a_bit(path)
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match=r"Received: 2, all damaged\. Remove the fold"),
    ):
        train(LONG_RECIPE, digits, folder, verbose=0)


def test_a_run_resumes_with_more_epochs_but_not_with_another_recipe(
    interrupted, digits
):
    folder, *_ = interrupted
    with pytest.raises(
        ValueError,
        match=r"Received \(unfinished, this\): learning_rate: 0.5, 0.25\. Name",
    ):
        train(replace(LONG_RECIPE, learning_rate=0.25), digits, folder, verbose=0)
    longer = replace(LONG_RECIPE, epochs=5)
    _, history = train(longer, digits, folder, verbose=0)
    assert len(history["loss"]) == 5


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_ends_with_bitwise_the_same_weights(
    tmp_path,
):
    folders = [tmp_path / name for name in ("uninterrupted", "killed")]

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
        # Half of them at any moment from the start, the others while it trains.
        if kills % 2:
            while process.poll() is None and set(checkpoints.glob("step-*")) <= before:
                time.sleep(0.01)
            time.sleep(choice.uniform(0, 0.4))
        else:
            time.sleep(choice.uniform(0, 10))
        if process.poll() is not None:  # it ended before; start another run
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
    uninterrupted, killed = (
        keras.models.load_model(folder / "ensemble-2.keras") for folder in folders
    )
    assert_same(killed, uninterrupted)
    curves = [
        [
            line.split(",")[6:]
            for line in (folder / "ensemble-2.csv").read_text().split()
        ]
        for folder in folders
    ]
    assert curves[0][0] == ["val_accuracy", "val_loss"]
    assert curves[0] == curves[1]
