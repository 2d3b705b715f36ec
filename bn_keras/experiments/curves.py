"""The training of an Inception variant at small scale, with its accuracy curve."""

import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bn_keras.atomic_files import atomic_write
from bn_keras.data import Arrays, Data, Split
from bn_keras.errors import DivergenceError
from bn_keras.evaluation import predict_probabilities
from bn_keras.experiments.answers import pack_answers
from bn_keras.experiments.data_sets import load_data
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.training import preprocessing_for, recipes, train
from bn_keras.training.recipes import Recipe

# The smallest share of a picture's area in a training crop. The recipes' 8% suit
# photographs of 224 pixels and hundreds of epochs.
MIN_AREA = 0.5
BATCH = 500


def halvings(recipe: Recipe) -> int:
    """Return how often a recipe's learning rate halves in a short run.

    It is once for Inception and BN-Baseline, and six times, down to 1.6%, for the
    variants, which decay six times as fast.

    Args:
        recipe: A recipe of `bn_keras.training.recipes` with the network Inception.
    """
    return round(recipes.INCEPTION.decay_epochs / recipe.decay_epochs)


def scale_down(
    recipe: Recipe,
    size: int,
    width: float,
    epochs: int,
    learning_rate: float,
    halved: int,
    seed: int,
    stem: str | None = None,
) -> Recipe:
    """Return a recipe of section 4.2 for few epochs on small pictures.

    Args:
        recipe: A recipe of `bn_keras.training.recipes` with the network Inception.
        size: The height and width of the network's input.
        width: The factor by which the channels are multiplied.
        epochs: The number of passes over the training pictures.
        learning_rate: The learning rate of the first step.
        halved: How often the learning rate halves over these epochs, smoothly.
        seed: The seed of the weights, of the order and of the augmentation.
        stem: The first layers; see `bn_keras.training.recipes.Recipe`.
    """
    if recipe.distortion is None:
        raise ValueError(
            "`recipe` must have distortions, as those of Inception do. "
            f"Received: recipe={recipe.name}"
        )
    return replace(
        recipe,
        learning_rate=learning_rate,
        seed=seed,
        width=width,
        stem=stem,
        epochs=epochs,
        decay=0.5,
        decay_epochs=epochs / halved,
        bn_momentum=0.9,
        population_batches=100,
        preprocessing=replace(
            recipe.preprocessing, size=(size, size), crop_fraction=1.0
        ),
        distortion=replace(recipe.distortion, area=(MIN_AREA, 1.0)),
    )


def sample(split: Any, count: int) -> Arrays:
    """Draw pictures of a split at random, the same ones each time.

    Args:
        split: A `bn_keras.data.Arrays`.
        count: The number of pictures; at most all are drawn.
    """
    drawn = np.random.default_rng(0).permutation(len(split))[:count]
    return Arrays(split.images[drawn], split.labels[drawn])


