"""Check requests against a loaded signature, and run it.

Knows no version, no transport and no status code: NumPy in, NumPy out.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import ExecutionError, InvalidRequestError
from bn_keras_serving.common.limits import Limits

DEFAULT_SIGNATURE = "serving_default"
# What TensorFlow puts before the message of an operation inside a function: where the
# function was written, which is nothing to the caller.
_TRACE = re.compile(
    r"\AGraph execution error:\s+"
    r"(?:Detected at node .*? defined at \(most recent call last\):\n"
    r"(?:<stack traces unavailable>\n|(?:\s*File .*\n)+\s*|Node: .*\n)*)?"
)


# Inputs by name, the outputs wanted, the seconds it may take, to outputs by name.
Function = Callable[
    [dict[str, np.ndarray], list[str], float | None], dict[str, np.ndarray]
]


class Signature:
    """One way to call a loaded model.

    Args:
        definition: Its `SignatureDef`.
        limits: Caps on what a request may hold.

    Attributes:
        function: Runs the model, once it is loaded.
        definition: The `SignatureDef`, as exported.
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
        answer = signature.run({"x": np.ones(3, np.float32)})
        assert answer["y"].tolist() == [2, 2, 2]
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
        self.inputs = {
            alias: tf.TensorSpec(
                # The stubs do not know that a shape is made from its proto.
                tf.TensorShape(info.tensor_shape),  # pyright: ignore[reportArgumentType]
                info.dtype,
                alias,
            )
            for alias, info in sorted(definition.inputs.items())
        }
        self.outputs = sorted(definition.outputs)
        self._defaults = {
            alias: tensors.parse(proto) for alias, proto in definition.defaults.items()
        }

    def check_names(self, names: Collection[str]) -> None:
        """Raise `InvalidRequestError` unless these are the names of the inputs."""
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

    def parse(self, protos: Mapping[str, object]) -> dict[str, np.ndarray]:
        """Parse the inputs of a request.

        What they claim to be is compared with the signature first: a message of few
        bytes can ask for any amount of memory.

        Args:
            protos: Input name to `TensorProto`.

        Returns:
            Input name to array.

        Raises:
            InvalidRequestError: Inputs unlike the signature, or a malformed proto; the
                message names its input.
        """
        self.check_names(protos)
        arrays = {}
        for position, (alias, spec) in enumerate(self.inputs.items()):
            if alias not in protos:
                continue
            try:
                dtype, shape = tensors.described(protos[alias])
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
        """Check the inputs, run the model, return its outputs.

        Everything is checked before TensorFlow sees it: a wrong rank may abort
        the whole process inside a kernel.

        Args:
            inputs: Input name to array, of the shapes and types of `self.inputs`.
            output_filter: Names of the outputs wanted; none of them means all.
            seconds: Longest that the model may run; None for as long as it takes.

        Returns:
            Output name to array.

        Raises:
            InvalidRequestError: A name, type, shape or output name that the signature
                does not have, or an empty batch.
            ExecutionError: The model raised an error.
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
        """`run` without its checks of the inputs, for those that `parse` returned."""
        outputs = self._select(output_filter)
        assert self.function is not None
        try:
            return self.function({**self._defaults, **inputs}, outputs, seconds)
        except tf.errors.OpError as error:
            raise ExecutionError(_TRACE.sub("", error.message)) from error
        except UnicodeDecodeError:
            # Instead of its error, where that quotes bytes that are no text.
            raise InvalidRequestError(
                "Expected values that the model can read. Received: others, and an "
                "error of TensorFlow's that is no text; send other values."
            ) from None

    def _check_limits(self, alias: str, array: np.ndarray) -> None:
        if array.size > self._limits.elements:
            raise InvalidRequestError(
                f"Expected at most {self._limits.elements} elements in input "
                f'"{alias}". Received: {array.size}; send them in several requests.'
            )
        if array.dtype == object:
            longest = max(map(len, array.ravel()), default=0)
            if longest > self._limits.string_bytes:
                raise InvalidRequestError(
                    f"Expected strings of at most {self._limits.string_bytes} bytes in "
                    f'input "{alias}". Received: one of {longest} bytes; send less.'
                )

    def _select(self, output_filter: Iterable[str]) -> list[str]:
        chosen = []
        for alias in output_filter:
            if alias not in self.outputs:
                raise InvalidRequestError(
                    f"output tensor alias not found in signature: {alias} Outputs "
                    f"expected to be in the set {_braced(self.outputs)}."
                )
            if alias in chosen:
                raise InvalidRequestError(f"duplicate output tensor alias: {alias}")
            chosen.append(alias)
        return chosen or self.outputs


def _check_type(position: int, spec: tf.TensorSpec, provided: str) -> None:
    expected = tensors.type_name(spec.dtype.as_datatype_enum)
    if provided != expected:
        raise InvalidRequestError(
            f"Expects arg[{position}] to be {expected} but {provided} is provided"
        )


def _check_shape(spec: tf.TensorSpec, shape: tuple[int, ...]) -> None:
    expected = f'Expected input "{spec.name}" of shape {spec.shape}'
    if not spec.shape.is_compatible_with(shape):
        mend = (
            "a single example needs a leading batch axis of 1"
            if spec.shape[1:].is_compatible_with(shape)
            else "reshape it, None standing for any size"
        )
        raise InvalidRequestError(f"{expected}. Received: shape {shape}; {mend}.")
    batched = spec.shape.rank is None or (spec.shape.rank and spec.shape[0] is None)
    if batched and shape and shape[0] == 0:
        raise InvalidRequestError(
            f"{expected} with at least one example. Received: shape {shape}, an "
            "empty batch; send no request for no examples."
        )


def _type_name_of(array: np.ndarray) -> str:
    try:
        return tensors.type_name(tf.as_dtype(array.dtype).as_datatype_enum)
    except TypeError:
        return str(array.dtype)


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
