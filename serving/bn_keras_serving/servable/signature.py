"""A signature of a loaded model: checks of its inputs, and execution."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import ExecutionError, InvalidRequestError
from bn_keras_serving.common.limits import Limits

DEFAULT_SIGNATURE = "serving_default"
# The prefix of an error raised inside a TensorFlow function. It shows where the
# function was written, which means nothing to a client.
_STACK_TRACE = re.compile(
    r"\AGraph execution error:\s+"
    r"(?:Detected at node .*? defined at \(most recent call last\):\n"
    r"(?:<stack traces unavailable>\n|(?:\s*File .*\n)+\s*|Node: .*\n)*)?"
)

# From the inputs by name, the names of the requested outputs and the seconds that the
# call may take, to the outputs by name.
Function = Callable[
    [dict[str, np.ndarray], list[str], float | None], dict[str, np.ndarray]
]


class Signature:
    """A function of a loaded model, with named inputs and outputs.

    Args:
        definition: The exported `SignatureDef`.
        limits: Limits on the inputs of a request; defaults to `Limits()`.

    Attributes:
        function: Function that runs the model. Set once the model is loaded.
        definition: The exported `SignatureDef`.
        inputs: Input name to `tf.TensorSpec`.
        outputs: Output names, sorted.

    Example:
        ```python
        import numpy as np
        import tensorflow as tf
        from tensorflow.core.protobuf import meta_graph_pb2

        from bn_keras_serving.servable.signature import Signature

        definition = meta_graph_pb2.SignatureDef()
        definition.inputs["x"].dtype = tf.float32.as_datatype_enum
        definition.inputs["x"].tensor_shape.dim.add(size=-1)
        definition.outputs["y"].CopyFrom(definition.inputs["x"])
        signature = Signature(definition)
        signature.function = lambda inputs, *_: {"y": 2 * inputs["x"]}
        outputs = signature.run({"x": np.ones(3, np.float32)})
        assert outputs["y"].tolist() == [2, 2, 2]
        ```
    """

    def __init__(
        self,
        definition: meta_graph_pb2.SignatureDef,
        limits: Limits | None = None,
    ):
        self.function: Function | None = None
        self.definition = definition
        self._limits = limits or Limits()
        self.inputs: dict[str, tf.TensorSpec] = {
            alias: tf.TensorSpec(
                # The stubs omit that a TensorShape can be made from its proto.
                tf.TensorShape(info.tensor_shape),  # pyright: ignore[reportArgumentType]
                info.dtype,
                alias,
            )
            for alias, info in sorted(definition.inputs.items())
        }
        self.outputs: list[str] = sorted(definition.outputs)
        self._defaults = {
            alias: tensors.parse(proto) for alias, proto in definition.defaults.items()
        }

    def check_names(self, names: Collection[str]) -> None:
        """Check that a request contains exactly the inputs of this signature.

        Inputs with a default may be missing.

        Raises:
            InvalidRequestError: If an input is missing or unknown.
        """
        sent, expected = set(names), set(self.inputs)
        if len(sent) > len(expected) or (
            len(sent) < len(expected) and not self._defaults
        ):
            raise InvalidRequestError(
                f"input size does not match signature: {len(sent)}!={len(expected)} "
                f"len({_braced(sent)}) != len({_braced(expected)}). "
                f"Sent extra: {_braced(sent - expected)}. "
                f"Missing but required: {_braced(expected - sent)}."
            )
        for alias in sorted(expected - sent - set(self._defaults)):
            raise InvalidRequestError(
                f"Signature input alias: {alias}(feed name: "
                f"{self.definition.inputs[alias].name}) not found in request and no "
                "default value provided. Inputs expected to be in the request "
                f"{_braced(sent)}, or default input alias set: "
                f"{','.join(sorted(self._defaults))}"
            )
        if sent - expected:
            raise InvalidRequestError(
                "Inputs contains invalid name. Used request inputs: "
                f"{','.join(sorted(sent & expected))}, request input: "
                f"{','.join(sorted(sent))}"
            )

    def parse(
        self, protos: Mapping[str, tensor_pb2.TensorProto]
    ) -> dict[str, np.ndarray]:
        """Check and parse the inputs of a request.

        The declared types and shapes are checked before the values are parsed, since a
        message of a few bytes can ask for any amount of memory.

        Args:
            protos: Input name to `TensorProto`.

        Returns:
            Input name to array.

        Raises:
            InvalidRequestError: If an input does not match the signature or its proto
                is malformed. The message names the input.
        """
        self.check_names(protos)
        arrays = {}
        for position, (alias, spec) in enumerate(self.inputs.items()):
            if alias not in protos:
                continue
            try:
                dtype, shape = tensors.declared_type_and_shape(protos[alias])
                _check_type(position, spec, tensors.type_name(dtype.as_datatype_enum))
                _check_shape(spec, shape)
                arrays[alias] = tensors.parse(protos[alias])
                self._check_limits(alias, arrays[alias])
            except InvalidRequestError:
                raise
            except ValueError as error:
                raise InvalidRequestError(f"tensor parsing error: {alias}") from error
        return arrays

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        output_filter: Iterable[str] = (),
        seconds: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Check the inputs and run the model.

        Everything is checked before TensorFlow sees it, because an input of the wrong
        rank can abort the whole process inside a kernel.

        Args:
            inputs: Input name to array, with the shapes and types of `self.inputs`.
            output_filter: Names of the outputs to compute. Empty means all outputs.
            seconds: Maximum run time; None for no limit.

        Returns:
            Output name to array.

        Raises:
            InvalidRequestError: If a name, type or shape does not match the signature,
                or the batch is empty.
            ExecutionError: If the model raises an error.
        """
        self.check_names(inputs)
        for position, (alias, spec) in enumerate(self.inputs.items()):
            if alias in inputs:
                _check_type(position, spec, _type_name_of(inputs[alias]))
                _check_shape(spec, inputs[alias].shape)
                self._check_limits(alias, inputs[alias])
        return self.compute(inputs, output_filter, seconds)

    def compute(
        self,
        inputs: Mapping[str, np.ndarray],
        output_filter: Iterable[str] = (),
        seconds: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run the model on inputs that `parse` has returned, without further checks."""
        outputs = self._select_outputs(output_filter)
        assert self.function is not None
        try:
            return self.function({**self._defaults, **inputs}, outputs, seconds)
        except tf.errors.OpError as error:
            raise ExecutionError(_STACK_TRACE.sub("", error.message)) from error
        except UnicodeDecodeError:
            # TensorFlow raises this in place of its own error if the text of that
            # error quotes bytes that are not valid UTF-8.
            raise InvalidRequestError(
                "The inputs must have values that the model can process. Received: "
                "values for which TensorFlow raises an error that is not valid UTF-8. "
                "Send other values."
            ) from None

    def _check_limits(self, alias: str, array: np.ndarray) -> None:
        if array.size > self._limits.elements:
            raise InvalidRequestError(
                f'Input "{alias}" must have at most {self._limits.elements} elements. '
                f"Received: {array.size} elements. Split them into several requests."
            )
        if array.dtype == object:
            longest = max(map(len, array.ravel()), default=0)
            if longest > self._limits.string_bytes:
                raise InvalidRequestError(
                    f'Strings in input "{alias}" must have at most '
                    f"{self._limits.string_bytes} bytes. Received: a string of "
                    f"{longest} bytes. Send a shorter one."
                )

    def _select_outputs(self, output_filter: Iterable[str]) -> list[str]:
        selected: list[str] = []
        for alias in output_filter:
            if alias not in self.outputs:
                raise InvalidRequestError(
                    f"output tensor alias not found in signature: {alias} Outputs "
                    f"expected to be in the set {_braced(self.outputs)}."
                )
            if alias in selected:
                raise InvalidRequestError(f"duplicate output tensor alias: {alias}")
            selected.append(alias)
        return selected or self.outputs


def _check_type(position: int, spec: tf.TensorSpec, provided: str) -> None:
    expected = tensors.type_name(spec.dtype.as_datatype_enum)
    if provided != expected:
        raise InvalidRequestError(
            f"Expects arg[{position}] to be {expected} but {provided} is provided"
        )


def _check_shape(spec: tf.TensorSpec, shape: tuple[int, ...]) -> None:
    if not spec.shape.is_compatible_with(shape):
        hint = (
            "Add a leading batch axis of size 1 to a single example."
            if spec.shape[1:].is_compatible_with(shape)
            else "Reshape it; None matches any size."
        )
        raise InvalidRequestError(
            f'Input "{spec.name}" must have shape {spec.shape}. Received: shape '
            f"{shape}. {hint}"
        )
    has_batch_axis = spec.shape.rank is None or (
        spec.shape.rank and spec.shape[0] is None
    )
    if has_batch_axis and shape and shape[0] == 0:
        raise InvalidRequestError(
            f'Input "{spec.name}" of shape {spec.shape} must contain at least one '
            f"example. Received: shape {shape}, an empty batch. Do not send a request "
            "without examples."
        )


def _type_name_of(array: np.ndarray) -> str:
    try:
        return tensors.type_name(tf.as_dtype(array.dtype).as_datatype_enum)
    except TypeError:
        return str(array.dtype)


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
