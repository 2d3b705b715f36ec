"""Train a network that is built quickly, with everything that a recipe can have.

These are batch normalization, dropout, momentum, a schedule, L2 and augmentation.

Usage: small_training.py WORKDIR EPOCHS
"""

import sys
from dataclasses import replace
from pathlib import Path

import keras

from bn_keras import data, models
from bn_keras.training import train
from bn_keras.training.recipes import ENSEMBLE

RECIPE = replace(ENSEMBLE[1], model="Small", width=0.5, batch_size=128, epochs=2)
STEPS = 1437 // RECIPE.batch_size


def build_small(
    input_shape,
    classes,
    normalization,
    name,
    activation,
    dropout,
    kernel_regularizer,
    width,
    local_response_normalization,
):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(
                int(8 * width), 3, kernel_regularizer=kernel_regularizer
            ),
            normalization(axis=-1, name="bn"),
            keras.layers.Activation(activation),
            keras.layers.Flatten(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(classes, activation="softmax"),
        ],
        name=name,
    )


if __name__ == "__main__":
    models.Small = build_small
    workdir = Path(sys.argv[1])
    workdir.mkdir(exist_ok=True)
    recipe = replace(RECIPE, epochs=int(sys.argv[2]))
    train(recipe, data.digits(), workdir, verbose=0, checkpoint_steps=5)
