"""Answer requests for inference from one loaded version.

Knows no other version, no transport and no status code.
"""

from collections.abc import Callable

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    input_pb2,
    predict_pb2,
    regression_pb2,
)

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import InvalidRequestError, UnsupportedError
from bn_keras_serving.servable.servable import Servable
from bn_keras_serving.servable.signature import DEFAULT_SIGNATURE, Signature

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

Check = Callable[[], float | None]
Run = Callable[..., dict[str, np.ndarray]]


class Answering:
    """Answers to requests, from the version that it is handed with each.

    Args:
        tensor_content: Whether Predict's tensors travel as bytes rather than in the
            field of their type. Strings stay in `string_val`, where every client reads
            them.
        run: Called as `run(compute, inputs, output_filter)` where a model is to be
            run; `compute` takes the other two, and the seconds that are left.
        check: Called before a model runs. Returns the seconds left for it, None for
            any number; raises where nobody awaits the answer.
    """

    def __init__(
        self,
        tensor_content: bool = False,
        run: Run = lambda compute, *arguments: compute(*arguments),
        check: Check = lambda: None,
    ):
        self._encode = tensors.to_content if tensor_content else tensors.to_typed_fields
        self._run = run
        self._check = check

    def predict(self, servable: Servable, request) -> predict_pb2.PredictResponse:
        """Run one signature on named tensors.

        Raises:
            SignatureNotFoundError: No such signature.
            InvalidRequestError: Inputs or outputs that it does not have.
            ExecutionError: The model failed.
        """
        spec = request.model_spec
        signature = servable.signature(spec.signature_name)
        inputs = signature.parse(request.inputs)
        outputs = self._computed(signature.compute, inputs, request.output_filter)
        response = predict_pb2.PredictResponse(
            outputs={name: self._encode(array) for name, array in outputs.items()}
        )
        _name(response, servable, spec)
        return response

    def classify(
        self, servable: Servable, request
    ) -> classification_pb2.ClassificationResponse:
        """Run a signature on serialized examples: `inputs` to `classes`, `scores`.

        Raises:
            InvalidRequestError: No such signature, one of another form, or no example.
            ExecutionError: The model failed.
        """
        response = classification_pb2.ClassificationResponse()
        signature = _of_examples(servable, request.model_spec)
        _name(response, servable, request.model_spec)
        self._classified(signature, _examples(request.input), response.result)
        return response

    def regress(self, servable: Servable, request) -> regression_pb2.RegressionResponse:
        """Run a signature on serialized examples: `inputs` to `outputs`.

        Raises:
            InvalidRequestError: No such signature, one of another form, or no example.
            ExecutionError: The model failed.
        """
        response = regression_pb2.RegressionResponse()
        signature = _of_examples(servable, request.model_spec)
        _name(response, servable, request.model_spec)
        self._regressed(signature, _examples(request.input), response.result)
        return response

    def multi_inference(
        self, servable: Servable, request
    ) -> inference_pb2.MultiInferenceResponse:
        """Classify and regress the same examples by several signatures.

        The model runs once for each task; TensorFlow Serving runs it once for all.

        Raises:
            InvalidRequestError: Several models, a signature twice, or what `classify`
                and `regress` refuse.
            UnsupportedError: A task that is neither.
            ExecutionError: The model failed.
        """
        signatures = [
            _signature_of_task(servable, task, request.tasks[:number])
            for number, task in enumerate(request.tasks)
        ]
        examples = _examples(request.input)
        response = inference_pb2.MultiInferenceResponse()
        for task, signature in zip(request.tasks, signatures, strict=True):
            result = response.results.add()
            _name(result, servable, task.model_spec)
            if task.method_name == CLASSIFY:
                self._classified(signature, examples, result.classification_result)
            else:
                self._regressed(signature, examples, result.regression_result)
        return response

    def metadata(
        self, servable: Servable, request
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tell the signatures.

        Raises:
            InvalidRequestError: Another field than `signature_def` is asked for.
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

    def _computed(self, compute, inputs, output_filter=()):
        seconds = self._check()
        return self._run(compute, inputs, output_filter, seconds)

    def _classified(self, signature: Signature, examples: np.ndarray, result) -> None:
        wanted = _classification_outputs(signature)
        outputs = self._computed(signature.run, {"inputs": examples}, wanted)
        for name, dtype in (("classes", np.object_), ("scores", np.float32)):
            if name in outputs:
                _check_table(name, outputs[name], dtype, len(examples))
        widths = {name: array.shape[1] for name, array in outputs.items()}
        if len(set(widths.values())) > 1:
            raise InvalidRequestError(
                "Tensors class and score should match in dim_size(1). Got "
                f"{widths['classes']} vs. {widths['scores']}"
            )
        (width,) = set(widths.values())
        for row in range(len(examples)):
            classifications = result.classifications.add()
            for column in range(width):
                one = classifications.classes.add()
                if "classes" in outputs:
                    # Labels are text; a model may answer any bytes.
                    one.label = outputs["classes"][row, column].decode(errors="replace")
                if "scores" in outputs:
                    one.score = outputs["scores"][row, column]

    def _regressed(self, signature: Signature, examples: np.ndarray, result) -> None:
        _check_regression(signature)
        values = self._computed(signature.run, {"inputs": examples})["outputs"]
        shape = values.shape
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            raise InvalidRequestError(
                "Expected output Tensor shape to be either [batch_size] or "
                f"[batch_size, 1] but got {_shape(values)}"
            )
        if shape[0] != len(examples):
            raise InvalidRequestError(
                "Input batch size did not match output batch size: "
                f"{len(examples)} vs. {shape[0]}"
            )
        if values.dtype != np.float32:
            raise InvalidRequestError(
                f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype}"
            )
        for value in values.ravel():
            result.regressions.add(value=value)


