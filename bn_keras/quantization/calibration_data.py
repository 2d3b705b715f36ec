"""Read the examples that a model is calibrated with, and hold some of them back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import tree

from bn_keras.keras_graph import Graph

# No more are read: data sets may repeat for ever.
LARGEST_COUNT = 4096
# With fewer, the largest values that a layer has are hardly known.
SMALLEST_COUNT = 32

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class CalibrationData:
    """Examples as flat lists of arrays, in the order of the model's inputs.

    Args:
        used: The examples that scales are chosen by.
        held_back: The examples that the float and the int8 model are compared on.
        warnings: What is doubtful about them.
    """

    used: Arrays
    held_back: Arrays
    warnings: tuple[str, ...]


def read_calibration_data(calibration: Any, graph: Graph) -> CalibrationData:
    """Return the examples, every second one held back.

    Raises:
        ValueError: As `read_examples` does.
    """
    arrays = read_examples(calibration, graph)
    return CalibrationData(
        [x[::2] for x in arrays], [x[1::2] for x in arrays], tuple(_warnings(arrays))
    )


def read_examples(calibration: Any, graph: Graph) -> Arrays:
    """Return all examples as a flat list of arrays.

    Args:
        calibration: Arrays in the structure that the model takes; or a batched
            `tf.data.Dataset` or an iterable of batches, whose targets are dropped.
        graph: The graph of the model.

    Raises:
        ValueError: If the model does not take them, there are fewer than two, or a
            number is not finite.
    """
    batches: list[Arrays] = []
    count = 0
    for batch in _batches(calibration, len(graph.inputs)):
        arrays = _check_batch(batch, graph)
        batches.append([x[: LARGEST_COUNT - count] for x in arrays])
        count += len(batches[-1][0])
        if count >= LARGEST_COUNT:
            break
    if count < 2:
        raise ValueError(
            "`calibration` must have two examples at least: one to choose scales by, "
            f"and one to compare the result on. Received: {count}. Pass some 100 that "
            "are like those that the model will get"
        )
    arrays = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    for array in arrays:
        if not np.isfinite(array).all():
            raise ValueError(
                "`calibration` must hold finite numbers. Received: NaN or infinity in "
                f"{_count_bad(array)} of {count} examples. Remove these examples"
            )
    return arrays


def _batches(calibration: Any, count: int) -> Iterator[Any]:
    if calibration is None:
        raise ValueError(
            "`calibration` must be examples of the model's inputs. Received: None. "
            "Pass some 100 that are like those that the model will get"
        )
    # An array is one batch; so is a list or a dictionary of arrays.
    if hasattr(calibration, "shape") or isinstance(calibration, dict | list | tuple):
        yield calibration
    elif isinstance(calibration, Iterable) and not isinstance(calibration, str | bytes):
        for batch in calibration:
            has_targets = isinstance(batch, tuple) and len(tree.flatten(batch)) > count
            yield batch[0] if has_targets else batch
    else:
        raise ValueError(
            "`calibration` must be arrays, a data set, or an iterable of batches. "
            f"Received: {type(calibration).__name__}"
        )


def _check_batch(batch: Any, graph: Graph) -> Arrays:
    if len(graph.inputs) == 1 and isinstance(batch, list | tuple):
        batch = _join(batch, len(graph.inputs[0].shape))
    if isinstance(batch, dict) and isinstance(graph.input_tensors, dict):
        batch = {key: batch.get(key) for key in graph.input_tensors}
    arrays = [np.asarray(x) for x in tree.flatten(batch)]
    if len(arrays) != len(graph.inputs) or not all(
        array.ndim == len(edge.shape)
        and array.dtype.kind in "fiu"
        and len(array) == len(arrays[0])
        and all(
            expected in (None, size)
            for size, expected in zip(array.shape[1:], edge.shape[1:], strict=True)
        )
        for array, edge in zip(arrays, graph.inputs, strict=True)
    ):
        expected = [(edge.shape, edge.dtype) for edge in graph.inputs]
        received = [(array.shape, array.dtype.name) for array in arrays[:4]]
        more = f" and {len(arrays) - 4} more" if len(arrays) > 4 else ""
        raise ValueError(
            "`calibration` must hold numbers in the structure and shapes that the "
            f"model takes, {expected}. Received: arrays of shapes and types {received}"
            f"{more}"
        )
    return [
        x.astype(edge.dtype, copy=False)
        for x, edge in zip(arrays, graph.inputs, strict=True)
    ]


def _join(parts: list[Any] | tuple[Any, ...], rank: int) -> Any:
    """Return batches, or else examples, as one batch; unchanged if they do not fit."""
    try:
        arrays = [np.asarray(part) for part in parts]
        is_batch = bool(arrays) and arrays[0].ndim == rank
        return np.concatenate(arrays) if is_batch else np.stack(arrays)
    except ValueError:
        return parts


def _warnings(arrays: Arrays) -> Iterator[str]:
    count = len(arrays[0])
    if count < SMALLEST_COUNT:
        yield (
            f"only {count} examples to calibrate with, half of them held back; "
            f"{SMALLEST_COUNT} or more show better which values layers have"
        )
    constant = sum(
        all(np.ptp(array[i]) == 0 for array in arrays if array[i].size > 1)
        for i in range(count)
    )
    if constant and any(array[0].size > 1 for array in arrays):
        yield f"{constant} of {count} examples to calibrate with are constant"
    if count > 1 and all((array == array[:1]).all() for array in arrays):
        yield "all examples to calibrate with are the same"


def _count_bad(array: np.ndarray) -> int:
    return int((~np.isfinite(array.reshape(len(array), -1)).all(axis=1)).sum())
