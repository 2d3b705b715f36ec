"""One network of the ensemble: its training and its answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bn_keras.evaluation import predict_probabilities
from bn_keras.experiments.curves import (
    BATCH,
    halvings,
    sample,
    scale_down,
    train_or_load,
)
from bn_keras.experiments.data_sets import load_data
from bn_keras.training import preprocessing_for, recipes


def predict_member(
    directories: Mapping[str, Any],
    folder: Path | None,
    *,
    member: str,
    data: str,
    size: int,
    width: float,
    epochs: int,
    images: int,
    crops: int,
    rate: float,
) -> dict[str, Any]:
    """Train one member; return its class probabilities with one crop and with all.

    The sizes are those of `bn_keras.experiments.ensemble.EnsemblePlan`, `member` is the
    name of one of `bn_keras.training.recipes.ENSEMBLE`.
    """
    examples = load_data(data, directories.get(data))
    recipe = recipes.RECIPES[member]
    recipe = scale_down(
        recipe,
        size,
        width,
        epochs,
        # BN makes the loss independent of a kernel's scale a, and its gradient smaller
        # by a: a kernel that starts a times as large turns as fast at a**2 times the
        # rate.
        rate * recipe.initial_scale**2,
        halvings(recipe),
        recipe.seed,
    )
    test_sample = sample(examples.test, images)
    model = train_or_load(recipe, replace(examples, test=test_sample), folder)
    preprocessing = preprocessing_for(recipe, examples)
    answers = {"labels": test_sample.labels.tolist()}
    for name, count in (("single", 1), ("multiple", crops)):
        batches = predict_probabilities(model, test_sample, count, preprocessing, BATCH)
        probabilities = np.concatenate([batch for batch, _ in batches])
        answers[name] = np.round(probabilities, 6).tolist()
    return answers
