"""The best epoch, early stopping and class weights."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest

from bn_keras import data
from bn_keras.evaluation import evaluate
from bn_keras.training import train
from bn_keras.training.mini_batches import compute_class_weights
from bn_keras.training.preparation import divide
from bn_keras.training.recipes import BN_MLP, CONVNET
from bn_keras.training.selection import Selection

# Without batch normalization, whose statistics are estimated again at the end.
RECIPE = replace(CONVNET, epochs=4, keep_best=True)


@pytest.fixture(scope="module")
def digits():
    return data.digits()


class StopInEpoch(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class SpoilLastEpochs(keras.callbacks.Callback):
    """Makes the weights of all epochs after the second one useless."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch >= 2:
            self.model.set_weights([0 * w for w in self.model.get_weights()])


def test_the_best_epoch_of_held_out_training_examples_is_kept(digits, tmp_path):
    model, history = train(RECIPE, digits, callbacks=[SpoilLastEpochs()], verbose=0)
    divided = divide(RECIPE, digits)
    assert len(divided.validation) == pytest.approx(144, abs=10)
    assert len(divided.train) + len(divided.validation) == len(digits.train)
    assert divided.test is digits.test
    best = max(history["val_accuracy"])
    assert best > 0.5 > history["val_accuracy"][-1]
    assert evaluate(model, divided.validation).top1 == pytest.approx(best)
    for epoch in (2, 3):
        callbacks = [StopInEpoch(epoch), SpoilLastEpochs()]
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, digits, tmp_path, callbacks, verbose=0)
    callbacks = [SpoilLastEpochs()]
    resumed, resumed_history = train(RECIPE, digits, tmp_path, callbacks, verbose=0)
    assert resumed_history["val_accuracy"] == history["val_accuracy"]
    for weight, expected in zip(
        resumed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, expected)
    assert {path.suffix for path in tmp_path.iterdir()} == {".keras", ".csv", ".json"}


def test_the_learning_rate_falls_by_epochs_of_the_examples_that_are_left(
    digits, tmp_path
):
    # One epoch has 21 steps, 23 with the examples that are held out.
    recipe = replace(RECIPE, epochs=2, learning_rate=0.1, decay=0.5, decay_epochs=1)
    train(recipe, digits, tmp_path, verbose=0)
    lines = (tmp_path / "convnet.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    assert [row["steps"] for row in rows] == ["21", "42"]
    assert [row["learning_rate"] for row in rows] == ["0.05", "0.025"]


def select(scores, patience=None):
    """Return the best epoch after each epoch, and where training stops."""
    selection = Selection({}, None, False, patience)
    selection.set_model(keras.Sequential())
    best = []
    for epoch, (accuracy, loss) in enumerate(scores):
        logs = {"val_accuracy": accuracy, "val_loss": loss}
        selection.on_epoch_end(epoch, logs)
        best.append(selection.best)
        if selection.model.stop_training:
            break
    return best


@pytest.mark.fast
def test_the_best_epoch_is_the_first_with_the_highest_accuracy_then_lowest_loss():
    scores = [(0.5, 2.0), (0.7, 1.0), (0.7, 0.9), (0.7, 0.9), (0.6, 0.1), (0.8, 3.0)]
    assert select(scores) == [1, 2, 3, 3, 3, 6]
    assert select(scores, patience=2) == [1, 2, 3, 3, 3]
    assert select(scores, patience=3) == [1, 2, 3, 3, 3, 6]


def test_training_ends_when_no_epoch_gets_better_and_stays_finished(digits, tmp_path):
    recipe = replace(RECIPE, epochs=50, patience=2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, digits, tmp_path, [StopInEpoch(2)], verbose=0)
    _, history = train(recipe, digits, tmp_path, [SpoilLastEpochs()], verbose=0)
    # Two epochs that got better, or nearly so, and two that did not.
    assert len(history["val_accuracy"]) in (3, 4)
    _, again = train(recipe, digits, tmp_path, [StopInEpoch(0)], verbose=0)
    assert again == history


def test_records_without_validation_examples_cannot_choose_an_epoch(digits, tmp_path):
    pixels = (digits.train.images * 255).astype(np.uint8)
    split = data.Arrays(pixels, digits.train.labels)
    digits = replace(digits, train=split, test=split)
    records = data.convert(digits, tmp_path / "records", shards=2)
    with pytest.raises(ValueError, match="must have validation examples"):
        train(RECIPE, records, verbose=0)
    rest, held = digits.train.hold_out(10)
    whole = replace(digits, train=rest, validation=held)
    converted = data.convert(whole, tmp_path / "whole", shards=2)
    assert len(data.records(tmp_path / "whole").validation) == len(held)
    assert len(converted.validation) == len(held)


def test_rare_classes_weigh_as_much_as_frequent_ones(digits):
    chosen = np.flatnonzero((digits.train.labels != 3) | (np.arange(1437) % 7 == 0))
    train_split = data.Arrays(digits.train.images[chosen], digits.train.labels[chosen])
    unbalanced = replace(digits, train=train_split)
    counts = np.bincount(train_split.labels)
    weights = compute_class_weights(unbalanced)
    np.testing.assert_allclose(weights * counts, np.full(10, counts.sum() / 10))
    recipe = replace(BN_MLP, epochs=2, class_weights=True)
    model, _ = train(recipe, unbalanced, verbose=0)
    assert evaluate(model, digits.test).per_class[3].top1 > 0.5
