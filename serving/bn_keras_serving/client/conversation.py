"""What is asked of a model, in which order, and what the answers mean.

Knows messages and what was learnt of the model; not who carries a call, and who waits.
"""

from collections.abc import Generator, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from bn_keras_serving.client import examples, inputs
from bn_keras_serving.common import tensors
from bn_keras_serving.servable.signature import DEFAULT_SIGNATURE

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class VersionState(NamedTuple):
    """State of one version: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error: str


class Classes(NamedTuple):
    """Answer of `classify`: `labels` of str and `scores`, `(examples, classes)` each.

    A signature without labels answers empty ones, one without scores zeros.
    """

    labels: np.ndarray
    scores: np.ndarray


class Call(NamedTuple):
    """One call to make: the method's name and its message."""

    method: str
    request: Any


Steps = Generator[Call, Any, Any]


class Conversation:
    """What is asked of one model, and what was learnt of it.

    Each method is a generator: it yields a `Call`, gets its response or its
    `grpc.RpcError`, and returns the answer. What the model's signatures were is kept
    and checked against; neither side's refusal counts before it was asked again.

    Args:
        model_name: Name of the model.
        check: Whether inputs are fitted to the signature before they are sent.
    """

    def __init__(self, model_name: str, check: bool = True):
        self.check = check
        self._model_name = model_name
        self._known: dict[bytes, dict[str, Any]] = {}

    def predict(
        self,
        inputs: Any,
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        version_label: str | None = None,
        mend: str = "choose another signature_name",
    ) -> Steps:
        """Predict; returns output name to array."""
        spec = self._spec(version, version_label, signature_name)
        output_filter = list(output_filter)

        def build(signatures):
            arrays = inputs
            if signatures is not None:
                name = signature_name or DEFAULT_SIGNATURE
                definition = inputs.chosen(signatures, name, "", mend)
                arrays = inputs.named(inputs, definition)
                if self.check:
                    arrays = inputs.fitted(arrays, definition)
                    inputs.check_outputs(output_filter, definition)
            if not self.check:
                arrays = {name: inputs.unchecked(one) for name, one in arrays.items()}
            return predict_pb2.PredictRequest(
                model_spec=spec,
                inputs={
                    name: tf.make_tensor_proto(one) for name, one in arrays.items()
                },
                output_filter=output_filter,
            )

        look_up = self.check or not isinstance(inputs, Mapping)
        response = yield from self._ask("Predict", build, spec, look_up)
        return {
            name: tensors.from_response(proto)
            for name, proto in response.outputs.items()
        }

    def predict_images(
        self,
        images: Any,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        version_label: str | None = None,
    ) -> Steps:
        """Predict for image files or uint8 arrays."""
        name, inputs = examples.pictures(images)
        mend = (
            "export a model of images with bn_keras.export_saved_model, or send its "
            "inputs with predict"
        )
        return self.predict(inputs, name, version, output_filter, version_label, mend)

    def classify(self, examples, signature_name, version, version_label) -> Steps:
        """Classify examples; returns `Classes`."""
        response = yield from self._ask_of_examples(
            "Classify", examples, signature_name, version, version_label
        )
        rows = [one.classes for one in response.result.classifications]
        return Classes(
            np.array([[one.label for one in row] for row in rows], np.str_),
            np.array([[one.score for one in row] for row in rows], np.float32),
        )

    def regress(self, examples, signature_name, version, version_label) -> Steps:
        """Regress examples; returns a value for each."""
        response = yield from self._ask_of_examples(
            "Regress", examples, signature_name, version, version_label
        )
        return np.array([one.value for one in response.result.regressions], np.float32)

    def look_up(self, version: int | None, version_label: str | None) -> Steps:
        """Learn the signatures, where they are needed and not known yet."""
        spec = self._spec(version, version_label)
        if self.check and self._key(spec) not in self._known:
            yield from self._learn(spec)

    def metadata(self, version: int | None, version_label: str | None) -> Steps:
        """Ask for the signatures anew; returns their inputs and outputs."""
        signatures = yield from self._learn(self._spec(version, version_label))
        return {
            name: {
                "inputs": inputs.described(definition.inputs),
                "outputs": inputs.described(definition.outputs),
            }
            for name, definition in sorted(signatures.items())
        }

    def status(self, version: int | None) -> Steps:
        """Ask for the versions' states."""
        request = get_model_status_pb2.GetModelStatusRequest(
            model_spec=self._spec(version, None)
        )
        response = yield Call("GetModelStatus", request)
        names = get_model_status_pb2.ModelVersionStatus.State.Name
        return [
            VersionState(one.version, names(one.state), one.status.error_message)
            for one in response.model_version_status
        ]

    def _ask_of_examples(
        self, method, examples, signature_name, version, version_label
    ) -> Steps:
        spec = self._spec(version, version_label, signature_name)
        messages = classification_pb2 if method == "Classify" else regression_pb2
        kind = "ClassificationRequest" if method == "Classify" else "RegressionRequest"
        request = getattr(messages, kind)(
            model_spec=spec,
            input=input_pb2.Input(
                example_list=input_pb2.ExampleList(examples=examples.examples(examples))
            ),
        )

        def build(signatures):
            if signatures is not None:
                inputs.chosen(
                    signatures,
                    signature_name or DEFAULT_SIGNATURE,
                    f"tensorflow/serving/{method.lower()}",
                    "choose another signature_name",
                )
            return request

        return (yield from self._ask(method, build, spec, self.check))

    def _ask(self, method, build, spec, look_up) -> Steps:
        """Build a request by the signatures as they are known, and make the call.

        The model may have been swapped for one of other signatures since.
        """
        if not look_up:
            return (yield Call(method, build(None)))
        known = self._known.get(self._key(spec))
        signatures = known or (yield from self._learn(spec))
        request = None
        try:
            request = build(signatures)
        except ValueError:
            if known is None:
                raise
        if request is None:
            signatures = yield from self._learn(spec)
            request = build(signatures)
        try:
            return (yield Call(method, request))
        except grpc.RpcError as error:
            if error.code() not in _REFUSALS:
                raise
            try:
                now = yield from self._learn(spec)
            except grpc.RpcError:
                raise error from None
            if now == signatures:
                raise
        return (yield Call(method, build(now)))

    def _learn(self, spec) -> Generator[Call, Any, dict[str, Any]]:
        key = self._key(spec)
        self._known.pop(key, None)
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        request.model_spec.ParseFromString(key)
        response = yield Call("GetModelMetadata", request)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        self._known[key] = {
            name: definition
            for name, definition in found.signature_def.items()
            # TensorFlow's own, such as __saved_model_init_op.
            if not name.startswith("__saved_model")
        }
        return self._known[key]

    def _key(self, spec) -> bytes:
        """The version asked; one answer tells all of its signatures."""
        key = model_pb2.ModelSpec()
        key.CopyFrom(spec)
        key.ClearField("signature_name")
        return key.SerializeToString(deterministic=True)

    def _spec(self, version, version_label, signature_name=None):
        if version is not None and version_label is not None:
            raise ValueError(
                "`version` and `version_label` must not be given together. Received: "
                f"version={version}, version_label={version_label!r}; choose one"
            )
        spec = model_pb2.ModelSpec(
            name=self._model_name, signature_name=signature_name or ""
        )
        if version is not None:
            spec.version.value = version
        if version_label is not None:
            spec.version_label = version_label
        return spec
