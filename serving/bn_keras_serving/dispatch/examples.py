"""Parsing and checks for requests that send `tf.train.Example` messages."""

from collections.abc import Mapping

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    regression_pb2,
)

from bn_keras_serving.common.errors import InvalidRequestError, UnsupportedError
from bn_keras_serving.common.messages import DEFAULT_SIGNATURE
from bn_keras_serving.servable.servable import Servable
from bn_keras_serving.servable.signature import Signature

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def serialized_examples(request_input: input_pb2.Input) -> np.ndarray:
    """Return the examples of a request, each merged with the shared context.

    Returns:
        An object array of serialized examples, of shape `(examples,)`.

    Raises:
        InvalidRequestError: If there are no examples.
    """
    kind = request_input.WhichOneof("kind")
    examples = [] if kind is None else list(getattr(request_input, kind).examples)
    if not examples:
        raise InvalidRequestError("Input is empty.")
    # Concatenating two serialized messages merges them.
    context = (
        request_input.example_list_with_context.context.SerializeToString()
        if kind == "example_list_with_context"
        else b""
    )
    serialized = [context + example.SerializeToString() for example in examples]
    return np.array(serialized, np.object_)


def classification_outputs(signature: Signature) -> list[str]:
    """Return which of `classes` and `scores` a signature computes.

    Raises:
        InvalidRequestError: If it is not a classification signature.
    """
    if len(signature.inputs) != 1:
        raise InvalidRequestError("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise InvalidRequestError(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if "inputs" not in signature.inputs:
        raise InvalidRequestError(
            f"No classification inputs found in SignatureDef: {_describe(signature)}"
        )
    outputs = [name for name in ("classes", "scores") if name in signature.outputs]
    if not outputs:
        raise InvalidRequestError(
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {_describe(signature)}'
        )
    return outputs


def check_regression(signature: Signature) -> None:
    """Check that a signature computes `outputs` from `inputs`.

    Raises:
        InvalidRequestError: If it is not a regression signature.
    """
    if len(signature.inputs) != 1:
        raise InvalidRequestError("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise InvalidRequestError("Expected one output Tensor.")
    for kind, names in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if kind not in names:
            raise InvalidRequestError(
                f"No regression {kind} found in SignatureDef: {_describe(signature)}"
            )


def task_signature(
    servable: Servable,
    task: inference_pb2.InferenceTask,
    previous: list[inference_pb2.InferenceTask],
) -> Signature:
    """Return the signature of one task of a MultiInference request.

    Args:
        servable: The loaded version.
        task: The task.
        previous: The tasks before it in the request.

    Raises:
        InvalidRequestError: If the task is for another model than the previous ones,
            repeats a signature, or does not fit its signature.
        UnsupportedError: If the method is neither classify nor regress.
    """
    if not task.model_spec.name:
        raise InvalidRequestError("Found ModelSpec with an empty model name.")
    if previous and previous[0].model_spec.name != task.model_spec.name:
        raise InvalidRequestError(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if name in {
        other.model_spec.signature_name or DEFAULT_SIGNATURE for other in previous
    }:
        raise InvalidRequestError(f"Duplicate evaluation of signature: {name}")
    if name not in servable.signatures:
        raise InvalidRequestError(
            f"Requested signature not found in model graph: {name}"
        )
    signature = servable.signatures[name]
    if task.method_name == CLASSIFY:
        classification_outputs(signature)
    elif task.method_name == REGRESS:
        check_regression(signature)
    else:
        raise UnsupportedError(f"Unsupported signature method_name: {task.method_name}")
    return signature


def write_classifications(
    outputs: Mapping[str, np.ndarray],
    examples: int,
    result: classification_pb2.ClassificationResult,
) -> None:
    """Write labels and scores into a response, one classification per example.

    Args:
        outputs: `classes` of strings and `scores` of float32, or one of them, each of
            shape `(examples, classes)`.
        examples: Number of examples in the request.
        result: Message to write to.

    Raises:
        InvalidRequestError: If the outputs have other types or shapes.
    """
    for name, dtype in (("classes", np.object_), ("scores", np.float32)):
        if name in outputs:
            _check_table(name, outputs[name], dtype, examples)
    widths = {name: array.shape[1] for name, array in outputs.items()}
    if len(set(widths.values())) > 1:
        raise InvalidRequestError(
            "Tensors class and score should match in dim_size(1). Got "
            f"{widths['classes']} vs. {widths['scores']}"
        )
    (width,) = set(widths.values())
    for row in range(examples):
        classification = result.classifications.add()
        for column in range(width):
            entry = classification.classes.add()
            if "classes" in outputs:
                # The field is text, but a model can output any bytes.
                entry.label = outputs["classes"][row, column].decode(errors="replace")
            if "scores" in outputs:
                entry.score = outputs["scores"][row, column]


def write_regressions(
    values: np.ndarray, examples: int, result: regression_pb2.RegressionResult
) -> None:
    """Write values into a response, one per example.

    Args:
        values: float32, of shape `(examples,)` or `(examples, 1)`.
        examples: Number of examples in the request.
        result: Message to write to.

    Raises:
        InvalidRequestError: If the values have another type or shape.
    """
    shape = values.shape
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise InvalidRequestError(
            "Expected output Tensor shape to be either [batch_size] or "
            f"[batch_size, 1] but got {_format_shape(values)}"
        )
    if shape[0] != examples:
        raise InvalidRequestError(
            "Input batch size did not match output batch size: "
            f"{examples} vs. {shape[0]}"
        )
    if values.dtype != np.float32:
        raise InvalidRequestError(
            f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype}"
        )
    for value in values.ravel():
        result.regressions.add(value=value)


def _check_table(name: str, array: np.ndarray, dtype: type, rows: int) -> None:
    if array.ndim != 2:
        raise InvalidRequestError(
            "Expected Tensor shape: [batch_size num_classes] but got "
            f"{_format_shape(array)}"
        )
    if array.dtype != dtype:
        expected = "DT_STRING" if dtype is np.object_ else "DT_FLOAT"
        raise InvalidRequestError(
            f"Expected {name} Tensor of {expected}. Got: {array.dtype}"
        )
    if len(array) != rows:
        raise InvalidRequestError(
            f"Expected {name} output batch size of {rows}. Got: {len(array)}"
        )


def _format_shape(array: np.ndarray) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _describe(signature: Signature) -> str:
    return f"inputs {sorted(signature.inputs)}, outputs {signature.outputs}"
