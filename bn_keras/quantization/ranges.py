"""Find out which values the tensors of a model have, and where to cut them off."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from bn_keras.keras_graph import Edge, Graph
from bn_keras.quantization.execution import run_calls

METHODS = ("max", "percentile", "mse")
# The share of values that the method `percentile` keeps.
PERCENTILE = 0.9999
_BINS = 2048
_BATCH = 16

Ranges = dict[Edge, tuple[float, float]]


def batches(arrays: Sequence[np.ndarray], graph: Graph) -> Iterator[list[np.ndarray]]:
    """Yield examples in batches of the size that a model takes, without a remainder."""
    fixed = next((edge.shape[0] for edge in graph.inputs if edge.shape[0]), None)
    size = fixed or _BATCH
    count = len(arrays[0])
    for start in range(0, count, size):
        batch = [x[start : start + size] for x in arrays]
        if fixed and len(batch[0]) < fixed:
            # Examples may be used twice, which changes no range.
            batch = [np.resize(x[-fixed:], (fixed, *x.shape[1:])) for x in arrays]
        yield batch


def find_ranges(
    graph: Graph,
    edges: Iterable[Edge],
    examples: Sequence[np.ndarray],
    method: str = "max",
) -> Ranges:
    """Return the smallest and the largest value that tensors have, or should keep.

    Args:
        graph: The graph of the float model.
        edges: The tensors.
        examples: A flat list of arrays, the inputs of the model.
        method: `"max"` for all values, `"percentile"` for 99.99 % of them, or `"mse"`
            for the limit with the smallest mean squared error in 8 bits.

    Raises:
        ValueError: If a tensor has a value that is not finite.
    """
    import tensorflow as tf

    edges = list(edges)

    def observe(*inputs: Any) -> tuple[Any, Any]:
        tensors = dict(zip(graph.inputs, inputs, strict=True))
        run_calls(graph.calls, tensors)
        values = [tf.cast(tensors[edge], tf.float32) for edge in edges]
        return (
            tf.stack([tf.reduce_min(x) for x in values]),
            tf.stack([tf.reduce_max(x) for x in values]),
        )

    observe = _compile(observe)
    extremes = [observe(*batch) for batch in batches(examples, graph)]
    lowest = np.min([x.numpy() for x, _ in extremes], axis=0)
    highest = np.max([x.numpy() for _, x in extremes], axis=0)
    for edge, low, high in zip(edges, lowest, highest, strict=True):
        if not np.isfinite([low, high]).all():
            label = edge.producer.label if edge.producer else "an input"
            raise ValueError(
                "The model must give finite numbers for `calibration`. Received: NaN "
                f"or infinity from {label!r}. Correct the weights or the examples"
            )
    if method != "max":
        limits = np.maximum(np.abs(lowest), np.abs(highest))
        counts = _histograms(graph, edges, examples, limits)
        for place, limit in enumerate(limits):
            levels = 127 if lowest[place] < 0 else 255
            kept = _cut_off(counts[place], limit, levels, method)
            lowest[place] = max(lowest[place], -kept)
            highest[place] = min(highest[place], kept)
    return {
        edge: (float(low), float(high))
        for edge, low, high in zip(edges, lowest, highest, strict=True)
    }


def _histograms(
    graph: Graph,
    edges: Sequence[Edge],
    examples: Sequence[np.ndarray],
    limits: np.ndarray,
) -> np.ndarray:
    """Return how often the absolute values of tensors fall in each bin, by tensor."""
    import tensorflow as tf

    def count(*inputs: Any) -> Any:
        tensors = dict(zip(graph.inputs, inputs, strict=True))
        run_calls(graph.calls, tensors)
        return tf.stack(
            [
                tf.histogram_fixed_width(
                    tf.abs(tf.cast(tensors[edge], tf.float32)),
                    [0.0, float(limit) or 1.0],
                    _BINS,
                )
                for edge, limit in zip(edges, limits, strict=True)
            ]
        )

    count = _compile(count)
    counts = np.zeros((len(edges), _BINS))
    for batch in batches(examples, graph):
        counts += count(*batch).numpy()
    return counts


def _cut_off(counts: np.ndarray, limit: float, levels: int, method: str) -> float:
    """Return the limit for values with a histogram of `_BINS` bins up to the largest.

    Zeros are exact whatever the limit, and most outputs of a ReLU; they do not count.
    """
    counts = counts.copy()
    counts[0] = 0
    if not counts.sum():
        return limit
    upper = np.arange(1, _BINS + 1) / _BINS * limit
    if method == "percentile":
        shares = np.cumsum(counts) / counts.sum()
        return float(upper[np.searchsorted(shares, PERCENTILE)])
    centers = upper - limit / _BINS / 2
    candidates = upper[_BINS // 8 :: _BINS // 128]
    beyond = np.maximum(centers - candidates[:, None], 0) ** 2
    inside = centers <= candidates[:, None]
    steps = (candidates / levels)[:, None]
    errors = (counts * (beyond + inside * steps**2 / 12)).sum(axis=1)
    return float(candidates[errors.argmin()])


def _compile(function: Any) -> Any:
    import tensorflow as tf

    def run(*inputs: Any) -> Any:
        with keras.StatelessScope():
            return function(*inputs)

    return tf.function(run, autograph=False, reduce_retracing=True)
