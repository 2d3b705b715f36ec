"""The calls that answer a question about a model, and what their responses mean."""

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np

from bn_keras_serving.client import tensors
from bn_keras_serving.client.examples import (
    ExampleLike,
    to_examples,
    to_image_inputs,
)
from bn_keras_serving.client.inputs import (
    as_array,
    check_output_filter,
    describe,
    find_signature,
    fit_inputs,
    name_inputs,
)
from bn_keras_serving.common import messages
from bn_keras_serving.common.messages import DEFAULT_SIGNATURE

# Refusals that a signature unlike the one the client knows would explain.
_SIGNATURE_ERRORS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class VersionState(NamedTuple):
    """State of a version of a model.

    Attributes:
        version: Number of the version.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        error: Why the version cannot be served; empty if it can.
    """

    version: int
    state: str
    error: str


class Classes(NamedTuple):
    """Answer of `classify`.

    Attributes:
        labels: Strings, `(examples, classes)`; empty if the signature has no labels.
        scores: float32, `(examples, classes)`; zeros if the signature has no scores.
    """

    labels: np.ndarray
    scores: np.ndarray


class RemoteCall(NamedTuple):
    """A remote call to make: the method's name and its request."""

    method: str
    request: Any


Answer = dict[str, np.ndarray]
Steps = Generator[RemoteCall, Any, Any]


