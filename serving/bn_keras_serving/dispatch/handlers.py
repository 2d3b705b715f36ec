"""The handlers of PredictionService: each answers a request from one loaded version."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.common.messages import DEFAULT_SIGNATURE
from bn_keras_serving.dispatch import examples
from bn_keras_serving.dispatch.deadline import UNLIMITED, Deadline
from bn_keras_serving.dispatch.examples import CLASSIFY
from bn_keras_serving.servable.servable import Servable
from bn_keras_serving.servable.signature import Signature

# Takes the microseconds that a model took to run.
RecordRuntime = Callable[[float], None]


def _discard(microseconds: float) -> None:
    pass


def predict(
    servable: Servable,
    request: predict_pb2.PredictRequest,
    deadline: Deadline = UNLIMITED,
    record_runtime: RecordRuntime = _discard,
    *,
    tensor_content: bool = False,
) -> predict_pb2.PredictResponse:
    """Run a signature on named tensors.

    Args:
        servable: The loaded version.
        request: The request.
        deadline: Time left for the request.
        record_runtime: Function to call with the run time in microseconds.
        tensor_content: Whether to encode output tensors as bytes instead of in the
            field for their type. Strings always use `string_val`, where every client
            finds them.

    Raises:
        SignatureNotFoundError: If the model does not have the signature.
        InvalidRequestError: If inputs or outputs do not match the signature.
        ExecutionError: If the model fails.
        DeadlineExceededError: If no time is left to run the model.
    """
    signature = servable.signature(request.model_spec.signature_name)
    inputs = signature.parse(request.inputs)
    # `parse` has checked the inputs, so `compute` is enough.
    outputs = _timed(
        signature.compute, inputs, request.output_filter, deadline, record_runtime
    )
    encode = tensors.to_content if tensor_content else tensors.to_typed_fields
    response = predict_pb2.PredictResponse()
    for name, array in outputs.items():
        # Written in place: a message that is assigned is copied.
        encode(array, response.outputs[name])
    _set_model_spec(response, servable, request.model_spec)
    return response


def predict_arrays(
    servable: Servable,
    spec: model_pb2.ModelSpec,
    inputs: Mapping[str, np.ndarray],
    deadline: Deadline = UNLIMITED,
    record_runtime: RecordRuntime = _discard,
) -> dict[str, np.ndarray]:
    """Run a signature on arrays, like `predict` without its messages.

    Args:
        servable: The loaded version.
        spec: Names the signature; `serving_default` if it names none. The version that
            answers is written to it, and the signature.
        inputs: Input name to array; strings as object arrays of bytes.
        deadline: Time left for the request.
        record_runtime: Function to call with the run time in microseconds.

    Returns:
        Output name to array, for all outputs.

    Raises:
        SignatureNotFoundError: If the model does not have the signature.
        InvalidRequestError: If the inputs do not match the signature.
        ExecutionError: If the model fails.
        DeadlineExceededError: If no time is left to run the model.
    """
    signature = servable.signature(spec.signature_name)
    _complete(spec, servable)
    return _timed(signature.run, inputs, (), deadline, record_runtime)


def classify(
    servable: Servable,
    request: classification_pb2.ClassificationRequest,
    deadline: Deadline = UNLIMITED,
    record_runtime: RecordRuntime = _discard,
) -> classification_pb2.ClassificationResponse:
    """Run a signature on serialized examples: `inputs` to `classes` and `scores`.

    The arguments are those of `predict`.

    Raises:
        InvalidRequestError: If the signature is missing or is not a classification
            signature, or the request has no examples.
        ExecutionError: If the model fails.
        DeadlineExceededError: If no time is left to run the model.
    """
    response = classification_pb2.ClassificationResponse()
    signature = _example_signature(servable, request.model_spec)
    _set_model_spec(response, servable, request.model_spec)
    serialized = examples.serialized_examples(request.input)
    _classify(signature, serialized, response.result, deadline, record_runtime)
    return response


def regress(
    servable: Servable,
    request: regression_pb2.RegressionRequest,
    deadline: Deadline = UNLIMITED,
    record_runtime: RecordRuntime = _discard,
) -> regression_pb2.RegressionResponse:
    """Run a signature on serialized examples: `inputs` to `outputs`.

    The arguments are those of `predict`.

    Raises:
        InvalidRequestError: If the signature is missing or is not a regression
            signature, or the request has no examples.
        ExecutionError: If the model fails.
        DeadlineExceededError: If no time is left to run the model.
    """
    response = regression_pb2.RegressionResponse()
    signature = _example_signature(servable, request.model_spec)
    _set_model_spec(response, servable, request.model_spec)
    serialized = examples.serialized_examples(request.input)
    _regress(signature, serialized, response.result, deadline, record_runtime)
    return response


def multi_inference(
    servable: Servable,
    request: inference_pb2.MultiInferenceRequest,
    deadline: Deadline = UNLIMITED,
    record_runtime: RecordRuntime = _discard,
) -> inference_pb2.MultiInferenceResponse:
    """Run several classification and regression signatures on the same examples.

    The model runs once per task; TensorFlow Serving runs it once for all of them. The
    arguments are those of `predict`.

    Raises:
        InvalidRequestError: If the tasks are for several models, a signature occurs
            twice, or `classify` or `regress` would raise this error.
        UnsupportedError: If a task is neither a classification nor a regression.
        ExecutionError: If the model fails.
        DeadlineExceededError: If no time is left to run the model.
    """
    # Check every task before the first one runs.
    signatures = [
        examples.task_signature(servable, task, request.tasks[:number])
        for number, task in enumerate(request.tasks)
    ]
    serialized = examples.serialized_examples(request.input)
    response = inference_pb2.MultiInferenceResponse()
    for task, signature in zip(request.tasks, signatures, strict=True):
        result = response.results.add()
        _set_model_spec(result, servable, task.model_spec)
        if task.method_name == CLASSIFY:
            target = result.classification_result
            _classify(signature, serialized, target, deadline, record_runtime)
        else:
            target = result.regression_result
            _regress(signature, serialized, target, deadline, record_runtime)
    return response


def get_model_metadata(
    servable: Servable, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Return the signatures of a version.

    Raises:
        InvalidRequestError: If the request is for anything but `signature_def`.
    """
    if not request.metadata_field:
        raise InvalidRequestError(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != "signature_def":
            raise InvalidRequestError(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = servable.version
    response.metadata["signature_def"].Pack(
        get_model_metadata_pb2.SignatureDefMap(
            signature_def=servable.signature_definitions
        )
    )
    return response


def _timed(
    run: Callable[..., dict[str, np.ndarray]],
    inputs: Mapping[str, np.ndarray],
    output_filter: Iterable[str],
    deadline: Deadline,
    record_runtime: RecordRuntime,
) -> dict[str, np.ndarray]:
    """Run a model within the deadline and record how long it took."""
    seconds = deadline.remaining()
    start = time.perf_counter()
    outputs = run(inputs, output_filter, seconds)
    record_runtime(1e6 * (time.perf_counter() - start))
    return outputs


def _classify(
    signature: Signature,
    serialized: np.ndarray,
    result: classification_pb2.ClassificationResult,
    deadline: Deadline,
    record_runtime: RecordRuntime,
) -> None:
    requested = examples.classification_outputs(signature)
    inputs = {"inputs": serialized}
    outputs = _timed(signature.run, inputs, requested, deadline, record_runtime)
    examples.write_classifications(outputs, len(serialized), result)


def _regress(
    signature: Signature,
    serialized: np.ndarray,
    result: regression_pb2.RegressionResult,
    deadline: Deadline,
    record_runtime: RecordRuntime,
) -> None:
    examples.check_regression(signature)
    inputs = {"inputs": serialized}
    outputs = _timed(signature.run, inputs, (), deadline, record_runtime)
    examples.write_regressions(outputs["outputs"], len(serialized), result)


def _set_model_spec(
    response: Any, servable: Servable, spec: model_pb2.ModelSpec
) -> None:
    """Write into a response which model, version and signature it comes from."""
    response.model_spec.name = spec.name
    response.model_spec.signature_name = spec.signature_name
    _complete(response.model_spec, servable)


def _complete(spec: model_pb2.ModelSpec, servable: Servable) -> None:
    spec.version.value = servable.version
    spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE


def _example_signature(servable: Servable, spec: model_pb2.ModelSpec) -> Signature:
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise InvalidRequestError(f"No signature was found with the name: {name}")
    return servable.signatures[name]
