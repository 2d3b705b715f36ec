"""A variant's training at small scale, with its accuracy against steps.

Knows recipes and how they shrink; not which variants are compared.
"""

import json
from dataclasses import replace

import keras
import numpy as np

from bn_keras.atomic_files import atomic_write
from bn_keras.data import Arrays
from bn_keras.errors import DivergenceError
from bn_keras.evaluation import evaluate
from bn_keras.experiments.parts import load_data
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.training import preprocessing_for, recipes, train

# Least share of the picture's area that a training crop has. The recipes' 8 % are for
# photographs of 224 pixels and hundreds of epochs.
LEAST_AREA = 0.5
BATCH = 500


def halvings(recipe):
    """How often a learning rate halves in a short run.

    Once for Inception and BN-Baseline; six times, to 1.6 %, for the variants, which
    decay six times as fast.

    Args:
        recipe: one of `bn_keras.training.recipes` with the network Inception.
    """
    return round(recipes.INCEPTION.decay_epochs / recipe.decay_epochs)


def scaled_down(recipe, size, width, epochs, learning_rate, halved, seed):
    """A recipe of section 4.2 for few epochs on small pictures.

    Args:
        recipe: one of `bn_keras.training.recipes` with the network Inception.
        size: height and width of the network's input.
        width: multiplies the channels.
        epochs: passes over the training pictures.
        learning_rate: at the first step.
        halved: how often the learning rate halves over these epochs, smoothly.
        seed: of the weights, the order and the distortions.

    Returns:
        A `Recipe`.
    """
    return replace(
        recipe,
        learning_rate=learning_rate,
        seed=seed,
        width=width,
        epochs=epochs,
        decay=0.5,
        decay_epochs=epochs / halved,
        bn_momentum=0.9,
        population_batches=100,
        preprocessing=replace(
            recipe.preprocessing, size=(size, size), crop_fraction=1.0
        ),
        distortion=replace(recipe.distortion, area=(LEAST_AREA, 1.0)),
    )


def sample(split, count):
    """Some pictures of a split in memory, drawn without a thought for their classes.

    Args:
        split: a `bn_keras.data.Arrays`.
        count: how many at most.

    Returns:
        An `Arrays`, the same one each time.
    """
    drawn = np.random.default_rng(0).permutation(len(split))[:count]
    return Arrays(split.images[drawn], split.labels[drawn])


def accuracy_curve(
    directories,
    folder,
    *,
    variant,
    data,
    size,
    width,
    epochs,
    learning_rate,
    halved,
    every,
    images,
    seed,
):
    """Train one variant and measure its accuracy as it learns.

    Args:
        directories: dict from a data set's name to the folder of its files.
        folder: where a training that was killed goes on; None to begin anew.
        variant: a key of `bn_keras.training.recipes.RECIPES`.
        data: name of the data set.
        size: height and width of the network's input.
        width: multiplies the channels.
        epochs: passes over the training pictures.
        learning_rate: at the first step.
        halved: how often the learning rate halves until the last step.
        every: steps between two points of the curve.
        images: test pictures of each point.
        seed: of the weights, the order and the distortions.

    Returns:
        A dict: `"steps"` and `"accuracy"`, the curve, with the moving averages;
        `"final"`, accuracy on all test pictures at the end, with population statistics
        pooled over 100 mini-batches; `"diverged"`, the step at which the loss was no
        number any more, or None. What has diverged is at chance from there on.
    """
    examples = load_data(data, directories.get(data))
    recipe = scaled_down(
        recipes.RECIPES[variant], size, width, epochs, learning_rate, halved, seed
    )
    small = sample(examples.test, images)
    curve = Curve(
        small,
        preprocessing_for(recipe, examples),
        every,
        None if folder is None else folder / "curve.json",
    )
    diverged = None
    try:
        model = trained(recipe, replace(examples, test=small), folder, [curve])
        final = evaluate(
            model, examples.test, 1, preprocessing_for(recipe, examples), BATCH
        ).top1
    except DivergenceError:
        diverged, final = curve.step, 1 / len(examples.class_names)
    return {
        "steps": list(curve.accuracy),
        "accuracy": [round(value, 5) for value in curve.accuracy.values()],
        "final": round(final, 5),
        "diverged": diverged,
    }


def trained(recipe, examples, folder, callbacks=()):
    """Train by a recipe, or load what an earlier run has trained to the end.

    Args:
        recipe: a `Recipe`.
        examples: a `bn_keras.data.Data`.
        folder: as `bn_keras.training.train` has it.
        callbacks: likewise.

    Returns:
        The model.
    """
    path = None if folder is None else folder / f"{recipe.name}.keras"
    if path is not None and path.is_file():
        return keras.saving.load_model(path)
    model, _ = train(recipe, examples, folder, callbacks, verbose=0)
    return model


class Curve(keras.callbacks.Callback):
    """Test accuracy each few steps, kept in a file between two runs.

    Args:
        split: pictures, a `bn_keras.data.Split`.
        preprocessing: of the model's inputs.
        every: steps between two measurements.
        path: the file; None for none.
    """

    def __init__(self, split, preprocessing: Preprocessing, every, path=None):
        super().__init__()
        self.every, self.path = every, path
        batches = split.batches(BATCH, preprocessing=preprocessing)
        pairs = list(batches.as_numpy_iterator())
        self.images, self.labels = map(np.concatenate, zip(*pairs, strict=True))
        self.accuracy, self.step = {}, 0
        if path is not None and path.is_file():
            found = json.loads(path.read_text())
            self.accuracy = {int(step): value for step, value in found.items()}

    def on_train_begin(self, logs=None):  # noqa: D102 (as Keras has it)
        self.step = int(self.model.optimizer.iterations)
        if self.step == 0:
            self._measure()

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        self.step += 1
        if self.step % self.every == 0:
            self._measure()

    def _measure(self):
        answers = self.model.predict(self.images, batch_size=BATCH, verbose=0)
        if not np.isfinite(answers).all():
            return  # a step later the loss is no number, and the training ends
        self.accuracy[self.step] = float((answers.argmax(-1) == self.labels).mean())
        if self.path is not None:
            with atomic_write(self.path) as temporary_path:
                temporary_path.write_text(json.dumps(self.accuracy))