def _name(response, servable: Servable, spec) -> None:
    """Write who answers into a response."""
    response.model_spec.name = spec.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE


def _of_examples(servable: Servable, spec) -> Signature:
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise InvalidRequestError(f"No signature was found with the name: {name}")
    return servable.signatures[name]


def _signature_of_task(servable: Servable, task, before) -> Signature:
    if not task.model_spec.name:
        raise InvalidRequestError("Found ModelSpec with an empty model name.")
    if before and before[0].model_spec.name != task.model_spec.name:
        raise InvalidRequestError(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if name in {one.model_spec.signature_name or DEFAULT_SIGNATURE for one in before}:
        raise InvalidRequestError(f"Duplicate evaluation of signature: {name}")
    if name not in servable.signatures:
        raise InvalidRequestError(
            f"Requested signature not found in model graph: {name}"
        )
    signature = servable.signatures[name]
    if task.method_name == CLASSIFY:
        _classification_outputs(signature)
    elif task.method_name == REGRESS:
        _check_regression(signature)
    else:
        raise UnsupportedError(f"Unsupported signature method_name: {task.method_name}")
    return signature


def _examples(given: input_pb2.Input) -> np.ndarray:
    """The examples of a request, each serialized with what all of them share."""
    kind = given.WhichOneof("kind")
    examples = [] if kind is None else list(getattr(given, kind).examples)
    if not examples:
        raise InvalidRequestError("Input is empty.")
    # A message joined to a message is the merge of both.
    shared = (
        given.example_list_with_context.context.SerializeToString()
        if kind == "example_list_with_context"
        else b""
    )
    serialized = [shared + example.SerializeToString() for example in examples]
    return np.array(serialized, np.object_)


def _classification_outputs(signature: Signature) -> list[str]:
    if len(signature.inputs) != 1:
        raise InvalidRequestError("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise InvalidRequestError(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if "inputs" not in signature.inputs:
        raise InvalidRequestError(
            f"No classification inputs found in SignatureDef: {_form(signature)}"
        )
    wanted = [name for name in ("classes", "scores") if name in signature.outputs]
    if not wanted:
        raise InvalidRequestError(
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {_form(signature)}'
        )
    return wanted


def _check_regression(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        raise InvalidRequestError("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise InvalidRequestError("Expected one output Tensor.")
    for kind, names in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if kind not in names:
            raise InvalidRequestError(
                f"No regression {kind} found in SignatureDef: {_form(signature)}"
            )


def _check_table(name: str, array: np.ndarray, dtype, rows: int) -> None:
    if array.ndim != 2:
        raise InvalidRequestError(
            f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
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


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _form(signature: Signature) -> str:
    return f"inputs {sorted(signature.inputs)}, outputs {signature.outputs}"