def hold_out(examples: Data, count: int) -> Data:
    """Return a data set whose test pictures are training pictures that are left out.

    Args:
        examples: A data set in memory.
        count: The number of training pictures that become the test pictures; at most a
            tenth of them.
    """
    train: Any = examples.train
    count = min(count, len(train) // 10)
    order = np.random.default_rng(1).permutation(len(train))
    parts = (order[count:], order[:count])
    kept, left_out = (Arrays(train.images[i], train.labels[i]) for i in parts)
    return replace(examples, train=kept, test=left_out)


def measure_accuracy_curve(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    variant: str,
    data: str,
    size: int,
    width: float,
    stem: str | None,
    epochs: int,
    learning_rate: float,
    halved: int,
    every: int,
    images: int,
    held_out: int,
    give_up: int | None,
    seed: int,
) -> dict[str, Any]:
    """Train one variant and measure its accuracy while it learns.

    The sizes are those of `bn_keras.experiments.inception.InceptionPlan`, the other
    arguments those of `scale_down` and of `bn_keras.experiments.parts.Part`. With
    `held_out`, so many training pictures are left out and take the place of the test
    pictures. With `give_up`, a training that is at chance after so many steps ends.

    Returns:
        A dict. `"steps"` and `"accuracy"` are the curve, measured with the moving
        averages. `"final"` is the accuracy on all test pictures at the end, with
        population statistics pooled over 100 mini-batches; `"correct"` says which of
        the `"images"` test pictures; see
        `bn_keras.experiments.answers.unpack_answers`. `"diverged"` is the step at
        which the loss stopped being finite, or None; from then on the network counts as
        being at chance. `"gave_up"` is the step of the end at chance, or None.
        `"milliseconds"` is the median time of a step, `"megabytes"` the largest memory
        of the process.
    """
    examples = load_data(data, directories.get(data))
    if held_out:
        examples = hold_out(examples, held_out)
    recipe = scale_down(
        recipes.RECIPES[variant], size, width, epochs, learning_rate, halved, seed, stem
    )
    classes = len(examples.class_names)
    test_sample = sample(examples.test, images)
    curve = AccuracyCurve(
        test_sample,
        preprocessing_for(recipe, examples),
        every,
        None if folder is None else folder / "curve.json",
        give_up=None if give_up is None else (give_up, 1.2 / classes),
    )
    diverged, correct = None, np.zeros(len(examples.test), bool)
    try:
        model = train_or_load(
            recipe, replace(examples, test=test_sample), folder, [curve]
        )
        correct = _answer(model, examples, preprocessing_for(recipe, examples))
        final = float(correct.mean())
    except DivergenceError as error:
        diverged, final = error.step, 1 / classes
    return {
        "steps": list(curve.accuracy),
        "accuracy": [round(value, 5) for value in curve.accuracy.values()],
        "final": round(final, 5),
        "correct": pack_answers(correct),
        "images": len(correct),
        "diverged": diverged,
        "gave_up": curve.gave_up,
        "milliseconds": round(1000 * float(np.median(curve.seconds or [0])), 2),
        # Linux counts in KiB.
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _answer(model, examples, preprocessing):
    """Return whether the model's answer to each test picture is correct."""
    batches = predict_probabilities(model, examples.test, 1, preprocessing, BATCH)
    pairs = [(answers.argmax(-1), labels) for answers, labels in batches]
    answers, labels = map(np.concatenate, zip(*pairs, strict=True))
    return answers == labels


def train_or_load(
    recipe: Recipe,
    examples: Data,
    folder: Path | None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Any:
    """Train by a recipe, or load the model if an earlier run finished its training.

    Args:
        recipe: The recipe.
        examples: The data set.
        folder: See `bn_keras.training.train`.
        callbacks: See `bn_keras.training.train`.

    Returns:
        The model.
    """
    path = None if folder is None else folder / f"{recipe.name}.keras"
    if path is not None and path.is_file():
        return keras.saving.load_model(path)
    model, _ = train(recipe, examples, folder, callbacks, verbose=0)
    return model


class AccuracyCurve(keras.callbacks.Callback):
    """Measure the test accuracy every few steps, and keep it in a file between runs.

    Args:
        split: The pictures.
        preprocessing: How pixels become inputs of the model.
        every: The steps between two measurements.
        path: The file, or None to keep nothing.
        give_up: A step and an accuracy: a training that is below the accuracy at its
            first measurement from that step on ends. With None none does.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        every: int,
        path: Path | None = None,
        give_up: tuple[int, float] | None = None,
    ):
        super().__init__()
        self.every, self.path = every, path
        self.give_up, self.gave_up = give_up, None
        self.seconds: list[float] = []  # of each step since this process started it
        self._start = 0.0
        batches = split.batches(BATCH, preprocessing=preprocessing)
        pairs = list(batches.as_numpy_iterator())
        self.images, self.labels = map(np.concatenate, zip(*pairs, strict=True))
        self.accuracy, self.step = {}, 0
        if path is not None and path.is_file():
            earlier = json.loads(path.read_text())
            self.accuracy = {int(step): value for step, value in earlier.items()}

    def on_train_begin(self, logs=None):  # noqa: D102 (overrides Keras' method)
        self.step = int(self.model.optimizer.iterations)
        if self.step == 0:
            self._measure()

    def on_train_batch_begin(self, batch, logs=None):  # noqa: D102
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        self.seconds.append(time.perf_counter() - self._start)
        self.step += 1
        if self.step % self.every == 0:
            self._measure()
            if self.give_up and self.step >= self.give_up[0]:
                if self.accuracy.get(self.step, 0.0) < self.give_up[1]:
                    self.gave_up = self.step
                    self.model.stop_training = True
                self.give_up = None

    def _measure(self):
        answers = self.model.predict(self.images, batch_size=BATCH, verbose=0)
        if not np.isfinite(answers).all():
            return  # the next step's loss will not be finite either, and ends training
        self.accuracy[self.step] = float((answers.argmax(-1) == self.labels).mean())
        if self.path is not None:
            with atomic_write(self.path) as temporary_path:
                temporary_path.write_text(json.dumps(self.accuracy))