class Conversation:
    """The calls that answer questions about one model.

    Each method is a generator, so that the synchronous and the asyncio client can share
    it: it yields a `RemoteCall`, is sent the response or thrown the `grpc.RpcError`,
    and returns the answer.

    The model's signatures are looked up once and kept. Since a model may be replaced
    by one of other signatures at any time, neither a mismatch found here nor a refusal
    of the server is final before the signatures have been looked up again.

    Args:
        model_name: Name of the model.
        check: Whether to compare names and types of inputs with the signature before
            they are sent.
        check_shapes: Whether to compare their shapes, too.
    """

    def __init__(self, model_name: str, check: bool = True, check_shapes: bool = False):
        self.check = check
        self._check_shapes = check_shapes
        self._model_name = model_name
        # Signatures of each version asked for; see `_version_key`.
        self._signatures: dict[bytes, dict[str, Any]] = {}

    def predict(
        self,
        inputs: Any,
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        version_label: str | None = None,
        hint: str = "Pass another signature_name.",
        check_shapes: bool | None = None,
    ) -> Steps:
        """Predict; returns output name to array."""
        if check_shapes is None:
            check_shapes = self._check_shapes
        spec = self._spec(version, version_label, signature_name)
        output_filter = list(output_filter)

        def build(signatures: dict[str, Any] | None) -> Any:
            arrays = inputs
            if signatures is not None:
                name = signature_name or DEFAULT_SIGNATURE
                definition = find_signature(signatures, name, "", hint)
                arrays = name_inputs(inputs, definition)
                if self.check:
                    arrays = fit_inputs(arrays, definition, check_shapes)
                    check_output_filter(output_filter, definition)
            if not self.check:
                arrays = {name: as_array(value) for name, value in arrays.items()}
            return messages.PredictRequest(
                model_spec=spec,
                inputs={name: tensors.encode(array) for name, array in arrays.items()},
                output_filter=output_filter,
            )

        look_up = self.check or not isinstance(inputs, Mapping)
        response = yield from self._ask("Predict", build, spec, look_up)
        return {name: tensors.decode(proto) for name, proto in response.outputs.items()}

    def predict_images(
        self,
        images: Any,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        version_label: str | None = None,
    ) -> Steps:
        """Predict for image files or uint8 arrays; files are read at once."""
        name, inputs = to_image_inputs(images)
        hint = (
            "Export a model of images with bn_keras.export_saved_model, or send its "
            "inputs with `predict`."
        )
        return self.predict(
            inputs,
            name,
            version,
            output_filter,
            version_label,
            hint,
            check_shapes=True,  # such a signature takes images of one size
        )

    def classify(
        self,
        examples: Iterable[ExampleLike],
        signature_name: str | None,
        version: int | None,
        version_label: str | None,
    ) -> Steps:
        """Classify examples; returns `Classes`."""
        response = yield from self._ask_about_examples(
            "Classify", examples, signature_name, version, version_label
        )
        rows = [row.classes for row in response.result.classifications]
        return Classes(
            np.array([[entry.label for entry in row] for row in rows], np.str_),
            np.array([[entry.score for entry in row] for row in rows], np.float32),
        )

    def regress(
        self,
        examples: Iterable[ExampleLike],
        signature_name: str | None,
        version: int | None,
        version_label: str | None,
    ) -> Steps:
        """Regress examples; returns a value for each."""
        response = yield from self._ask_about_examples(
            "Regress", examples, signature_name, version, version_label
        )
        return np.array([row.value for row in response.result.regressions], np.float32)

    def look_up(self, version: int | None, version_label: str | None) -> Steps:
        """Look up the signatures if they are needed and not known yet."""
        spec = self._spec(version, version_label)
        if self.check and _version_key(spec) not in self._signatures:
            yield from self._fetch_signatures(spec)

    def metadata(self, version: int | None, version_label: str | None) -> Steps:
        """Look up the signatures again; returns their inputs and outputs."""
        signatures = yield from self._fetch_signatures(
            self._spec(version, version_label)
        )
        return {
            name: {
                "inputs": describe(definition.inputs),
                "outputs": describe(definition.outputs),
            }
            for name, definition in sorted(signatures.items())
        }

    def status(self, version: int | None) -> Steps:
        """Ask for the state of each version; returns a list of `VersionState`."""
        request = messages.GetModelStatusRequest(model_spec=self._spec(version, None))
        response = yield RemoteCall("GetModelStatus", request)
        return [
            VersionState(
                status.version,
                messages.VERSION_STATES[status.state],
                status.status.error_message,
            )
            for status in response.model_version_status
        ]

    def _ask_about_examples(
        self,
        method: str,
        examples: Iterable[ExampleLike],
        signature_name: str | None,
        version: int | None,
        version_label: str | None,
    ) -> Steps:
        request_class = {
            "Classify": messages.ClassificationRequest,
            "Regress": messages.RegressionRequest,
        }[method]
        spec = self._spec(version, version_label, signature_name)
        request = request_class(model_spec=spec)
        request.input.example_list.examples.extend(to_examples(examples))

        def build(signatures: dict[str, Any] | None) -> Any:
            if signatures is not None:
                find_signature(
                    signatures,
                    signature_name or DEFAULT_SIGNATURE,
                    f"tensorflow/serving/{method.lower()}",
                    "Pass another signature_name.",
                )
            return request

        return (yield from self._ask(method, build, spec, self.check))

    def _ask(
        self,
        method: str,
        build: Callable[[dict[str, Any] | None], Any],
        spec: Any,
        look_up: bool,
    ) -> Steps:
        """Build a request for the signatures as they are known, and make the call."""
        if not look_up:
            return (yield RemoteCall(method, build(None)))
        known = self._signatures.get(_version_key(spec))
        signatures = known or (yield from self._fetch_signatures(spec))
        request = None
        try:
            request = build(signatures)
        except ValueError:
            # Signatures fetched a moment ago are right, so the inputs are wrong.
            if known is None:
                raise
        if request is None:  # outside `except`, to keep its error out of the next one
            signatures = yield from self._fetch_signatures(spec)
            request = build(signatures)
        try:
            return (yield RemoteCall(method, request))
        except grpc.RpcError as error:
            if error.code() not in _SIGNATURE_ERRORS:
                raise
            try:
                new_signatures = yield from self._fetch_signatures(spec)
            except grpc.RpcError:
                raise error from None  # the refusal says more than a failed look-up
            if new_signatures == signatures:
                raise
        return (yield RemoteCall(method, build(new_signatures)))

    def _fetch_signatures(
        self, spec: Any
    ) -> Generator[RemoteCall, Any, dict[str, Any]]:
        """Ask for the signatures of a version, name to `SignatureDef`."""
        key = _version_key(spec)
        # A failed call must not leave the former signatures in place.
        self._signatures.pop(key, None)
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.ParseFromString(key)
        response = yield RemoteCall("GetModelMetadata", request)
        signatures = messages.SignatureDefMap.FromString(
            response.metadata["signature_def"].value
        )
        self._signatures[key] = {
            name: definition
            for name, definition in signatures.signature_def.items()
            # TensorFlow's own, such as __saved_model_init_op.
            if not name.startswith("__saved_model")
        }
        return self._signatures[key]

    def _spec(
        self,
        version: int | None,
        version_label: str | None,
        signature_name: str | None = None,
    ) -> Any:
        if version is not None and version_label is not None:
            raise ValueError(
                "`version` and `version_label` must not be given together. Received: "
                f"version={version}, version_label={version_label!r}. Pass one of them."
            )
        spec = messages.ModelSpec(
            name=self._model_name, signature_name=signature_name or ""
        )
        if version is not None:
            spec.version.value = version
        if version_label is not None:
            spec.version_label = version_label
        return spec


def _version_key(spec: Any) -> bytes:
    """Return a key for the version asked for, whatever the signature.

    One look-up returns all signatures of a version.
    """
    key = messages.ModelSpec()
    key.CopyFrom(spec)
    key.ClearField("signature_name")
    return key.SerializeToString(deterministic=True)
