"""Diagnose the batch normalization of a model."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from bn_keras.diagnosis.findings import (
    describe_layer,
    find_frozen_neighbors,
    find_gap,
    find_in_layer,
)
from bn_keras.diagnosis.measuring import find_layers, measure
from bn_keras.diagnosis.report import Diagnosis


def diagnose(
    model: keras.Model, data: Any, *, batch_size: int = 32, steps: int = 50
) -> Diagnosis:
    """Find out what is wrong with the batch normalization of a model.

    Runs the model on some mini-batches with its stored statistics, with those of the
    mini-batches, and with statistics estimated from this data, and compares. Dropout
    and the like are off in all three. The model is afterwards what it was before; do
    not use it in other threads meanwhile.

    Args:
        model: A model that was called before, with Keras' or this package's layer. If
            it is compiled, the loss is compared, too.
        data: Data of the kind that the model is meant for: an array of inputs
            `(examples, ...)` or, for models of several inputs, a dictionary of them; a
            tuple of inputs and labels; or an iterable of mini-batches, each in one of
            these forms. Without labels, losses and accuracies are left out.
        batch_size: The number of examples in a mini-batch if `data` are arrays: that of
            training.
        steps: The largest number of mini-batches to use.

    Returns:
        A `Diagnosis`: its `findings` say what is wrong and what to do, the worst first.

    Raises:
        ValueError: If the model has no batch normalization, is not built, or does not
            call the layers in Python code; or there is no data, or not a label for each
            example.

    Example:
    ```python
    import keras
    import numpy as np
    import bn_keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    data = np.random.default_rng(0).normal(5.0, 1.0, (256, 3))
    diagnosis = bn_keras.diagnose(model, data)
    assert diagnosis.findings[0].kind == "never_updated"
    print(diagnosis)
    ```
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(f"`model` must be a Keras model. Received: {model!r}")
    batches = _read_batches(data, batch_size, steps)
    layers = find_layers(model)
    if not layers:
        raise ValueError(
            "`model` must have a batch normalization. Received: "
            f"{type(model).__name__} {model.name!r}, which has none."
        )
    if not all(layer.built for layer in layers.values()):
        raise ValueError(
            "`model` must be built. Received: "
            f"{type(model).__name__} {model.name!r}, which is not. Call it on data "
            "first."
        )
    measured, outcomes, difference = measure(model, batches)
    states = [describe_layer(x) for x in measured]
    findings, removed = find_gap(outcomes, difference)
    trained_steps = _count_steps(model)
    for each, state in zip(measured, states, strict=True):
        findings += find_in_layer(each, state, trained_steps)
    findings += find_frozen_neighbors(model, measured)
    # Equal severities stay in the order of the layers.
    findings.sort(key=lambda finding: -finding.severity)
    return Diagnosis(tuple(findings), tuple(states), outcomes, removed)


def _count_steps(model: Any) -> int | None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or optimizer.iterations is None:
        return None
    iterations: Any = ops.convert_to_numpy(optimizer.iterations)
    return int(iterations) or None


def _read_batches(data: Any, batch_size: int, steps: int) -> list[tuple[Any, Any]]:
    """Return pairs of inputs and labels; labels are None if there are none."""
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_integer or value < 1:
            raise ValueError(
                f"`{name}` must be an integer of at least 1. Received: {name}={value!r}"
            )
    if hasattr(data, "shape") or isinstance(data, dict):
        data = (data, None)
    if isinstance(data, tuple):
        data = _divide(data, batch_size)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise ValueError(
            "`data` must be an array of inputs, a tuple of inputs and labels, or an "
            f"iterable of mini-batches. Received: {data!r}"
        )
    batches = [
        (batch[0], batch[1] if len(batch) > 1 else None)
        if isinstance(batch, tuple)
        else (batch, None)
        for batch in itertools.islice(data, steps)
    ]
    if not batches:
        raise ValueError(
            "`data` must have at least one mini-batch. Received: none. Pass a list of "
            "mini-batches or a new iterator"
        )
    return batches


def _divide(data: tuple[Any, ...], batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Yield mini-batches of inputs and labels, which may be structures of arrays."""
    pair = [_to_arrays(part) for part in (*data, None, None)[:2]]
    arrays = [x for x in keras.tree.flatten(pair) if x is not None]
    shapes = [tuple(getattr(x, "shape", ())) for x in arrays]
    sizes = {shape[0] if shape else -1 for shape in shapes}
    if len(sizes) > 1 or -1 in sizes:
        raise ValueError(
            "`data` must have as many labels as inputs. Received: arrays of shapes "
            f"{shapes[:4]}"
        )
    size = max(sizes, default=0)
    starts = range(0, size, batch_size)
    # A last mini-batch that is smaller says nothing about those of training.
    for start in [x for x in starts if x + batch_size <= size] or starts[:1]:
        rows = slice(start, start + batch_size)
        inputs, labels = (
            keras.tree.map_structure(
                lambda x, rows=rows: None if x is None else x[rows], part
            )
            for part in pair
        )
        yield inputs, labels


def _to_arrays(part: Any) -> Any:
    """Return a list of numbers as an array, anything else as it is."""
    leaves = keras.tree.flatten(part)
    is_list = isinstance(part, list) and all(np.ndim(x) == 0 for x in leaves)
    return np.asarray(part) if is_list else part
