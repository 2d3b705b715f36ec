"""One training of section 4.1's network on binary images, looked at on its way.

Knows the network, its stream of mini-batches and what is looked at; not which
trainings are compared.
"""

from functools import cache
from typing import NamedTuple

import keras
import numpy as np

from bn_keras.data import Arrays, Data, Shuffling
from bn_keras.experiments.parts import load_data
from bn_keras.models.mlp import INITIAL_STDDEV
from bn_keras.training import build
from bn_keras.training.recipes import BN_MLP, MLP

# The two networks that are compared, by recipe.
LABELS = {BN_MLP.name: "With BN", MLP.name: "Without BN"}
PERCENTILES = (15, 50, 85)
# The input of its sigmoids is looked at.
LAST_HIDDEN = "hidden_3_activation"


class Course(NamedTuple):
    """What a training showed at each look, all test images in inference mode.

    Args:
        accuracy: test accuracy, `(looks,)`.
        percentiles: over the test images, of the input of each sigmoid of the last
            hidden layer, `(looks, 3, units)`.
    """

    accuracy: np.ndarray
    percentiles: np.ndarray


@cache
def load_binary(name: str, directory: str | None) -> Data:
    """The data set with its pixels rounded to 0 and 1, read once a process.

    Args:
        name: of a data set in memory, `"digits"` or `"mnist"`.
        directory: folder of its files; None for those bundled or downloaded.
    """
    found = load_data(name, directory)
    train, test = (
        Arrays(np.round(split.images), split.labels)
        for split in (found.train, found.test)
    )
    return Data(found.name, train, test, found.class_names)


def follow(recipe, data, deviation, steps, every):
    """Train by plain gradient descent and look at the network every so many steps.

    Args:
        recipe: `bn_keras.training.recipes.MLP` or `BN_MLP`, or a variant of one; its
            moving averages stand for the population statistics at each look.
        data: a `bn_keras.data.Data` in memory.
        deviation: standard deviation of all initial weights, which are Gaussian.
        steps: of the training, a multiple of `every`.
        every: steps from one look to the next.

    Returns:
        A `Course` of `steps / every` looks, the first after `every` steps.

    Raises:
        ValueError: if `steps` is not a multiple of `every`.

    Example:
    ```python
    from bn_keras.experiments.mnist_training import follow, load_binary
    from bn_keras.training.recipes import BN_MLP

    course = follow(BN_MLP, load_binary("digits", None), 0.01, steps=40, every=20)
    assert course.accuracy.shape == (2,)
    assert course.percentiles.shape == (2, 3, 100)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.1.
    """
    if steps % every:
        raise ValueError(
            f"`steps` must be a multiple of `every`. Received: steps={steps}, "
            f"every={every}"
        )
    model = build(recipe, data)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(layer.kernel * (deviation / INITIAL_STDDEV))
    # As many steps a call: one by one, Keras' own work takes longer than a step.
    model.steps_per_execution = every
    look = keras.Model(
        model.inputs, [model.get_layer(LAST_HIDDEN).input, *model.outputs]
    )
    accuracy, percentiles = [], []

    def on_epoch_end(epoch, logs):
        inputs, probabilities = look.predict_on_batch(data.test.images)
        accuracy.append(np.mean(np.argmax(probabilities, axis=1) == data.test.labels))
        percentiles.append(np.percentile(inputs, PERCENTILES, axis=0))

    model.fit(
        mini_batches(data.train, recipe),
        epochs=steps // every,
        steps_per_epoch=every,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)],
        shuffle=False,  # the stream is shuffled
        verbose=0,
    )
    return Course(np.array(accuracy), np.array(percentiles, np.float64))


def mini_batches(split, recipe):
    """Full mini-batches without end, each epoch in an order of its own.

    `Split.batches` moves examples one by one, so that a stream may begin anywhere; that
    costs more than a step of so small a network. Here an epoch's last examples that
    fill no mini-batch are left out.

    Args:
        split: a `bn_keras.data.Arrays`.
        recipe: of it the seed and the batch size.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`.
    """
    import tensorflow as tf

    shuffling = Shuffling(recipe.seed)

    def orders(epoch):
        order = split.order(shuffling, epoch)
        return order.batch(recipe.batch_size, drop_remainder=True)

    epochs = tf.data.Dataset.range(np.iinfo(np.int64).max)
    return epochs.flat_map(orders).map(split.read).prefetch(8)
