"""Train an Inception for a few steps, and measure each layer's relative gradient."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bn_keras.data import Shuffling
from bn_keras.experiments.curves import halvings, scale_down
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.probing import build_loss_and_gradients, group_weights
from bn_keras.experiments.rounding import round_digits
from bn_keras.training import build, preprocessing_for
from bn_keras.training.recipes import BN_X5, Recipe


def measure_layers(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    activation: str,
    batch_normalization: bool,
    initial_scale: float,
    data: str,
    size: int,
    width: float,
    learning_rate: float,
    looks: tuple[int, ...],
    seed: int,
) -> list[list[float]]:
    """Train one network and measure |g| / |w| of each layer's kernel at some steps.

    Times the learning rate it is the share by which one step changes the kernel. With
    BN, whose loss does not depend on a kernel's norm, the direction of a kernel turns
    by that share: `rate |g| / |w|` is its effective rate, which falls with the square
    of the norm.

    Returns:
        A list of the layers' ratios, in the order of the network, for each look.
    """
    examples = load_data(data, directories.get(data))
    recipe: Recipe = replace(
        scale_down(BN_X5, size, width, 1, learning_rate, halvings(BN_X5), seed),
        batch_normalization=batch_normalization,
        activation=activation,
        initial_scale=initial_scale,
    )
    model: Any = build(recipe, examples)
    model.jit_compile = False
    batches = examples.train.batches(
        recipe.batch_size,
        Shuffling(seed),
        preprocessing_for(recipe, examples),
        epochs=None,
    )
    compute = build_loss_and_gradients(
        model, keras.losses.SparseCategoricalCrossentropy()
    )
    kernels = [group[0] for group in group_weights(model)]
    ratios = []
    for step, batch in zip(range(max(looks) + 1), batches, strict=False):
        if step in looks:
            weights = [
                keras.ops.convert_to_tensor(v) for v in model.trainable_variables
            ]
            _, gradients = compute(weights, *batch)
            norms = [
                [np.linalg.norm(np.asarray(of[i])) for i in kernels]
                for of in (gradients, weights)
            ]
            ratios.append(round_digits(np.divide(norms[0], norms[1])))
        model.train_on_batch(*batch)
    return ratios
