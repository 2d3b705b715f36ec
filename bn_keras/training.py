"""Train a model on a data set by a recipe.

Knows Keras' training loop and what a run leaves in its work directory; not the command
line, and not what becomes of the model.
"""

from functools import partial
from pathlib import Path

import keras

from bn_keras import models
from bn_keras.batch_normalization import BatchNormalization
from bn_keras.files import published
from bn_keras.population import estimate_population_statistics


def build(recipe, data):
    """The recipe's model for that data, compiled, its weights drawn from the seed.

    Args:
        recipe: a `bn_keras.recipes.Recipe`.
        data: a `bn_keras.data.Data`.

    Returns:
        A compiled `keras.Model` of class probabilities.
    """
    keras.utils.set_random_seed(recipe.seed)
    model = getattr(models, recipe.model)(
        input_shape=data.input_shape,
        classes=len(data.class_names),
        normalization=partial(BatchNormalization, momentum=recipe.bn_momentum)
        if recipe.batch_normalization
        else None,
        name=recipe.name.replace("-", "_"),
    )
    # Keras would choose XLA, which is slow on a CPU (README, "The layer").
    on_gpu = bool(keras.distribution.list_devices("gpu"))
    model.compile(
        keras.optimizers.SGD(recipe.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile="auto" if on_gpu or keras.backend.backend() == "jax" else False,
    )
    return model


def train(recipe, data, workdir=None, callbacks=(), verbose: str | int = "auto"):
    """Train by a recipe, then estimate the population statistics on the training set.

    Args:
        recipe: a `bn_keras.recipes.Recipe`.
        data: a `bn_keras.data.Data`.
        workdir: an existing folder for `RECIPE.keras` and `RECIPE.csv` (the learning
            curve, a line an epoch), or None to write nothing.
        callbacks: further Keras callbacks.
        verbose: as in `keras.Model.fit`.

    Returns:
        `(model, history)`: the trained model, and Keras' history of it: a dict from
        `loss`, `accuracy`, `val_loss`, `val_accuracy` to a value an epoch, measured
        with the moving averages.
    """
    model = build(recipe, data)
    callbacks = list(callbacks)
    if workdir is not None:
        callbacks.append(
            keras.callbacks.CSVLogger(Path(workdir) / f"{recipe.name}.csv")
        )
    history = model.fit(
        data.train.batches(recipe.batch_size, seed=recipe.seed),
        epochs=recipe.epochs,
        validation_data=data.test.batches(256),
        callbacks=callbacks,
        shuffle=False,  # the data set shuffles
        verbose=verbose,
    )
    if recipe.batch_normalization:
        estimate_population_statistics(
            model, data.train.batches(recipe.batch_size), "pooled", verbose=0
        )
    if workdir is not None:
        with published(Path(workdir) / f"{recipe.name}.keras") as beside:
            model.save(beside)
    return model, history.history
