"""Compare every signature of an export with the Keras model before publishing it."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import keras
import numpy as np
from keras import tree

from bn_keras.export.contract import Contract
from bn_keras.export.decoding import decode_batch
from bn_keras.export.samples import (
    draw_image_files,
    draw_pixels,
    draw_samples,
    encode_examples,
)
from bn_keras.images.pixels import rescale
from bn_keras.keras_graph import Edge, read_graph, sublayers

# The largest difference that rounding explains, relative to the largest value of an
# output, by the lowest precision on the way from the inputs to the output.
_TOLERANCES = {"bfloat16": 5e-2, "float16": 1e-2, "float32": 1e-4, "float64": 1e-8}

Arrays = dict[str, np.ndarray]


def run_model(
    model: keras.Model, contract: Contract, inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Return the outputs of a Keras model for a flat list of inputs."""
    from keras import ops

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors = [ops.convert_to_tensor(array) for array in inputs]
        outputs = model(
            tree.pack_sequence_as(contract.structure, tensors), training=False
        )
        return [np.asarray(ops.convert_to_numpy(x)) for x in tree.flatten(outputs)]

    specs = (*contract.inputs.values(), *contract.outputs.values())
    if any(spec.shape[:1] != (None,) for spec in specs):
        return run(inputs)
    # Keras keeps the outputs of all layers until the last one, which may take more
    # memory than the model. Hence in four parts.
    count = len(inputs[0])
    size = -(-count // 4)
    parts = [run([x[i : i + size] for x in inputs]) for i in range(0, count, size)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


class SavedModelSession:
    """A SavedModel in a session, loaded as TensorFlow Serving loads it.

    Args:
        path: Folder of the SavedModel.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        import tensorflow as tf

        # The same as `tf.compat.v1.saved_model.loader.load`, without its deprecation
        # warning.
        from tensorflow.python.saved_model.loader_impl import SavedModelLoader

        self.session = tf.compat.v1.Session(graph=tf.Graph())
        self.graph = SavedModelLoader(str(path)).load(self.session, ["serve"])

    def __enter__(self) -> "SavedModelSession":
        """Return the session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.session.close()

    def run(self, name: str, inputs: Arrays) -> Arrays:
        """Return the outputs of a signature by name, for inputs by name."""
        signature = self.graph.signature_def[name]
        feeds = {signature.inputs[key].name: x for key, x in inputs.items()}
        fetches = {key: info.name for key, info in signature.outputs.items()}
        return self.session.run(fetches, feeds)


def tolerances(
    model: keras.Model, contract: Contract, tolerance: float | None = None
) -> dict[str, float]:
    """Return the largest difference allowed for each output.

    Args:
        model: The folded model, in the precision in which it is exported.
        contract: Its contract.
        tolerance: The same for every output; None for what rounding explains in the
            layers that the output depends on.

    Returns:
        Output name to difference, relative to the largest value of the output.
    """
    if tolerance is not None:
        return dict.fromkeys(contract.outputs, tolerance)
    outputs = read_graph(model).outputs
    return {
        name: max((_TOLERANCES[x] for x in _precisions(edge)), default=1e-4)
        for name, edge in zip(contract.outputs, outputs, strict=True)
    }


def int8_tolerances(
    contract: Contract, tolerance: float | None = None
) -> dict[str, float]:
    """Return the largest difference allowed between two runs of an int8 model.

    A float input that differs in its last digit may round to another integer.
    """
    return dict.fromkeys(contract.outputs, 5e-2 if tolerance is None else tolerance)


def _precisions(output: Edge) -> set[str]:
    """Return the float types that the value of an edge was computed in."""
    found: set[str] = set()
    visited, pending = set(), [output]
    while pending:
        edge = pending.pop()
        if edge in visited:
            continue
        visited.add(edge)
        found.add(edge.dtype)
        if edge.producer is not None:
            operation = edge.producer.operation
            layers = [operation, *sublayers(operation)]
            found.update(getattr(x, "compute_dtype", None) or "" for x in layers)
            pending += edge.producer.inputs
    return found & _TOLERANCES.keys()


def compare(
    path: str | PathLike[str],
    model: keras.Model,
    contract: Contract,
    samples: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    tolerances: Mapping[str, float],
) -> dict[str, dict[str, float]]:
    """Run every signature of a SavedModel and compare its outputs with the model's.

    Args:
        path: Folder of the SavedModel.
        model: The Keras model that is exported.
        contract: Its contract.
        samples: A flat list of input arrays.
        reference: The model's outputs for the samples.
        tolerances: The largest difference allowed for each output, relative to the
            largest value of the output.

    Returns:
        The largest difference of each output of each signature, relative to the
        output's largest value.

    Raises:
        ValueError: If a difference is larger than the tolerance, or an output depends
            on the other examples in the batch.
    """
    expected = dict(zip(contract.outputs, reference, strict=True))
    differences: dict[str, dict[str, float]] = {}

    def check(signature: str, actual: Arrays, expected: Arrays) -> None:
        differences[signature] = {
            name: relative_difference(actual[name], value)
            for name, value in expected.items()
        }
        for name, value in differences[signature].items():
            # NaN would agree with NaN and prove nothing.
            if "float" in expected[name].dtype.name and not _any_finite(expected[name]):
                raise ValueError(
                    "The model must return finite numbers for the samples, so that the "
                    "export can be compared with it. Received: no finite number in "
                    f"{name!r} of {signature!r}. Nothing was published; pass "
                    "`samples` with typical inputs"
                )
            # `classify` has outputs of its own, which are those of the only one.
            tolerance = tolerances.get(name, max(tolerances.values()))
            # Written so that NaN, which compares false, is refused too.
            if not value <= tolerance:
                raise ValueError(
                    "The outputs of the export must be those of the model within "
                    f"{tolerance:g} of their largest value. Received: a difference of "
                    f"{value:.3g} in {name!r} of {signature!r}. Nothing was published; "
                    "pass `tolerance=` if the model amplifies rounding that much"
                )

    with SavedModelSession(path) as session:
        inputs = dict(zip(contract.inputs, samples, strict=True))
        actual = session.run("serving_default", inputs)
        drawn = dict(zip(contract.inputs, draw_samples(contract), strict=True))
        # The first example again, in a batch with different others: with copies of
        # itself, or, if it was alone before, with random examples.
        other_batch = {
            name: np.repeat(x[:1], len(x), axis=0)
            if len(x) > 1
            else np.concatenate([x, drawn[name][1:].astype(x.dtype)])
            for name, x in inputs.items()
        }
        others = session.run("serving_default", other_batch)
        _check_independence(contract, others, actual, tolerances)
        check("serving_default", actual, expected)
        if contract.preprocessing is not None:
            _compare_image_signatures(session, model, contract, len(samples[0]), check)
    return differences


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two arrays, relative to the largest value.

    Args:
        actual: The array to compare.
        expected: The array to compare with, whose largest absolute value is the unit.

    Returns:
        The difference, infinite where one array is infinite or NaN and the other does
        not have the same value.
    """
    if "float" not in np.asarray(expected).dtype.name:
        return 0.0 if np.array_equal(actual, expected) else np.inf
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    if actual.shape != expected.shape:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return np.inf
    if not np.isfinite(actual[finite]).all():
        return np.inf
    largest = np.abs(expected[finite]).max(initial=0.0)
    gap = np.abs(actual[finite] - expected[finite]).max(initial=0.0)
    return float(gap / largest if largest else gap)


def _any_finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(np.asarray(values, np.float64)).any())


def _compare_image_signatures(
    session: SavedModelSession,
    model: keras.Model,
    contract: Contract,
    count: int,
    check: Callable[[str, Arrays, Arrays], None],
) -> None:
    import tensorflow as tf

    ((name, spec),) = contract.inputs.items()
    preprocessing = contract.preprocessing
    assert preprocessing is not None

    def expect(pixels: Any) -> Arrays:
        inputs = tf.cast(rescale(pixels, preprocessing), spec.dtype).numpy()
        outputs = run_model(model, contract, [inputs])
        return dict(zip(contract.outputs, outputs, strict=True))

    pixels = draw_pixels(contract, count)
    actual = session.run("predict_uint8", {name: pixels})
    check("predict_uint8", actual, expect(pixels))
    if preprocessing.size is None:
        return
    files = draw_image_files(contract, count)
    expected = expect(decode_batch(tf.constant(files), preprocessing))
    actual = session.run("predict_encoded", {name: np.array(files, object)})
    check("predict_encoded", actual, expected)
    if contract.labels is None:
        return
    examples = np.array(encode_examples(files), object)
    actual = session.run("classify", {"inputs": examples})
    (scores,) = expected.values()
    scores = np.asarray(scores, np.float32)
    best = -np.sort(-scores, axis=1)[:, : contract.top_k]
    # Classes with equal scores may be returned in any order, and two classes may have
    # the same label. So compare not the labels but the scores of the classes that they
    # stand for; of several classes with the label, that with the closest score.
    labels = np.array([label.encode() for label in contract.labels], object)
    scores_of_labels = np.zeros_like(best)
    for (row, place), label in np.ndenumerate(actual["classes"]):
        candidates = scores[row, labels == label]
        closest = np.abs(candidates - best[row, place]).argmin()
        scores_of_labels[row, place] = candidates[closest]
    check(
        "classify",
        {"scores": actual["scores"], "classes": scores_of_labels},
        {"scores": best, "classes": best},
    )


def _check_independence(
    contract: Contract,
    actual: Arrays,
    expected: Arrays,
    tolerances: Mapping[str, float],
) -> None:
    # The first example must have the same output as before, although the others have
    # changed, and so must an output without a batch axis.
    for name, spec in contract.outputs.items():
        sizes = (None, contract.batch_size)
        has_batch_axis = bool(spec.shape) and spec.shape[0] in sizes
        index = slice(1) if has_batch_axis else ...
        gap = relative_difference(actual[name][index], expected[name][index])
        if not gap <= tolerances[name]:
            raise ValueError(
                "The output for an example must not depend on the other examples in "
                f"its batch. Received: {name!r} differs by {gap:.3g} of its largest "
                "value when they change. Remove the layer that uses statistics of the "
                "batch"
            )
