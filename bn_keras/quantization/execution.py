"""Run the steps of a plan on tensors, in float or in int8."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from keras import tree

from bn_keras.keras_graph import Call, Edge
from bn_keras.quantization import operations
from bn_keras.quantization.operations import QuantizedTensor, QuantizedWeights
from bn_keras.quantization.planning import Plan, Step

Tensors = dict[Edge, Any]


def run_calls(
    calls: Iterable[Call],
    tensors: Tensors,
    replace: Callable[[Call, Edge, Any], Any] | None = None,
) -> None:
    """Run calls in float.

    Args:
        calls: The calls, in an order in which they can be run.
        tensors: The values of their inputs. Those of their outputs are added.
        replace: Returns what a call gets instead of the value of an edge.
    """

    def fill_in(call: Call) -> Any:
        def value(argument: Any) -> Any:
            if not isinstance(argument, Edge):
                return argument
            tensor = tensors[argument]
            return tensor if replace is None else replace(call, argument, tensor)

        return tree.map_structure(value, call.arguments)

    for call in calls:
        args, kwargs = fill_in(call)
        outputs = tree.flatten(call.operation(*args, **kwargs))
        tensors.update(zip(call.outputs, outputs, strict=True))


class Execution:
    """One run of a plan in a graph of TensorFlow's.

    Tensors are converted where they are needed, each at most once in each direction.

    Args:
        plan: The plan.
        weights: The int8 weights of its linear steps.
        inputs: The tensors of the model's inputs.
        observe: Called with each tensor of 8-bit integers, in float, as soon as there
            is one; for measurements.
    """

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[Step, QuantizedWeights],
        inputs: Sequence[Any],
        observe: Callable[[Step, Any], Any] | None = None,
    ) -> None:
        self.plan = plan
        self.weights = weights
        self.observe = observe
        self.floats: Tensors = dict(zip(plan.graph.inputs, inputs, strict=True))
        self.integers: dict[Edge, QuantizedTensor] = {}
        self.observed: list[Any] = []

    def run(self) -> list[Any]:
        """Return the float tensors of the model's outputs."""
        import tensorflow as tf

        for step in self.plan.steps:
            if not step.is_int8:
                for edge in {x for call in step.calls for x in call.inputs}:
                    if edge in self.integers:
                        self._float(edge)
                run_calls(step.calls, self.floats)
                continue
            # What has been observed is computed before a step that overwrites it.
            with tf.control_dependencies(self.observed if step.summand else []):
                self._run_int8(step)
            if self.observe is not None and step.output in self.integers:
                values = operations.dequantize(self.integers[step.output])
                self.observed.append(self.observe(step, values))
        return [self._float(edge) for edge in self.plan.graph.outputs]

    def _float(self, edge: Edge) -> Any:
        if edge not in self.floats:
            self.floats[edge] = operations.dequantize(self.integers[edge])
        return self.floats[edge]

    def _int8(self, edge: Edge) -> QuantizedTensor:
        if edge not in self.integers:
            scale = self.plan.scales[edge]
            self.integers[edge] = operations.quantize(self.floats[edge], scale)
        return self.integers[edge]

    def _run_int8(self, step: Step) -> None:
        if step.kind == "matrix":
            self._multiply(step)
        elif step.linear is not None:
            self.integers[step.output] = self._convolve(step)
        else:
            self.integers[step.output] = self._move(step)

    def _multiply(self, step: Step) -> None:
        assert step.linear is not None
        result = operations.multiply(
            self._int8(step.inputs[0]),
            self.weights[step],
            self._output_scale(step),
            relu=step.relu,
            name=step.main.path,
        )
        if isinstance(result, QuantizedTensor):
            self.integers[step.output] = result
        else:
            self.floats[step.output] = result

    def _output_scale(self, step: Step) -> Any:
        # The product of a matrix can be float at no cost, as a convolution cannot.
        # Without a ReLU6, whose limit is that of the integers.
        readers = {
            id(x) for x in self.plan.steps if x.is_int8 and step.output in x.inputs
        }
        if readers or step.limit < float("inf"):
            return self.plan.scales[step.output]
        return None

    def _convolve(self, step: Step) -> QuantizedTensor:
        linear, weights = step.linear, self.weights[step]
        assert linear is not None
        tensor = self._int8(step.inputs[0])
        scale = self.plan.scales[step.output]
        options: dict[str, Any] = {
            "strides": linear.strides,
            "dilations": linear.dilations,
            "padding": step.padding or linear.padding,
            "relu": step.relu,
            "name": step.main.path,
        }
        if linear.kind == "depthwise":
            return operations.convolve(
                operations.DEPTHWISE, tensor, weights, scale, **options
            )
        if linear.groups > 1:
            return self._convolve_groups(step, tensor, options)
        summand = None if step.summand is None else self._int8(step.summand)
        return operations.convolve(
            operations.CONVOLUTION, tensor, weights, scale, summand=summand, **options
        )

    def _convolve_groups(
        self, step: Step, tensor: QuantizedTensor, options: dict[str, Any]
    ) -> QuantizedTensor:
        import tensorflow as tf

        assert step.linear is not None
        weights, groups = self.weights[step], step.linear.groups
        size = len(weights.bias) // groups
        # The operation that splits has no kernel for quantized types.
        plain = tf.bitcast(tensor.values, tf.uint8)
        results = []
        for number, part in enumerate(tf.split(plain, groups, axis=3)):
            chosen = slice(number * size, (number + 1) * size)
            results.append(
                operations.convolve(
                    operations.CONVOLUTION,
                    QuantizedTensor(
                        tf.bitcast(part, tensor.values.dtype), tensor.scale
                    ),
                    QuantizedWeights(
                        weights.values[..., chosen],
                        weights.limits[chosen],
                        weights.bias[chosen],
                    ),
                    self.plan.scales[step.output],
                    **options,
                )
            )
        return operations.concatenate(results, axis=3)

    def _move(self, step: Step) -> QuantizedTensor:
        operation: Any = step.main.operation
        tensors = [self._int8(edge) for edge in step.inputs]
        if step.kind == "concatenation":
            rank = len(step.output.shape)
            return operations.concatenate(tensors, operation.axis % rank)
        (tensor,) = tensors
        if step.kind == "padding":
            return operations.pad(tensor, [tuple(x) for x in operation.padding])
        if step.kind == "reshape":
            return _reshape(tensor, step.output.shape)
        if step.kind == "global max pooling":
            size: Any = tuple(step.inputs[0].shape[1:3])
            pooled = operations.pool("max", tensor, size, (1, 1), "VALID")
            return _reshape(pooled, step.output.shape)
        return operations.pool(
            step.kind.removesuffix(" pooling"),
            tensor,
            tuple(operation.pool_size),
            tuple(operation.strides),
            operation.padding.upper(),
        )


def _reshape(tensor: QuantizedTensor, shape: tuple[int | None, ...]) -> QuantizedTensor:
    sizes = [-1 if size is None else size for size in shape]
    return operations.reshape(tensor, sizes)
