"""The path of every request, from gRPC and REST alike, to its handler."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import model_pb2

from bn_keras_serving.common.errors import InvalidRequestError, PermissionDeniedError
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.configuration.settings import RequestLog
from bn_keras_serving.dispatch import handlers, model_management
from bn_keras_serving.dispatch.deadline import UNLIMITED, Deadline
from bn_keras_serving.dispatch.error_mapping import to_status_error
from bn_keras_serving.dispatch.request_log import RequestLogger
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.servable.servable import Servable


class Dispatcher:
    """Answers every request of the protocol.

    Args:
        models: The served models.
        metrics: Where run times are recorded.
        tensor_content: Whether Predict encodes output tensors as bytes instead of in
            the field for their type.
        allow_reload: Whether clients may replace the list of models.
        request_log: Which requests are logged, and where; None logs none.

    Attributes:
        models: The served models.
        metrics: Where run times are recorded.
        request_log: Writes the log of requests.
    """

    def __init__(
        self,
        models: ModelRegistry[Servable],
        metrics: Metrics,
        tensor_content: bool = False,
        allow_reload: bool = True,
        request_log: RequestLog | None = None,
    ):
        self.models = models
        self.metrics = metrics
        self._inference_handlers = {
            "Predict": functools.partial(
                handlers.predict, tensor_content=tensor_content
            ),
            "Classify": handlers.classify,
            "Regress": handlers.regress,
            "MultiInference": handlers.multi_inference,
        }
        self._allow_reload = allow_reload
        self.request_log = RequestLogger(request_log)

    def answer(self, api: str, request: Any, deadline: Deadline = UNLIMITED) -> Any:
        """Answer one request.

        Args:
            api: Name of the method: `Predict`, `Classify`, `Regress`,
                `MultiInference`, `GetModelMetadata`, `GetModelStatus` or
                `HandleReloadConfigRequest`.
            request: Protocol buffer of the request.
            deadline: Time left for the request.

        Returns:
            The protocol buffer of the response.

        Raises:
            StatusError: If the request cannot be answered, for whatever reason.
        """
        try:
            deadline.remaining()
            if api == "HandleReloadConfigRequest":
                if not self._allow_reload:
                    raise PermissionDeniedError(
                        "Clients must not replace the list of models. Start the server "
                        "with --allow_model_reload to permit it."
                    )
                return model_management.reload_config(self.models, request)
            if api == "MultiInference":
                return self._infer(api, request, _first_model_spec(request), deadline)
            if not request.HasField("model_spec"):
                raise InvalidRequestError("Missing ModelSpec")
            if api == "GetModelStatus":
                return model_management.get_model_status(self.models, request)
            if api == "GetModelMetadata":
                with self.models.use(request.model_spec) as servable:
                    return handlers.get_model_metadata(servable, request)
            return self._infer(api, request, request.model_spec, deadline)
        except Exception as error:
            raise to_status_error(error, self.models.base_paths()) from error

    def predict_arrays(
        self,
        spec: model_pb2.ModelSpec,
        inputs: Mapping[str, np.ndarray],
        deadline: Deadline = UNLIMITED,
    ) -> dict[str, np.ndarray]:
        """Answer a request for Predict that consists of arrays.

        Args:
            spec: Model, version and signature.
            inputs: Input name to array; strings as object arrays of bytes.
            deadline: Time left for the request.

        Returns:
            Output name to array, for all outputs.

        Raises:
            StatusError: If the request cannot be answered, for whatever reason.
        """
        try:
            deadline.remaining()
            record = functools.partial(
                self.metrics.record_runtime, spec.name, "Predict"
            )
            with self.models.use(spec) as servable:
                return handlers.predict_arrays(servable, spec, inputs, deadline, record)
        except Exception as error:
            raise to_status_error(error, self.models.base_paths()) from error

    def input_types(self, spec: model_pb2.ModelSpec) -> dict[str, dict[str, int]]:
        """Return the types of all inputs: signature name to input name to `DataType`.

        Raises:
            StatusError: If the model is not served.
        """
        try:
            with self.models.use(spec) as servable:
                return servable.input_types
        except Exception as error:
            raise to_status_error(error, self.models.base_paths()) from error

    def _infer(
        self, api: str, request: Any, spec: model_pb2.ModelSpec, deadline: Deadline
    ) -> Any:
        with self.models.use(spec) as servable:
            return self._inference_handlers[api](
                servable,
                request,
                deadline,
                functools.partial(self.metrics.record_runtime, spec.name, api),
            )


def _first_model_spec(request: Any) -> model_pb2.ModelSpec:
    """Return the model of a MultiInference request; its tasks must share one."""
    return request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
