"""Measurements of a model: moments, statistics, losses and what training changes."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from bn_keras.diagnosis.report import Outcome
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS
from bn_keras.layer.moment_observer import observe_moments
from bn_keras.population import estimate_population_statistics


@dataclass(eq=False)
class Measured:
    """What was measured of one layer; arrays have a value for each channel.

    Args:
        layer: The layer.
        path: Its path, numbered if several layers have the same.
        stored_mean: The stored mean.
        stored_variance: The stored variance.
        fresh_mean: The mean of the data.
        fresh_variance: The variance of the data.
        values: The smallest number of values behind a mean of a mini-batch.
        seen: The number of values behind the fresh statistics.
        moves: Whether a training step changes its statistics.
    """

    layer: Any
    path: str
    stored_mean: np.ndarray
    stored_variance: np.ndarray
    fresh_mean: np.ndarray
    fresh_variance: np.ndarray
    values: int
    seen: int
    moves: bool


def find_layers(model: Any) -> dict[str, Any]:
    """Return the batch normalizations of a model by path, numbered if need be."""
    layers = {}
    for layer in model._flatten_layers():  # at any depth; Keras has no public way
        if isinstance(layer, BATCH_NORMALIZATIONS):
            path, number = layer.path, 1
            while path in layers:
                number += 1
                path = f"{layer.path} ({number})"
            layers[path] = layer
    return layers


def measure_outcome(
    model: Any, batches: list[Any], by_batch: bool = False
) -> tuple[Outcome, np.ndarray, dict[int, list[int]]]:
    """Run a model in inference mode and compare its outputs with the labels.

    Args:
        model: The model.
        batches: Pairs of inputs and labels; labels may be None.
        by_batch: Whether the layers normalize by the mini-batch.

    Returns:
        The outcome, the first outputs as one array, and for each layer, by its `id`,
        the numbers of values behind the means.
    """
    losses, right, counts, outputs = [], [], {}, []
    layers = list(find_layers(model).values())

    def observe(layer, moments):
        values: Any = ops.convert_to_numpy(moments.count)
        count = np.min(values)
        counts.setdefault(id(layer), []).append(int(count))

    for inputs, labels in batches:
        if by_batch:
            with observe_moments(layers, observe, True, within=model):
                predictions = model(inputs, training=False)
        else:
            predictions = model(inputs, training=False)
        tensor = next(x for x in keras.tree.flatten(predictions) if x is not None)
        first = np.asarray(ops.convert_to_numpy(tensor))
        outputs.append(first)
        if labels is None:
            continue
        size = len(first)
        if getattr(model, "compiled", False) and getattr(model, "_compile_loss", None):
            loss: Any = model.compute_loss(
                x=inputs, y=labels, y_pred=predictions, training=False
            )
            value: Any = ops.convert_to_numpy(loss)
            losses.append((float(value), size))
        classes = _classes(labels, first)
        if classes is not None:
            right.append((float(np.mean(first.argmax(-1) == classes)), size))
    outcome = Outcome(_weighted_mean(losses), _weighted_mean(right))
    return outcome, np.concatenate(outputs), counts


def _classes(labels: Any, outputs: np.ndarray) -> np.ndarray | None:
    """Return the class of each example, None if the labels are something else."""
    if outputs.ndim != 2 or outputs.shape[1] < 2 or isinstance(labels, dict | list):
        return None
    labels = np.asarray(ops.convert_to_numpy(labels))
    if labels.shape == outputs.shape:
        is_one_hot = (
            np.all((labels == 0) | (labels == 1)) and (labels.sum(1) == 1).all()
        )
        return labels.argmax(1) if is_one_hot else None
    labels = labels.reshape(len(labels), -1)
    if labels.shape[1] != 1 or not np.issubdtype(labels.dtype, np.integer):
        return None
    return labels[:, 0]


def _weighted_mean(pairs: list[tuple[float, int]]) -> float | None:
    if not pairs:
        return None
    values, weights = zip(*pairs, strict=True)
    return float(np.average(values, weights=weights))


def measure(
    model: Any, batches: list[Any]
) -> tuple[list[Measured], dict[str, Outcome], float]:
    """Measure everything that a diagnosis needs. The model is afterwards as before.

    Args:
        model: A built model.
        batches: Pairs of inputs and labels; labels may be None.

    Returns:
        The layers, the outcomes in each mode, and the difference between the outputs in
        inference and in training mode, relative to their deviation.
    """
    layers = find_layers(model)
    outcomes = {}
    outcomes["stored"], stored_outputs, _ = measure_outcome(model, batches)
    outcomes["batch"], batch_outputs, counts = measure_outcome(model, batches, True)
    if not counts:
        raise ValueError(
            "`model` must call its batch normalizations in Python code, or in a `call` "
            f"that is a tf.function. Received: {model.name!r}, which calls none there. "
            "Call `tf.config.run_functions_eagerly(True)` before the diagnosis"
        )
    scale = np.std(batch_outputs) + 1e-12
    difference = float(np.sqrt(np.mean((stored_outputs - batch_outputs) ** 2)) / scale)
    moving = _find_moving(model, layers, batches[0][0])
    variables = [v for x in layers.values() for v in x.non_trainable_variables]
    saved = [ops.convert_to_numpy(variable) for variable in variables]
    stored = {path: _statistics(layer) for path, layer in layers.items()}
    try:
        # Mini-batches of one value have no variance: nothing fresh then.
        if all(max(counts.get(id(x), [0])) > 1 for x in layers.values()):
            estimate_population_statistics(
                model, [x for x, _ in batches], verbose=0, include_frozen=True
            )
        fresh = {path: _statistics(layer) for path, layer in layers.items()}
        outcomes["fresh"], _, _ = measure_outcome(model, batches)
    finally:
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)
    measured = [
        Measured(
            layer,
            path,
            *stored[path],
            *fresh[path],
            min(counts[id(layer)]),
            sum(counts[id(layer)]),
            id(layer) in moving,
        )
        for path, layer in layers.items()
        if id(layer) in counts  # a layer that is never called has nothing to measure
    ]
    return measured, outcomes, difference


def _statistics(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = (
        ops.convert_to_numpy(value).astype(np.float64).ravel()
        for value in (layer.moving_mean, layer.moving_variance)
    )
    return mean, variance


def _find_moving(model: Any, layers: dict[str, Any], inputs: Any) -> set[int]:
    """Return the `id` of each layer whose statistics a training step changes."""
    variables = list(model.variables)
    saved = [ops.convert_to_numpy(variable) for variable in variables]
    before = {path: _statistics(layer) for path, layer in layers.items()}
    try:
        model(inputs, training=True)
        return {
            id(layer)
            for path, layer in layers.items()
            if not np.array_equal(before[path], _statistics(layer), equal_nan=True)
        }
    finally:
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)
