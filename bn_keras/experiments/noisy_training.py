"""A VGG trained with some normalization, and how far its layers' inputs move.

Knows one training and its moments; not what is compared with what.
"""

import math
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from bn_keras.data import Shuffling
from bn_keras.experiments.curves import sample
from bn_keras.experiments.layers.noisy_normalization import (
    LpNormalization,
    NoisyBatchNormalization,
    NoisyBias,
    Watch,
)
from bn_keras.experiments.parts import load_data
from bn_keras.experiments.rows import rounded
from bn_keras.images.preprocessing import Preprocessing
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import VGG
from bn_keras.population import estimate_population_statistics

# What the VGG is built with.
NORMALIZATIONS: dict[str, Any] = {
    "none": None,
    "bn": BatchNormalization,
    "noisy-bn": NoisyBatchNormalization,
    "noise": NoisyBias,
    "l1": partial(LpNormalization, 1, momentum=0.9),
    "l2": partial(LpNormalization, 2, momentum=0.9),
    "linf": partial(LpNormalization, math.inf, momentum=0.9),
}
RATE = 0.1
# Height and width of the pictures, the least that five halvings take.
SIDE = 32
# Last steps of a training of which one unit is kept.
SHOWN = 50


def train_network(
    directories,
    folder,
    *,
    network,
    data,
    depth,
    width,
    batch_size,
    steps,
    every,
    test_every,
    test_images,
    population_batches,
    seed,
):
    """Train one network, watching three of its layers.

    Watched is, in training, what comes before the nonlinearity of the second layer, of
    the one two thirds up (of 13 the 9th), and of the last.

    Args:
        directories: dict from a data set's name to the folder of its files.
        folder: not needed: a training that was killed is begun anew.
        network: a key of `NORMALIZATIONS`.
        data: name of the data set.
        depth: of the VGG.
        width: multiplies its channels.
        batch_size: examples a step.
        steps: of the training.
        every: steps of which one point of the training curve is the mean.
        test_every: steps between two tests, a multiple of `every`.
        test_images: of each test.
        population_batches: mini-batches behind BN's statistics at a test.
        seed: of the weights, the order and the noise.

    Returns:
        A dict: `"accuracy"` and `"loss"`, means of `every` training steps each;
        `"test"`, test accuracies, of BN with the population statistics of Algorithm 2
        and of p-norms with moving averages; `"instability"`, dict from the number of
        each watched layer to the median of its `distances`; `"unit"`, the `"mean"` and
        the `"deviation"` of a typical unit of the middle one at each of the last
        steps.
    """
    keras.utils.set_random_seed(seed)
    examples = load_data(data, directories.get(data))
    preprocessing = Preprocessing(size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0)
    model, watches = _watched(
        VGG(
            input_shape=(SIDE, SIDE, examples.shape[-1]),
            classes=len(examples.class_names),
            head="small",
            depth=depth,
            width=width,
            normalization=NORMALIZATIONS[network],
        )
    )
    batches = examples.train.batches(
        batch_size, Shuffling(seed), preprocessing, epochs=None
    )
    tested = sample(examples.test, test_images).batches(
        500, preprocessing=preprocessing
    )
    paths = {number: [] for number in watches}
    test = []

    def remember(batch, logs=None):
        for number, watch in watches.items():
            paths[number].append(ops.convert_to_numpy(watch.moments))

    def measure_test(epoch, logs=None):
        if (epoch + 1) * every % test_every:
            return
        if network in ("bn", "noisy-bn"):
            # The moving averages are of noisy inputs.
            estimate_population_statistics(
                model, batches, steps=population_batches, verbose=0
            )
        test.append(model.evaluate(tested, verbose=0, return_dict=True)["accuracy"])

    history = model.fit(
        batches,
        epochs=steps // every,
        steps_per_epoch=every,
        shuffle=False,  # the data set shuffles
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=remember, on_epoch_end=measure_test
            )
        ],
    ).history
    moved = {number: distances(np.array(path)) for number, path in paths.items()}
    middle = list(watches)[1]
    shown = np.array(paths[middle])[-SHOWN:, :, typical_unit(moved[middle])]
    return {
        "accuracy": rounded(history["accuracy"]),
        "loss": rounded(history["loss"]),
        "test": rounded(test),
        "instability": {
            str(number): rounded(_median(found)) for number, found in moved.items()
        },
        "unit": {
            "mean": rounded(shown[:, 0]),
            "deviation": rounded(np.sqrt(shown[:, 1])),
        },
    }


def distances(moments):
    """How far each unit's distribution moves from one step to the next.

    `hypot(mean' - mean, deviation' - deviation) / sqrt((variance + variance') / 2)`:
    between Gaussians of these moments the 2-Wasserstein distance, the least way that
    the values of a mini-batch must go, in standard deviations. Neither a unit's scale
    nor its mean over all steps, which any next layer can undo, changes it.

    Args:
        moments: `(steps, 2, units)`, mean and biased variance.

    Returns:
        `(steps - 1, units)`, float64; NaN for what does not vary or is no number.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.noisy_training import distances

    moments = np.array([[[0.0], [4.0]], [[1.0], [4.0]]])
    assert np.allclose(distances(moments), 0.5)
    ```
    """
    mean, variance = np.moveaxis(np.asarray(moments, np.float64), 1, 0)
    way = np.hypot(np.diff(mean, axis=0), np.diff(np.sqrt(variance), axis=0))
    scale = np.sqrt((variance[1:] + variance[:-1]) / 2)
    usable = np.isfinite(way) & (scale > 0)
    return np.divide(way, scale, out=np.full_like(way, np.nan), where=usable)


def typical_unit(found):
    """The unit whose instability is the median of those that have one.

    Args:
        found: what `distances` returned.
    """
    units = np.array([_median(column) for column in found.T])
    alive = np.flatnonzero(np.isfinite(units))
    if not alive.size:
        return 0
    return int(alive[np.argsort(units[alive])[alive.size // 2]])


def _watched(network):
    """The model with a `Watch` before three nonlinearities, compiled; the watches."""
    names = [
        layer.name for layer in network.layers if layer.name.endswith("_activation")
    ]
    numbers = (2, -(-2 * len(names) // 3), len(names))
    watches = {names[number - 1]: Watch() for number in numbers}

    def call(layer, inputs, **arguments):
        if layer.name in watches:
            inputs = watches[layer.name](inputs)
        return layer(inputs, **arguments)

    model: Any = keras.models.clone_model(network, call_function=call)
    model.compile(
        keras.optimizers.SGD(RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # slow on a CPU
    )
    return model, dict(zip(numbers, watches.values(), strict=True))


def _median(found):
    """Of those that are numbers; NaN where none is."""
    found = found[np.isfinite(found)]
    return np.median(found) if found.size else np.nan
