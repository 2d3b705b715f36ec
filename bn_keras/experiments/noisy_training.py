"""Train a VGG with some normalization, and measure how its layers' inputs move."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from bn_keras.data import Shuffling
from bn_keras.experiments.curves import sample
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.layers.lp_normalization import LpNormalization
from bn_keras.experiments.layers.noisy_normalization import (
    NoisyBatchNormalization,
    NoisyBias,
)
from bn_keras.experiments.layers.watch import Watch
from bn_keras.experiments.rounding import round_digits
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
    "l1-centred": partial(LpNormalization, 1, momentum=0.9, centred=True),
    "linf-centred": partial(LpNormalization, math.inf, momentum=0.9, centred=True),
}
LEARNING_RATE = 0.1
# The height and width of the pictures, the least that five halvings allow.
SIDE = 32
# The number of last steps at which one unit's moments are kept.
KEPT_STEPS = 50


def train_network(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    network: str,
    data: str,
    depth: int,
    width: float,
    batch_size: int,
    steps: int,
    every: int,
    test_every: int,
    test_images: int,
    population_batches: int,
    seed: int,
) -> dict[str, Any]:
    """Train one network and observe the inputs of three of its nonlinearities.

    They are those of the second layer, of the one after two thirds of the layers (of 13
    the 9th), and of the last. The sizes are those of
    `bn_keras.experiments.noise.NoisePlan`, `network` is a key of `NORMALIZATIONS`. An
    interrupted training starts from scratch, without the use of `folder`.

    Returns:
        A dict. `"accuracy"` and `"loss"` are means over `every` training steps each.
        `"test"` are test accuracies, with the population statistics of Algorithm 2 for
        BN and with moving averages for p-norms; `"train"`, at the same steps, those on
        as many training pictures, likewise without noise. `"changes"` is a dict from
        the number of each observed layer to the medians over units and steps of
        `absolute_changes`, of the mean and of the variance. `"instability"` is a dict
        from the number of each observed layer to the median of its `moment_distances`.
        `"unit"` holds the `"mean"` and `"deviation"` of a typical unit of the middle
        observed layer at each of the last steps.
    """
    keras.utils.set_random_seed(seed)
    examples = load_data(data, directories.get(data))
    preprocessing = Preprocessing(size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0)
    model, watches = _insert_watches(
        VGG(
            input_shape=(SIDE, SIDE, examples.shape[-1]),
            classes=len(examples.class_names),
            head="small",
            depth=depth,
            width=width,
            normalization=NORMALIZATIONS[network],
            kernel_initializer="glorot_uniform",  # the paper's "standard Glorot"
        )
    )
    batches = examples.train.batches(
        batch_size, Shuffling(seed), preprocessing, epochs=None
    )
    # What a training step reports includes the noise.
    quiet_batches = {
        name: sample(split, test_images).batches(500, preprocessing=preprocessing)
        for name, split in (("test", examples.test), ("train", examples.train))
    }
    moments = {number: [] for number in watches}
    quiet = {name: [] for name in quiet_batches}

    def record_moments(batch, logs=None):
        for number, watch in watches.items():
            moments[number].append(ops.convert_to_numpy(watch.moments))

    def measure_test(epoch, logs=None):
        if (epoch + 1) * every % test_every:
            return
        if network in ("bn", "noisy-bn"):
            # The moving averages of noisy BN include noise that a test does not have.
            estimate_population_statistics(
                model, batches, steps=population_batches, verbose=0
            )
        for name, split_batches in quiet_batches.items():
            scores = model.evaluate(split_batches, verbose=0, return_dict=True)
            quiet[name].append(scores["accuracy"])

    history = model.fit(
        batches,
        epochs=steps // every,
        steps_per_epoch=every,
        shuffle=False,  # the mini-batches are shuffled already
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=record_moments, on_epoch_end=measure_test
            )
        ],
    ).history
    distances = {
        number: moment_distances(np.array(path)) for number, path in moments.items()
    }
    changes = {
        number: absolute_changes(np.array(path)) for number, path in moments.items()
    }
    middle = list(watches)[1]
    unit = typical_unit(distances[middle])
    kept = np.array(moments[middle])[-KEPT_STEPS:, :, unit]
    return {
        "accuracy": round_digits(history["accuracy"]),
        "loss": round_digits(history["loss"]),
        **{name: round_digits(values) for name, values in quiet.items()},
        "changes": {
            str(number): {
                name: round_digits(_finite_median(values[:, index]))
                for index, name in enumerate(("mean", "variance"))
            }
            for number, values in changes.items()
        },
        "instability": {
            str(number): round_digits(_finite_median(values))
            for number, values in distances.items()
        },
        "unit": {
            "mean": round_digits(kept[:, 0]),
            "deviation": round_digits(np.sqrt(kept[:, 1])),
        },
    }


def absolute_changes(moments: Any) -> np.ndarray:
    """Return how much each unit's mean and variance change from one step to the next.

    Args:
        moments: The mean and biased variance at each step, `(steps, 2, units)`.

    Returns:
        The absolute changes of the mean and of the variance, `(steps - 1, 2, units)`.

    Example:
    ```python
    from bn_keras.experiments.noisy_training import absolute_changes

    assert absolute_changes([[[0.0], [4.0]], [[-1.0], [7.0]]]).tolist() == [[[1], [3]]]
    ```

    Reference:
        Santurkar et al. 2018, figure 8a.
    """
    return np.abs(np.diff(np.asarray(moments, np.float64), axis=0))


def moment_distances(moments: Any) -> np.ndarray:
    """Return how far each unit's distribution moves from one step to the next.

    `hypot(mean' - mean, deviation' - deviation) / sqrt((variance + variance') / 2)` is
    the 2-Wasserstein distance between Gaussians with these moments, in standard
    deviations: the shortest way on which the values of a mini-batch can become those of
    the next. It does not depend on a unit's scale or its mean over all steps, for which
    the next layer can compensate.

    Args:
        moments: The mean and biased variance at each step, `(steps, 2, units)`.

    Returns:
        An array `(steps - 1, units)` of float64; NaN where a unit does not vary or is
        not finite.

    Example:
    ```python
    import numpy as np

    from bn_keras.experiments.noisy_training import moment_distances

    moments = np.array([[[0.0], [4.0]], [[1.0], [4.0]]])
    assert np.allclose(moment_distances(moments), 0.5)
    ```
    """
    mean, variance = np.moveaxis(np.asarray(moments, np.float64), 1, 0)
    way = np.hypot(np.diff(mean, axis=0), np.diff(np.sqrt(variance), axis=0))
    scale = np.sqrt((variance[1:] + variance[:-1]) / 2)
    usable = np.isfinite(way) & (scale > 0)
    return np.divide(way, scale, out=np.full_like(way, np.nan), where=usable)


def typical_unit(distances: np.ndarray) -> int:
    """Return the unit with the median instability of all units that have one.

    Args:
        distances: What `moment_distances` returned.
    """
    medians = np.array([_finite_median(column) for column in distances.T])
    alive = np.flatnonzero(np.isfinite(medians))
    if not alive.size:
        return 0
    return int(alive[np.argsort(medians[alive])[alive.size // 2]])


def _insert_watches(network):
    """Insert a `Watch` before three nonlinearities; return the model and them."""
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
        keras.optimizers.SGD(LEARNING_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # compilation takes long on a CPU
    )
    return model, dict(zip(numbers, watches.values(), strict=True))


def _finite_median(values):
    """Return the median of the finite values; NaN if there are none."""
    values = values[np.isfinite(values)]
    return np.median(values) if values.size else np.nan
