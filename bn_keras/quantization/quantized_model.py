"""A Keras model whose convolutions and products are computed in int8."""

from typing import Any

import keras
from keras import tree

from bn_keras.quantization.execution import Execution
from bn_keras.quantization.linear_layers import quantize_weights
from bn_keras.quantization.operations import QuantizedWeights
from bn_keras.quantization.planning import Plan, Step
from bn_keras.quantization.report import QuantizationReport


class QuantizedModel(keras.Model):
    """A model for inference that computes in int8 where its report says so.

    It takes and returns what the float model does, and needs TensorFlow on a processor
    of the x86-64 family. `bn_keras.quantization.quantize` makes one; it cannot be
    trained or saved, only exported.

    Args:
        plan: What is computed in int8, and with which scales.
        report: What became of each layer.
        reduce_range: Whether weights have 7 bits.
    """

    # Declared, because Keras types neither.
    __call__: Any

    def __init__(
        self,
        plan: Plan,
        report: QuantizationReport | None = None,
        reduce_range: bool = False,
    ) -> None:
        super().__init__(name=plan.graph.name, trainable=False)
        # XLA has no such operations.
        self.supports_jit = False
        # Of the layers in float, Keras keeps the weights. What is in a tuple in a
        # `_Fixed`, it does not look at.
        self.float_layers = [
            call.operation
            for step in plan.steps
            if not step.is_int8
            for call in step.calls
            if isinstance(call.operation, keras.Layer)
        ]
        weights = {
            step: quantize_weights(
                step.linear, plan.scales[step.inputs[0]], reduce_range
            )
            for step in plan.steps
            if step.linear is not None and step.is_int8
        }
        self._fixed = _Fixed(plan, weights)
        self.report = report
        self.built = True

    @property
    def plan(self) -> Plan:
        """What is computed in int8."""
        return self._fixed.plan

    @property
    def int8_weights(self) -> dict[Step, QuantizedWeights]:
        """The int8 weights of each linear step."""
        return self._fixed.weights

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the outputs for a batch of inputs."""
        import tensorflow as tf

        if tf.executing_eagerly():
            return self._fixed.function(self, inputs)
        return self._run(inputs)

    def _run(self, inputs: Any) -> Any:
        graph = self.plan.graph
        tensors = [
            keras.ops.cast(tensor, edge.dtype)
            for tensor, edge in zip(tree.flatten(inputs), graph.inputs, strict=True)
        ]
        outputs = Execution(self.plan, self._fixed.weights, tensors).run()
        return tree.pack_sequence_as(graph.output_structure, outputs)


class _Fixed:
    """What Keras shall not track."""

    def __init__(self, plan: Plan, weights: dict[Step, QuantizedWeights]) -> None:
        self.plan = plan
        self.weights = weights
        self._function: Any = None

    def function(self, model: QuantizedModel, inputs: Any) -> Any:
        import tensorflow as tf

        if self._function is None:
            # The operations exist in graphs only.
            self._function = tf.function(
                lambda x: model._run(x), autograph=False, reduce_retracing=True
            )
        return self._function(tree.map_structure(tf.convert_to_tensor, inputs))
