"""Train the second paper's VGG without augmentation, and record its accuracy."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bn_keras.data import Shuffling
from bn_keras.evaluation import predict_probabilities
from bn_keras.experiments.answers import pack_answers
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.rounding import round_digits
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import VGG

BATCH_SIZE = 128
# The height and width of the pictures, the least that five halvings allow.
SIDE = 32
_TEST_BATCH = 500


def train_and_test(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    batch_normalization: bool,
    rate: float,
    initial_scale: float,
    data: str,
    depth: int,
    width: float,
    steps: int,
    every: int,
    test: bool,
    seed: int,
) -> dict[str, Any]:
    """Train one network by plain gradient descent.

    A training whose loss overflows continues, at chance.

    Args:
        directories: See `bn_keras.experiments.parts.Part`.
        folder: Not used: an interrupted training starts from scratch.
        batch_normalization: Whether the network has BN.
        rate: The learning rate.
        initial_scale: The factor of Glorot's initial kernels, in all layers but the
            classifier.
        data: The name of the data set.
        depth: The number of weight layers of the VGG.
        width: The factor of its channels.
        steps: The number of training steps, a multiple of `every`.
        every: The number of steps that a point of a curve is the mean of.
        test: Whether all test pictures are classified after each of these points, with
            moving averages as the population statistics.
        seed: The seed of the weights and of the order of the pictures.

    Returns:
        A dict: `"accuracy"`, the curve of the accuracy on the training mini-batches.
        With `test`, also the curve of the test accuracy, `"test"`, and which of the
        `"images"` test pictures the trained network classifies correctly, `"correct"`;
        see `bn_keras.experiments.answers`.
    """
    examples = load_data(data, directories.get(data))
    keras.utils.set_random_seed(seed)
    model: Any = VGG(
        input_shape=(SIDE, SIDE, examples.shape[-1]),
        classes=len(examples.class_names),
        head="small",
        depth=depth,
        width=width,
        normalization=partial(BatchNormalization, momentum=0.9)
        if batch_normalization
        else None,
        # Glorot's uniform kernels, times the scale.
        kernel_initializer=keras.initializers.VarianceScaling(
            initial_scale**2, mode="fan_avg", distribution="uniform"
        ),
    )
    model.compile(
        keras.optimizers.SGD(rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # compilation takes long on a CPU
    )
    # From -1 to 1 as in the recipes. Smaller pictures are enlarged.
    preprocessing = Preprocessing(size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0)
    batches = examples.train.batches(
        BATCH_SIZE, Shuffling(seed), preprocessing, epochs=None
    )
    history = model.fit(
        batches,
        epochs=steps // every,
        steps_per_epoch=every,
        shuffle=False,  # the mini-batches are shuffled already
        validation_data=examples.test.batches(_TEST_BATCH, preprocessing=preprocessing)
        if test
        else None,
        verbose=0,
    ).history
    result = {"accuracy": round_digits(history["accuracy"])}
    if test:
        answers = predict_probabilities(
            model, examples.test, 1, preprocessing, _TEST_BATCH
        )
        correct = [of.argmax(-1) == labels for of, labels in answers]
        result |= {
            "test": round_digits(history["val_accuracy"]),
            "correct": pack_answers(np.concatenate(correct)),
            "images": len(examples.test),
        }
    return result
