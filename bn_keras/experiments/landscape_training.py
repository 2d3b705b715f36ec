"""Train a network by gradient descent and probe its loss on the way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from bn_keras.data import Shuffling
from bn_keras.experiments import deep_linear_training
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.probing import (
    build_loss_and_gradients,
    covariate_shift,
    group_weights,
    probe,
)
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import VGG

BATCH_SIZE = 128


def train_vgg(
    directories: Mapping[str, Any],
    folder: Path | None,
    seed: int,
    batch_normalization: bool,
    data: str,
    depth: int,
    width: float,
    **probing: Any,
) -> dict[str, Any]:
    """Train a VGG network on pictures of 32x32 pixels, and probe its loss.

    An interrupted training starts from scratch, without the use of `folder`.

    Args:
        directories: See `bn_keras.experiments.parts.Part`.
        folder: Not used.
        seed: The seed of the weights and of the order of the pictures.
        batch_normalization: Whether the network has BN.
        data: The name of the data set.
        depth: The number of weight layers of the VGG.
        width: The factor by which the channels are multiplied.
        **probing: See `_train_and_probe`, whose result is returned.
    """
    pictures = load_data(data, directories.get(data))
    keras.utils.set_random_seed(seed)
    model = VGG(
        input_shape=(32, 32, pictures.shape[-1]),
        classes=len(pictures.class_names),
        head="small",
        depth=depth,
        width=width,
        normalization=BatchNormalization if batch_normalization else None,
        kernel_initializer="glorot_uniform",  # the paper's "standard Glorot"
    )
    # From -1 to 1 as in the recipes. Smaller pictures are enlarged.
    preprocessing = Preprocessing(size=(32, 32), scale=1 / 127.5, offset=-1.0)
    batches = pictures.train.batches(
        BATCH_SIZE, Shuffling(seed), preprocessing, epochs=None
    )
    loss = keras.losses.SparseCategoricalCrossentropy()
    return _train_and_probe(model, loss, batches, **probing)


def _train_and_probe(model, loss, batches, rate, factors, steps, every, drawn):
    """Train by gradient descent; probe the loss before every so many steps.

    A probe uses the mini-batch of the step that follows, and does not change the model.

    Args:
        model: The Keras model.
        loss: The Keras loss.
        batches: The mini-batches of inputs and targets, at least `steps` of them.
        rate: The learning rate.
        factors: The probed step lengths, as multiples of the learning rate.
        steps: The number of training steps.
        every: The steps between two probes.
        drawn: The layers whose covariate shift is returned, counted from 1.

    Returns:
        A dict from the name of a measure to its value at each probe, for `drawn` layers
        a dict from the layer to such a list; and `"steps"`, the steps of the probes.
    """
    model.compile(keras.optimizers.SGD(rate), loss, jit_compile=False)
    loss_and_gradients = build_loss_and_gradients(model, loss)
    layers = group_weights(model)
    probes, shifts = [], []
    for step, batch in zip(range(steps), batches, strict=False):
        if step % every == 0:

            def compute(weights, batch=batch):
                return loss_and_gradients(weights, *batch)

            # Copies: the step that follows overwrites the variables.
            weights = [
                keras.ops.convert_to_tensor(v) for v in model.trainable_variables
            ]
            probes.append(probe(compute, weights, [rate * f for f in factors]))
            shifts.append(covariate_shift(compute, weights, layers, rate, drawn))
        model.train_on_batch(*batch)
    return {
        "steps": list(range(0, steps, every)),
        **deep_linear_training.curves(probes, shifts, drawn),
    }
