"""Compare a float and an int8 model, and find the layers that cost accuracy."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from bn_keras.keras_graph import Call, Edge, Graph
from bn_keras.quantization import operations
from bn_keras.quantization.execution import Execution, run_calls
from bn_keras.quantization.linear_layers import rounded_weights
from bn_keras.quantization.planning import Plan, Step
from bn_keras.quantization.quantized_model import QuantizedModel
from bn_keras.quantization.ranges import batches

Arrays = list[np.ndarray]

AGREEMENT = "top-1 agreement"
EXACTNESS = "1 - relative error"


def choose_measure(graph: Graph) -> str:
    """Return what models are compared by: the class, if there are scores of classes."""
    is_scores = all(
        len(edge.shape) == 2 and (edge.shape[1] or 0) > 1 and "float" in edge.dtype
        for edge in graph.outputs
    )
    return AGREEMENT if is_scores else EXACTNESS


def score(measure: str, expected: Arrays, actual: Arrays) -> float:
    """Return how well outputs agree, 1 if they are the same.

    Args:
        measure: What `choose_measure` returns.
        expected: The outputs of the float model.
        actual: The outputs of the other one.

    Returns:
        The worst of all outputs.
    """
    if measure == AGREEMENT:
        return min(
            float((x.argmax(axis=1) == y.argmax(axis=1)).mean())
            for x, y in zip(expected, actual, strict=True)
        )
    return 1 - relative_error(expected, actual)


def relative_error(expected: Arrays, actual: Arrays) -> float:
    """Return the root of the mean squared difference relative to the expected values.

    It is the largest of all outputs.
    """
    errors = [0.0]
    for x, y in zip(expected, actual, strict=True):
        if "float" not in x.dtype.name:
            errors.append(float((x != y).mean()))
            continue
        x, y = x.astype(np.float64), y.astype(np.float64)
        noise, power = np.square(x - y).mean(), np.square(x).mean()
        errors.append(float(np.sqrt(noise / power)) if power else float(noise > 0))
    return max(errors)


def run_graph(graph: Graph, examples: Sequence[np.ndarray]) -> Arrays:
    """Return the outputs of the float model."""

    def run(*inputs: Any) -> list[Any]:
        tensors = dict(zip(graph.inputs, inputs, strict=True))
        run_calls(graph.calls, tensors)
        return [tensors[edge] for edge in graph.outputs]

    return _run_in_batches(_in_graph(run), graph, examples)


def run_quantized(model: QuantizedModel, examples: Sequence[np.ndarray]) -> Arrays:
    """Return the outputs of the int8 model."""

    def run(*inputs: Any) -> list[Any]:
        return Execution(model.plan, model.int8_weights, inputs).run()

    return _run_in_batches(_in_graph(run), model.plan.graph, examples)


def measure_noise(
    model: QuantizedModel, examples: Sequence[np.ndarray]
) -> dict[Step, float]:
    """Return the signal-to-noise ratio of each int8 step's output, in decibels."""
    import tensorflow as tf

    plan = model.plan

    def run(*inputs: Any) -> Any:
        tensors = dict(zip(plan.graph.inputs, inputs, strict=True))
        run_calls(plan.graph.calls, tensors)
        powers: dict[Step, Any] = {}

        def observe(step: Step, values: Any) -> Any:
            expected = tensors[step.output]
            noise = tf.reduce_sum(tf.square(values - expected))
            powers[step] = tf.stack([tf.reduce_sum(tf.square(expected)), noise])
            return powers[step]

        execution = Execution(plan, model.int8_weights, inputs, observe)
        execution.run()
        for step in plan.steps:
            if step.is_int8 and step not in powers:
                observe(step, execution.floats[step.output])
        return [powers[step] for step in plan.steps if step.is_int8]

    steps = [step for step in plan.steps if step.is_int8]
    if not steps:
        return {}
    run = _in_graph(run)
    totals = np.zeros((len(steps), 2))
    for batch in batches(examples, plan.graph):
        totals += np.array([x.numpy() for x in run(*batch)])
    ratios = {}
    for step, (signal, noise) in zip(steps, totals, strict=True):
        if signal > 0:
            ratios[step] = float(10 * np.log10(signal / max(noise, signal * 1e-20)))
    return ratios


class Sensitivity:
    """How much each linear layer of a plan costs, in float with rounded numbers.

    Args:
        plan: The plan, with all layers in int8.
        examples: Inputs of the model.
        reduce_range: Whether weights have 7 bits.
    """

    def __init__(
        self, plan: Plan, examples: Sequence[np.ndarray], reduce_range: bool
    ) -> None:
        self.steps = [x for x in plan.steps if x.is_int8 and x.linear is not None]
        self._graph = plan.graph
        self._examples = examples
        self._run = _in_graph(self._make_run(plan, reduce_range))
        self._expected = self.outputs([])

    def outputs(self, steps: Sequence[Step]) -> Arrays:
        """Return the model's outputs with the given layers rounded."""
        mask = np.isin(np.arange(len(self.steps)), [self.steps.index(x) for x in steps])
        return _run_in_batches(
            lambda *inputs: self._run(mask, *inputs), self._graph, self._examples
        )

    def order(self) -> list[Step]:
        """Return the layers, those that cost most first."""
        errors = {
            step: relative_error(self._expected, self.outputs([step]))
            for step in self.steps
        }
        return sorted(self.steps, key=lambda step: -errors[step])

    def _make_run(self, plan: Plan, reduce_range: bool) -> Callable[..., list[Any]]:
        import tensorflow as tf

        readers = {step.main: place for place, step in enumerate(self.steps)}
        writers = {step.output: place for place, step in enumerate(self.steps)}

        def run(mask: Any, *inputs: Any) -> list[Any]:
            def round_input(call: Call, edge: Edge, value: Any) -> Any:
                # An int8 layer rounds what it takes and what it returns.
                places = [
                    x for x in (readers.get(call), writers.get(edge)) if x is not None
                ]
                if not places or edge not in plan.scales:
                    return value
                rounded = operations.dequantize(
                    operations.quantize(value, plan.scales[edge])
                )
                is_rounded = tf.reduce_any([mask[place] for place in places])
                return tf.where(is_rounded, rounded, value)

            # A convolution's own input is that of its padding.
            kernels = {}
            for place, step in enumerate(self.steps):
                layer: Any = step.main.operation
                if step.linear is None or not hasattr(layer, "kernel"):
                    continue
                weights = rounded_weights(
                    step.linear, plan.scales[step.inputs[0]], reduce_range
                )
                kernels[id(layer.kernel)] = (
                    layer.kernel,
                    tf.where(mask[place], weights, step.linear.kernel),
                )
            tensors = dict(zip(plan.graph.inputs, inputs, strict=True))
            with keras.StatelessScope(state_mapping=list(kernels.values())):
                run_calls(plan.graph.calls, tensors, round_input)
            return [tensors[edge] for edge in plan.graph.outputs]

        return run


def _run_in_batches(
    run: Callable[..., list[Any]], graph: Graph, examples: Sequence[np.ndarray]
) -> Arrays:
    parts = []
    for batch in batches(examples, graph):
        parts.append([x.numpy() for x in run(*batch)])
    count = len(examples[0])
    return [np.concatenate(x)[:count] for x in zip(*parts, strict=True)]


def _in_graph(function: Callable[..., Any]) -> Any:
    import tensorflow as tf

    return tf.function(function, autograph=False, reduce_retracing=True)
