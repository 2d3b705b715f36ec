"""A signature of a loaded model: checks of its inputs, and execution."""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import ExecutionError, InvalidRequestError
from bn_keras_serving.common.limits import Limits

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


@dataclasses.dataclass(frozen=True)
class _Input:
    """What is checked of one input, prepared so that a request costs little.

    Args:
        alias: Its name in requests.
        position: Its position in the signature, for messages.
        data_type: `DataType` of its tensor in the graph.
        shape: The declared shape.
        check_shape: Whether the shape of a request must match.
    """

    alias: str
    position: int
    data_type: int
    shape: tf.TensorShape
    check_shape: bool

    def check(self, data_type: int, shape: tuple[int, ...]) -> None:
        """Check type and shape."""
        if data_type != self.data_type:
            raise self.wrong_type(tensors.type_name(data_type))
        if self.check_shape:
            self._check_shape(shape)

    def check_limits(self, array: np.ndarray, limits: Limits) -> None:
        """Check the number of elements, and the length of strings."""
        if array.size > limits.elements:
            raise InvalidRequestError(
                f'Input "{self.alias}" must have at most {limits.elements} elements. '
                f"Received: {array.size} elements. Split them into several requests."
            )
        if self.data_type != types_pb2.DT_STRING:
            return
        longest = max(map(len, array.ravel()), default=0)
        if longest > limits.string_bytes:
            raise InvalidRequestError(
                f'Strings in input "{self.alias}" must have at most '
                f"{limits.string_bytes} bytes. Received: a string of {longest} bytes. "
                "Send a shorter one."
            )

    def wrong_type(self, provided: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"Expects arg[{self.position}] to be {tensors.type_name(self.data_type)} "
            f"but {provided} is provided"
        )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if not self.shape.is_compatible_with(shape):
            hint = (
                "Add a leading batch axis of size 1 to a single example."
                if self.shape[1:].is_compatible_with(shape)
                else "Reshape it; None matches any size."
            )
            raise InvalidRequestError(
                f'Input "{self.alias}" must have shape {self.shape}. Received: shape '
                f"{shape}. {hint}"
            )
        if self.shape.rank and 0 in shape and 0 not in self.shape.as_list():
            raise InvalidRequestError(
                f'Input "{self.alias}" of shape {self.shape} must contain at least one '
                f"example. Received: shape {shape}, an empty batch. Do not send a "
                "request without examples."
                if shape[0] == 0
                else f'Input "{self.alias}" of shape {self.shape} must contain at '
                f"least one value. Received: shape {shape}. Do not send empty examples."
            )


class Signature:
    """A function of a loaded model, with named inputs and outputs.

    Args:
        definition: The exported `SignatureDef`.
        limits: Limits on the inputs of a request; defaults to `Limits()`.
        graph_types: Input name to the `DataType` of its tensor in the graph, which
            applies where the definition declares another one.
        unchecked_shapes: Names of the inputs whose shapes are left to the graph, as in
            TensorFlow Serving. The others must match the definition.

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
        graph_types: Mapping[str, int] | None = None,
        unchecked_shapes: Collection[str] = (),
    ):
        self.function: Function | None = None
        self.definition = definition
        self._limits = limits or Limits()
        self.inputs: dict[str, tf.TensorSpec] = {}
        self._inputs: list[_Input] = []
        for alias, info in sorted(definition.inputs.items()):
            # A shape that is not declared is unknown, while that of a scalar is empty.
            declared = info.tensor_shape if info.HasField("tensor_shape") else None
            # The stubs omit that a TensorShape can be made from its proto.
            shape = tf.TensorShape(declared)  # pyright: ignore[reportArgumentType]
            data_type = (graph_types or {}).get(alias, info.dtype)
            self.inputs[alias] = tf.TensorSpec(shape, data_type, alias)
            position, check_shape = len(self._inputs), alias not in unchecked_shapes
            self._inputs.append(_Input(alias, position, data_type, shape, check_shape))
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
        if len(names) == len(self.inputs) and all(
            alias in names for alias in self.inputs
        ):
            return
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
        arrays: dict[str, np.ndarray] = {}
        for expected in self._inputs:
            alias = expected.alias
            if alias not in protos:
                continue
            proto = protos[alias]
            try:
                data_type, shape = tensors.declared_type_and_shape(proto)
                expected.check(data_type, shape)
                array = tensors.parse_values(proto, data_type, shape)
            except InvalidRequestError:
                raise
            except ValueError as error:
                raise InvalidRequestError(f"tensor parsing error: {alias}") from error
            expected.check_limits(array, self._limits)
            arrays[alias] = array
        return arrays

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
        seconds: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Check the inputs and run the model.

        Args:
            inputs: Input name to array, with the types of `self.inputs`.
            output_filter: Names of the outputs to compute. Empty means all outputs.
            seconds: Maximum run time; None for no limit.

        Returns:
            Output name to array.

        Raises:
            InvalidRequestError: If a name or type does not match the signature. If
                shapes are checked, also if a shape does not match, or the batch is
                empty.
            ExecutionError: If the model raises an error.
        """
        self.check_names(inputs)
        for expected in self._inputs:
            array = inputs.get(expected.alias)
            if array is None:
                continue
            try:
                data_type = tensors.data_type_of(array)
            except TypeError:
                raise expected.wrong_type(str(array.dtype)) from None
            expected.check(data_type, array.shape)
            expected.check_limits(array, self._limits)
        return self.compute(inputs, output_filter, seconds)

    def compute(
        self,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
        seconds: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run the model on inputs that `parse` has returned, without further checks."""
        outputs = self._select_outputs(output_filter) if output_filter else self.outputs
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

    def _select_outputs(self, output_filter: Sequence[str]) -> list[str]:
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
        return selected


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
