"""Train a small network with mini-batches of one size, and test it in two ways."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from bn_keras.experiments.mnist_training import load_binary, mini_batches
from bn_keras.experiments.rounding import round_digits
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import MLP
from bn_keras.training.recipes import BN_MLP

GHOST = 4  # examples of a ghost batch
# What the network is built with. Group normalization has no statistics of a batch.
NORMALIZATIONS: dict[str, Callable[..., Any]] = {
    "bn": partial(BatchNormalization, momentum=0.9),
    "ghost": partial(BatchNormalization, momentum=0.9, virtual_batch_size=GHOST),
    "renorm": partial(
        BatchNormalization, momentum=0.9, renorm=True, renorm_momentum=0.9
    ),
    "group": partial(keras.layers.GroupNormalization, groups=10),
}
# The rate at the batch size of section 4.1; it is proportional to the size.
RATE, RATE_SIZE = 0.1, 60


def train_with_batch_size(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    data: str,
    normalization: str,
    batch_size: int,
    examples: int,
    seed: int,
) -> dict[str, float]:
    """Train one network of 3 x 100 ReLU units on so many examples.

    Args:
        directories: See `bn_keras.experiments.parts.Part`.
        folder: Not used: an interrupted training starts from scratch.
        data: The name of the data set.
        normalization: A key of `NORMALIZATIONS`.
        batch_size: The examples of a step.
        examples: The examples of all steps together.
        seed: The seed of the weights and of the order of the images.

    Returns:
        A dict: the accuracy on test images with `"population"` statistics, and with
        those of their own mini-batch of the same size (`"batch"`), and the `"train"`
        accuracy over the last tenth of the steps.
    """
    pictures: Any = load_binary(data, directories.get(data))
    keras.utils.set_random_seed(seed)
    model: Any = MLP(
        pictures.shape,
        activation="relu",
        normalization=NORMALIZATIONS[normalization],
        kernel_initializer="he_normal",
    )
    model.compile(
        keras.optimizers.SGD(RATE * batch_size / RATE_SIZE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    steps = max(10, examples // batch_size)
    # Many steps per call: with one, Keras' own work would take longer than the step.
    model.steps_per_execution = max(1, steps // 10)
    stream = mini_batches(
        pictures.train, replace(BN_MLP, batch_size=batch_size, seed=seed)
    )
    history = model.fit(
        stream,
        epochs=10,
        steps_per_epoch=max(1, steps // 10),
        shuffle=False,
        verbose=0,
    ).history
    images, labels = pictures.test.images, pictures.test.labels
    answers = model.predict(images, batch_size=1000, verbose=0).argmax(1)
    # In training mode, which changes the moving averages: it comes last.
    whole = len(images) // batch_size * batch_size
    batch_answers = [
        ops.convert_to_numpy(model(batch, training=True)).argmax(1)
        for batch in images[:whole].reshape(-1, batch_size, *images.shape[1:])[:500]
    ]
    joined = np.concatenate(batch_answers)
    return {
        "population": round_digits(np.mean(answers == labels)),
        "batch": round_digits(np.mean(joined == labels[: len(joined)])),
        "train": round_digits(history["accuracy"][-1]),
    }
