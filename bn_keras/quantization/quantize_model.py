"""Make an int8 model of a folded one, and prove how exact it is."""

from numbers import Real
from typing import Any

import keras

from bn_keras.keras_graph import Edge, Graph, read_graph
from bn_keras.quantization import accuracy as accuracies
from bn_keras.quantization.calibration_data import (
    CalibrationData,
    read_calibration_data,
)
from bn_keras.quantization.linear_layers import LINEAR_LAYERS
from bn_keras.quantization.planning import Plan, make_plan
from bn_keras.quantization.quantized_model import QuantizedModel
from bn_keras.quantization.ranges import METHODS, find_ranges
from bn_keras.quantization.report import LayerEntry, QuantizationReport
from bn_keras.quantization.simplification import simplify


def quantize(
    model: keras.Model,
    calibration: Any,
    *,
    accuracy: float = 0.98,
    method: str = "max",
    reduce_range: bool = False,
) -> QuantizedModel:
    """Return a model that computes its convolutions and products in int8.

    The scale of each tensor comes from the values that it has for `calibration`.
    Weights have one scale for each output channel. The zero point is 0. Pooling,
    concatenations and additions between int8 layers are int8, too; everything else
    stays float. Fold batch normalization first.

    Every second example is held back: the float and the int8 model are compared on
    those. If they agree on too few, the layers that cost most return to float, one by
    one, until they agree on enough.

    Args:
        model: A built model for inference, as `fold_batch_normalization` returns it, of
            Keras' TensorFlow backend. It is not changed.
        calibration: Some 100 examples, preprocessed: arrays in the structure that the
            model takes, a batched `tf.data.Dataset` or an iterable of batches, whose
            targets are dropped. At most 4,096 examples are used.
        accuracy: The smallest share of held-back examples for which the class with the
            highest score must be the same, for a model whose outputs are `(batch,
            classes)`. For any other model, 1 minus the relative root-mean-square error
            of its worst output. 0 for no bound, which random weights need.
        method: Which values a scale covers: `"max"` for all that were seen,
            `"percentile"` for 99.99 % of those that are not zero, or `"mse"` for as
            many as give the smallest mean squared error.
        reduce_range: Whether to round weights to 7 bits. Processors with AVX2 or
            AVX-512 but without VNNI add pairs of products in 16 bits, which overflow in
            some layers otherwise.

    Returns:
        The int8 model, with the attribute `report`.

    Raises:
        ValueError: If an argument is invalid, no layer can be int8, or the bound is
            missed whatever returns to float.

    Example:
    ```python
    import keras
    import numpy as np
    from bn_keras.quantization import quantize

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    images = np.random.default_rng(0).random((64, 8, 8, 3), dtype="float32")
    quantized = quantize(model, images, accuracy=0.9)
    print(quantized.report)
    assert quantized(images).shape == (64, 2)
    ```

    Reference:
        Jacob et al. 2018, sections 2 and 3.
    """
    _check_arguments(accuracy, method, reduce_range)
    graph = read_graph(model)
    data = read_calibration_data(calibration, graph)
    simplify(graph)
    edges = [*graph.inputs, *(edge for call in graph.calls for edge in call.outputs)]
    floats = [edge for edge in edges if "float" in edge.dtype]
    ranges = find_ranges(graph, floats, data.used, method)
    plan = make_plan(graph, ranges)
    if not any(step.is_int8 and step.linear is not None for step in plan.steps):
        reasons = {
            step.reason
            for step in plan.steps
            if type(step.main.operation) in LINEAR_LAYERS
        } or {"there is none"}
        raise ValueError(
            "The model must have a convolution or dense layer that can be int8. "
            f"Received: {model.name!r}, where {'; '.join(sorted(reasons))}. Export it "
            "in float32 or bfloat16"
        )
    expected = accuracies.run_graph(graph, data.held_back)
    quantized, figures = _hold_bound(
        plan, ranges, data, expected, accuracy, reduce_range
    )
    warnings = list(data.warnings)
    if accuracy == 0:
        warnings.append("no bound was set: `accuracy` is 0")
    seven = ", weights in 7 bits" if reduce_range else ""
    quantized.report = QuantizationReport(
        tuple(_entries(quantized, data)),
        *figures,
        calibration=f"{method} of {len(data.used[0])} examples{seven}",
        warnings=tuple(warnings),
    )
    return quantized


def _check_arguments(accuracy: float, method: str, reduce_range: bool) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`quantize` needs Keras' TensorFlow backend. Received: "
            f"{keras.backend.backend()!r}. Use `export_saved_model`, which starts it"
        )
    is_number = isinstance(accuracy, Real) and not isinstance(accuracy, bool)
    if not is_number or not 0 <= float(accuracy) <= 1:
        raise ValueError(
            f"`accuracy` must be from 0 to 1. Received: accuracy={accuracy!r}"
        )
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS))}. Received: "
            f"method={method!r}"
        )
    if not isinstance(reduce_range, bool):
        raise ValueError(
            f"`reduce_range` must be True or False. Received: {reduce_range!r}"
        )


def _hold_bound(
    plan: Plan,
    ranges: dict[Edge, tuple[float, float]],
    data: CalibrationData,
    expected: accuracies.Arrays,
    bound: float,
    reduce_range: bool,
) -> tuple[QuantizedModel, tuple[str, float, float, int, float]]:
    """Return the int8 model that holds the bound, and the figures of its report."""
    measure = accuracies.choose_measure(plan.graph)
    graph: Graph = plan.graph

    def attempt(plan: Plan) -> tuple[QuantizedModel, float, float]:
        model = QuantizedModel(plan, reduce_range=reduce_range)
        actual = accuracies.run_quantized(model, data.held_back)
        error = accuracies.relative_error(expected, actual)
        return model, accuracies.score(measure, expected, actual), error

    model, value, error = attempt(plan)
    best = value
    if bound and not value >= bound:
        sensitivity = accuracies.Sensitivity(plan, data.held_back, reduce_range)
        order = sensitivity.order()
        # Rounding in float shows how many layers must return at least, which spares
        # most of the attempts.
        count = 1
        while count < len(order):
            outputs = sensitivity.outputs(order[count:])
            if accuracies.score(measure, expected, outputs) >= bound:
                break
            count += 1
        while value < bound and count < len(order):
            labels = {step.main.label for step in order[:count]}
            model, value, error = attempt(make_plan(graph, ranges, labels))
            best = max(best, value)
            count += 1
    if bound and not value >= bound:
        raise ValueError(
            f"The int8 model must have a {measure} of at least {bound:g} with the "
            f"float model. Received: {best:.4g} at most on {len(data.held_back[0])} "
            "held-back examples, whichever layers return to float. Pass other examples "
            "as `calibration`, lower `accuracy`, or export in bfloat16"
        )
    return model, (measure, value, bound, len(data.held_back[0]), error)


def _entries(model: QuantizedModel, data: CalibrationData) -> list[LayerEntry]:
    noise = accuracies.measure_noise(model, data.held_back)
    entries = []
    for step in model.plan.steps:
        is_int8 = step.is_int8
        scale = model.plan.scales.get(step.output) if is_int8 else None
        entries.append(
            LayerEntry(
                step.main.label,
                type(step.main.operation).__name__,
                "int8" if is_int8 else "float",
                step.reason,
                None if scale is None else scale.step,
                noise.get(step),
                step.multiply_adds,
            )
        )
    return entries
