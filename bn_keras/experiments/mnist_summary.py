"""What figure 1 keeps of a training: the accuracy, and a typical sigmoid's inputs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bn_keras.experiments.answers import pack_answers
from bn_keras.experiments.mnist_training import load_binary, observe_training
from bn_keras.training.recipes import RECIPES


def drift(percentiles: Any) -> Any:
    """Return how far a distribution moves during a training, in units of its width.

    It is the standard deviation over the observations of each percentile `q_p`,
    averaged over the three percentiles, divided by the mean over the observations of
    `q_85 - q_15`. It is 0 if the distribution stays the same; at 1 the distribution is
    typically its own width away from its average position. All observations count,
    including the first. Since what follows a sigmoid can adapt to any constant scale
    and offset of its input, the measure is relative to the width, and the same for
    `a * input + b`.

    Args:
        percentiles: The 15th, 50th and 85th percentile of the input at each
            observation, `(observations, 3)` or `(observations, 3, units)`.

    Returns:
        A number, or an array of shape `(units,)`.

    Example:
    ```python
    from bn_keras.experiments.mnist_summary import drift

    assert drift([[-1, 0, 1], [-1, 0, 1]]) == 0
    assert drift([[-1, 0, 1], [3, 4, 5]]) == 1  # by twice its width of 2
    ```
    """
    percentiles = np.asarray(percentiles, np.float64)
    movement = percentiles.std(axis=0).mean(axis=0)
    return movement / (percentiles[:, 2] - percentiles[:, 0]).mean(axis=0)


def median_unit(drifts: Any) -> int:
    """Return the unit with the median drift; of two in the middle, the lower drift.

    Args:
        drifts: The drift of each unit, `(units,)`.
    """
    return int(np.argsort(drifts, kind="stable")[(len(drifts) - 1) // 2])


def train_and_summarize(
    directories: Mapping[str, Any],
    folder: Path | None,
    recipe: str,
    seed: int,
    data: str,
    steps: int,
    every: int,
    deviation: float,
    learning_rate: float,
) -> dict[str, Any]:
    """Train one network; return its accuracy and the inputs of its typical sigmoid.

    Args:
        directories: See `bn_keras.experiments.parts.Part`.
        folder: Not used: an interrupted training starts from scratch.
        recipe: The name of `bn_keras.training.recipes.MLP` or `BN_MLP`.
        seed: The seed of the weights and of the order of the images.
        data: The name of the data set.
        steps: The number of training steps.
        every: The steps between two observations.
        deviation: The standard deviation of the initial weights.
        learning_rate: The learning rate.

    Returns:
        A dict of the `"accuracy"` at each observation, the `"drift"`, number (`"unit"`)
        and `"percentiles"` of the unit with the median drift, and which of the
        `"images"` the last answers are `"correct"` for.
    """
    observations = observe_training(
        replace(RECIPES[recipe], seed=seed, learning_rate=learning_rate),
        load_binary(data, directories.get(data)),
        deviation,
        steps,
        every,
    )
    drifts = drift(observations.percentiles)
    unit = median_unit(drifts)
    return {
        "accuracy": observations.accuracy.tolist(),
        "drift": float(drifts[unit]),
        "unit": unit,
        "percentiles": observations.percentiles[:, :, unit].tolist(),
        "correct": pack_answers(observations.correct),
        "images": len(observations.correct),
    }
