"""Compare a folded model with its original on one small batch."""

import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import tree

from bn_keras.folding.normalizations import EPSILONS
from bn_keras.keras_graph import Edge, Graph, sublayers

# The largest difference that rounding explains in a deep network, relative to the
# largest value of an output, by the dtype in which it is computed. In float64 some of
# TensorFlow's functions compute in float32.
_TOLERANCES = {"bfloat16": 2e-1, "float16": 5e-2, "float32": 1e-3, "float64": 1e-6}
_EXAMPLES = 2
_LARGE = 2**20  # values of an example
# Sizes for axes without a fixed size. Some networks need images of at least 75 or 128,
# some take few tokens.
_SIZES = (32, 4, 128)


class Comparison:
    """What is needed to compare a folded model with its original.

    Args:
        model: The original model.
        graph: Its graph, before it is folded.
        deviations: How many deviations the mean of a batch normalization is from zero,
            at most. Where it is many, rounding alone changes the outputs.
    """

    def __init__(self, model: keras.Model, graph: Graph, deviations: float) -> None:
        self.model = model
        self.structure = graph.input_tensors
        self.inputs = list(graph.inputs)
        self.values = [_known_values(edge) for edge in graph.inputs]
        self.tolerances = []
        for dtypes in _dtypes_of_outputs(graph):
            epsilon = max((EPSILONS[x] for x in dtypes), default=0.0)
            tolerance = max((_TOLERANCES[x] for x in dtypes), default=0.0)
            self.tolerances.append(max(tolerance, 64 * epsilon * deviations))

    def find_difference(self, folded: keras.Model) -> str:
        """Return how the outputs of a folded model differ, or an empty string."""
        inputs, expected, problem = None, None, None
        for size in _SIZES:
            # Whatever the layers of the user raise for inputs that are made up.
            try:
                inputs = self._draw(size)
                expected = self._run(self.model, inputs)
                break
            except Exception as error:
                problem = problem or error
            if all(None not in edge.shape[1:] for edge in self.inputs):
                break
        if inputs is None or expected is None:
            reason = " ".join(str(problem).split())[:200]
            warnings.warn(
                "The folded model was not compared with the original, which raised an "
                f"error for random inputs: {reason}. Compare them on your own inputs, "
                "and pass `check=False`.",
                stacklevel=4,
            )
            return ""
        try:
            actual = self._run(folded, inputs)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            return f"the folded model raises an error: {text}"
        gaps = list(map(_gap, expected, actual))
        if not _exceed(gaps, self.tolerances):
            return ""
        # A network may amplify rounding, and need not be deterministic.
        moved = self._run(self.model, list(map(_perturb, inputs, self.inputs)))
        explained = [100 * x for x in map(_gap, expected, moved)]
        again = map(_gap, expected, self._run(self.model, inputs))
        limits = map(max, explained, again, self.tolerances)
        if not _exceed(gaps, list(limits)):
            return ""
        return f"an output differs by {max(gaps):.2g} of its largest value"

    def _draw(self, size: int) -> list[np.ndarray]:
        generator = np.random.default_rng(0)
        return [
            _draw(edge, values, size, generator)
            for edge, values in zip(self.inputs, self.values, strict=True)
        ]

    def _run(self, model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
        tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
        # No layer changes its state for this call.
        with keras.StatelessScope():
            outputs = model(
                tree.pack_sequence_as(self.structure, tensors), training=False
            )
        return [
            np.asarray(keras.ops.convert_to_numpy(x)) for x in tree.flatten(outputs)
        ]


def _exceed(gaps: list[float], limits: list[float]) -> bool:
    return any(not gap <= limit for gap, limit in zip(gaps, limits, strict=True))


def _gap(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape:
        return np.inf
    if "float" not in expected.dtype.name:
        # The largest of two almost equal scores may be either of them.
        return 0.0 if (expected != actual).mean() <= 0.01 else np.inf
    expected, actual = (np.asarray(x, "float64") for x in (expected, actual))
    # Where the original overflows, the folded model need not.
    finite = np.isfinite(expected)
    if not finite.any():
        return 0.0
    expected, actual = expected[finite], actual[finite]
    if not np.isfinite(actual).all():
        return np.inf
    return np.abs(expected - actual).max() / (np.abs(expected).max() or 1.0)


def _perturb(array: np.ndarray, edge: Edge) -> np.ndarray:
    if "float" not in edge.dtype:
        return array
    signs = np.random.default_rng(1).choice([-1, 1], array.shape)
    return (array * (1 + 2 * EPSILONS[edge.dtype] * signs)).astype(array.dtype)


def _dtypes_of_outputs(graph: Graph) -> list[set[str]]:
    """Return the floating-point dtypes on the way to each output."""
    dtypes: dict[Edge, set[str]] = {edge: {edge.dtype} for edge in graph.inputs}
    for call in graph.calls:
        found = {edge.dtype for edge in call.outputs}
        found.add(getattr(call.operation, "compute_dtype", None) or "")
        for edge in call.inputs:
            found |= dtypes[edge]
        dtypes.update((edge, found) for edge in call.outputs)
    return [dtypes[edge] & _TOLERANCES.keys() for edge in graph.outputs]


def _known_values(edge: Edge) -> Any:
    """Return an array of values that the layers after an input know, or None."""
    bounds = []
    for layer in _layers_after(edge):
        if hasattr(layer, "get_vocabulary"):
            words = layer.get_vocabulary()
            if words:
                return np.array([x for x in words if x != ""])
        for name in ("input_dim", "num_tokens"):  # of Embedding, CategoryEncoding
            if isinstance(bound := getattr(layer, name, None), int):
                bounds.append(bound)
    if edge.dtype == "string":
        return np.array(["a", "b"])
    if "int" not in edge.dtype:
        return None
    default = 256 if edge.dtype == "uint8" else 2
    return np.arange(min(bounds, default=default))


def _layers_after(edge: Edge) -> Iterator[Any]:
    # As far as the values pass without becoming numbers with a fraction.
    pending, seen = [edge], set()
    while pending:
        edge = pending.pop()
        for call in edge.consumers:
            if call not in seen:
                seen.add(call)
                yield call.operation
                yield from sublayers(call.operation)
                pending += [x for x in call.outputs if "float" not in x.dtype]


def _draw(edge: Edge, values: Any, size: int, generator: np.random.Generator) -> Any:
    shape = [size if x is None else x for x in edge.shape[1:]]
    # One example is enough where two may not fit into memory.
    examples = _EXAMPLES if np.prod(shape) < _LARGE else 1
    shape.insert(0, examples if edge.shape[0] is None else edge.shape[0])
    if values is not None:
        drawn = generator.choice(values, shape)
        return drawn.astype(object if edge.dtype == "string" else edge.dtype)
    if edge.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    drawn = generator.normal(size=shape)
    # NumPy has no bfloat16.
    return drawn.astype("float32" if edge.dtype == "bfloat16" else edge.dtype)
