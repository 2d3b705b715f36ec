"""The training of section 4.1's network on binary images, observed at intervals."""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from bn_keras.data import Arrays, Data, Shuffling
from bn_keras.experiments.data_sets import load_data
from bn_keras.models.mlp import INITIAL_STDDEV
from bn_keras.training import build
from bn_keras.training.recipes import BN_MLP, MLP, Recipe

if TYPE_CHECKING:
    import tensorflow as tf

# The two networks that are compared, by recipe.
LABELS = {BN_MLP.name: "With BN", MLP.name: "Without BN"}
PERCENTILES = (15, 50, 85)
# The layer whose sigmoids' inputs are observed.
LAST_HIDDEN = "hidden_3_activation"


class Observations(NamedTuple):
    """What was observed during a training, on all test images in inference mode.

    Args:
        accuracy: The test accuracy, `(observations,)`.
        percentiles: The percentiles over the test images of the input of each sigmoid
            of the last hidden layer, `(observations, 3, units)`.
        correct: Whether the last answer to each test image is correct, `(images,)`.
    """

    accuracy: np.ndarray
    percentiles: np.ndarray
    correct: np.ndarray


@cache
def load_binary(name: str, directory: str | None) -> Data:
    """Read a data set and round its pixels to 0 and 1, once per process.

    Args:
        name: The name of a data set that fits in memory, `"digits"` or `"mnist"`.
        directory: The folder of its files. With None the bundled or downloaded files
            are read.

    Returns:
        A `bn_keras.data.Data`.
    """
    examples = load_data(name, directory)
    train, test = (
        Arrays(np.round(split.images), split.labels)
        for split in (examples.train, examples.test)
    )
    return Data(examples.name, train, test, examples.class_names)


def observe_training(
    recipe: Recipe, data: Data, deviation: float, steps: int, every: int
) -> Observations:
    """Train by plain gradient descent and observe the network every so many steps.

    Args:
        recipe: `bn_keras.training.recipes.MLP` or `BN_MLP`, or a variant of one of
            them. Its moving averages serve as the population statistics.
        data: A `bn_keras.data.Data` in memory.
        deviation: The standard deviation of all initial weights, which are Gaussian.
        steps: The steps of the training, a multiple of `every`.
        every: The steps from one observation to the next.

    Returns:
        `Observations`, `steps / every` of them, the first after `every` steps.

    Raises:
        ValueError: If `steps` is not a multiple of `every`.

    Example:
    ```python
    from bn_keras.experiments.mnist_training import load_binary, observe_training
    from bn_keras.training.recipes import BN_MLP

    digits = load_binary("digits", None)
    observations = observe_training(BN_MLP, digits, 0.01, steps=40, every=20)
    assert observations.accuracy.shape == (2,)
    assert observations.percentiles.shape == (2, 3, 100)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.1.
    """
    if steps % every:
        raise ValueError(
            f"`steps` must be a multiple of `every`. Received: steps={steps}, "
            f"every={every}"
        )
    model: Any = build(recipe, data)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(layer.kernel * (deviation / INITIAL_STDDEV))
    # Many steps per call: with one, Keras' own work would take longer than the step.
    model.steps_per_execution = every
    observer = keras.Model(
        model.inputs, [model.get_layer(LAST_HIDDEN).input, *model.outputs]
    )
    accuracy, percentiles = [], []
    correct: Any = None

    def on_epoch_end(epoch, logs):
        nonlocal correct
        inputs, probabilities = observer.predict_on_batch(data.test.images)
        correct = np.argmax(probabilities, axis=1) == data.test.labels
        accuracy.append(np.mean(correct))
        percentiles.append(np.percentile(inputs, PERCENTILES, axis=0))

    model.fit(
        mini_batches(data.train, recipe),
        epochs=steps // every,
        steps_per_epoch=every,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)],
        shuffle=False,  # the stream of mini-batches is shuffled already
        verbose=0,
    )
    return Observations(np.array(accuracy), np.array(percentiles, np.float64), correct)


def mini_batches(split: Any, recipe: Recipe) -> "tf.data.Dataset":
    """Return an endless stream of full mini-batches, each epoch in a new order.

    `Split.batches` moves examples one by one, so that a stream can start anywhere. For
    a network this small that would cost more than a training step. Here the last
    examples of an epoch, which do not fill a mini-batch, are left out.

    Args:
        split: A `bn_keras.data.Arrays`.
        recipe: The recipe whose seed and batch size are used.

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
