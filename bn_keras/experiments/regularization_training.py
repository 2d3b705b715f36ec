"""Train a network on few images, with more or less regularization."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bn_keras.experiments.answers import pack_answers
from bn_keras.experiments.mnist_training import load_binary
from bn_keras.experiments.rounding import round_digits
from bn_keras.layer.batch_normalization import BatchNormalization

RATE, BATCH_SIZE = 0.1, 60


def train_regularized(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    data: str,
    images: int,
    epochs: int,
    batch_normalization: bool,
    dropout: float,
    l2: float,
    seed: int,
) -> dict[str, Any]:
    """Train 3 x 100 ReLU units, with dropout before the classifier as in Inception.

    Args:
        directories: See `bn_keras.experiments.parts.Part`.
        folder: Not used: an interrupted training starts from scratch.
        data: The name of the data set.
        images: The number of training images, few enough to overfit.
        epochs: The passes over them.
        batch_normalization: Whether the network has BN.
        dropout: The share of the last features that is dropped.
        l2: The weight of the sum of squares of all kernels in the loss.
        seed: The seed of the weights, of dropout, and of the choice of the images.

    Returns:
        A dict: the `"train"` accuracy, the `"test"` accuracy, and which of the
        `"images"` test answers are `"correct"`.
    """
    examples = load_binary(data, directories.get(data))
    train: Any = examples.train
    test: Any = examples.test
    chosen = np.random.default_rng(seed).permutation(len(train))[:images]
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input(examples.shape)
    x = keras.layers.Flatten()(x)
    for _ in range(3):
        x = keras.layers.Dense(
            100,
            use_bias=not batch_normalization,
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(l2),
        )(x)
        if batch_normalization:
            x = BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Dropout(dropout)(x)
    x = keras.layers.Dense(
        len(examples.class_names),
        activation="softmax",
        kernel_regularizer=keras.regularizers.L2(l2),
    )(x)
    model: Any = keras.Model(inputs, x)
    model.compile(
        keras.optimizers.SGD(RATE), "sparse_categorical_crossentropy", jit_compile=False
    )
    model.fit(
        train.images[chosen],
        train.labels[chosen],
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
    )

    def correct(pictures, labels):
        return model.predict(pictures, batch_size=1000, verbose=0).argmax(1) == labels

    answers = correct(test.images, test.labels)
    seen = correct(train.images[chosen], train.labels[chosen])
    return {
        "train": round_digits(seen.mean()),
        "test": round_digits(answers.mean()),
        "correct": pack_answers(answers),
        "images": len(answers),
    }
