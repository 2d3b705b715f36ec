"""The path of every request, from gRPC and REST alike, to its handler."""

import functools
import threading
import time
from typing import Any

from tensorflow_serving.apis import model_pb2

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.dispatch import handlers, model_management
from bn_keras_serving.dispatch.deadline import UNLIMITED, Deadline
from bn_keras_serving.dispatch.error_mapping import to_status_error
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.servable.servable import Servable


class Dispatcher:
    """Answers every request of the protocol.

    Args:
        models: The served models.
        metrics: Where run times are recorded.
        tensor_content: Whether Predict encodes output tensors as bytes instead of in
            the field for their type.
        parallel_runs: Number of requests whose models may run at a time. Other requests
            wait as long as their deadlines allow.

    Attributes:
        models: The served models.
        metrics: Where run times are recorded.
    """

    def __init__(
        self,
        models: ModelRegistry[Servable],
        metrics: Metrics,
        tensor_content: bool = False,
        parallel_runs: int = 8,
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
        self._parallel_runs = parallel_runs
        self._run_slots = threading.BoundedSemaphore(parallel_runs)

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
            raise to_status_error(error) from error

    def drain(self, seconds: float) -> bool:
        """Wait until no model runs; return whether that happened in time."""
        end = time.monotonic() + seconds
        taken = 0
        # Once this thread holds every slot, no request can be running a model.
        while taken < self._parallel_runs and self._run_slots.acquire(
            timeout=max(0.0, end - time.monotonic())
        ):
            taken += 1
        for _ in range(taken):
            self._run_slots.release()
        return taken == self._parallel_runs

    def _infer(
        self, api: str, request: Any, spec: model_pb2.ModelSpec, deadline: Deadline
    ) -> Any:
        # The slot is taken before the version is looked up: a waiting request must not
        # keep a version loaded, and gets the latest one when its turn comes. `acquire`
        # fails only once the deadline has passed, and then `remaining` raises.
        while not self._run_slots.acquire(timeout=deadline.remaining()):
            pass
        try:
            with self.models.use(spec) as servable:
                return self._inference_handlers[api](
                    servable,
                    request,
                    deadline,
                    functools.partial(self.metrics.record_runtime, spec.name, api),
                )
        finally:
            self._run_slots.release()


def _first_model_spec(request: Any) -> model_pb2.ModelSpec:
    """Return the model of a MultiInference request; its tasks must share one."""
    return request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
