"""The one road of a request, whichever way it came: find the version, run.

Knows no transport: gRPC and REST both end here.
"""

import threading
import time
from collections.abc import Callable

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
)

from bn_keras_serving.common.errors import (
    InvalidRequestError,
    ServableNotFoundError,
)
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.dispatch.error_mapping import deadline_passed, public, refusal
from bn_keras_serving.dispatch.handlers import Answering, Check
from bn_keras_serving.models import Models


class Inference:
    """Answers every request of the protocol.

    Args:
        models: What is served.
        metrics: Where requests are counted.
        tensor_content: Whether Predict answers tensors as bytes rather than in the
            field of their type.
        running: Requests that may be at their models at a time; others wait for their
            turn as long as their deadlines allow.

    Attributes:
        models: As given.
        metrics: As given.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        tensor_content: bool = False,
        running: int = 8,
    ):
        self.models = models
        self.metrics = metrics
        self._tensor_content = tensor_content
        self._running = running
        self._turns = threading.BoundedSemaphore(running)

    def answer(
        self,
        api: str,
        request,
        check: Check = lambda: None,
    ):
        """Answer one request.

        Args:
            api: Name of the call: `Predict`, `Classify`, `Regress`, `MultiInference`,
                `GetModelMetadata`, `GetModelStatus` or `HandleReloadConfigRequest`.
            request: Its protocol buffer.
            check: Called before work is begun. Returns the seconds left for it, None
                for any number; raises `StatusError` where nobody awaits its answer.

        Returns:
            The protocol buffer of the answer.

        Raises:
            StatusError: Whatever went wrong, as the client is told.
        """
        try:
            check()
            if api == "GetModelStatus":
                return self._status(request)
            if api == "HandleReloadConfigRequest":
                return self._reload(request)
            return self._infer(api, request, check)
        except Exception as error:
            raise refusal(error) from error

    def drained(self, seconds: float) -> bool:
        """Wait until no model runs; tell whether that came in time."""
        end = time.monotonic() + seconds
        taken = 0
        while taken < self._running and self._turns.acquire(
            timeout=max(0.0, end - time.monotonic())
        ):
            taken += 1
        for _ in range(taken):
            self._turns.release()
        return taken == self._running

    def _infer(self, api: str, request, check: Check):
        if api == "MultiInference":
            spec = (
                request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
            )
        else:
            _check_model_spec(request)
            spec = request.model_spec

        def run(compute: Callable, *arguments):
            began = time.perf_counter()
            outputs = compute(*arguments)
            self.metrics.record_runtime(
                spec.name, api, 1e6 * (time.perf_counter() - began)
            )
            return outputs

        answering = Answering(self._tensor_content, run, check)
        methods = {
            "Predict": answering.predict,
            "Classify": answering.classify,
            "Regress": answering.regress,
            "MultiInference": answering.multi_inference,
        }
        if api == "GetModelMetadata":
            with self.models.use(spec) as servable:
                return answering.metadata(servable, request)
        if not self._turns.acquire(timeout=check()):
            raise deadline_passed()
        try:
            with self.models.use(spec) as servable:
                return methods[api](servable, request)
        finally:
            self._turns.release()

    def _status(self, request) -> get_model_status_pb2.GetModelStatusResponse:
        _check_model_spec(request)
        spec = request.model_spec
        found = self.models.statuses(spec.name)
        missing = f"any versions of model {spec.name}"
        if spec.HasField("version"):
            found = [one for one in found if one.version == spec.version.value]
            missing = f"version {spec.version.value} of model {spec.name}"
        if not found:
            raise ServableNotFoundError(f"Could not find {missing}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for one in found:
            answer = response.model_version_status.add(
                version=one.version, state=one.state.value
            )
            answer.status.SetInParent()  # OK is written too
            if one.error is not None:
                answer.status.error_code = grpc.StatusCode.UNKNOWN.value[0]
                answer.status.error_message = public(one.error)
        return response

    def _reload(self, request) -> model_management_pb2.ReloadConfigResponse:
        self.models.reload(request.config)
        # An empty status is OK.
        return model_management_pb2.ReloadConfigResponse(status={})


def _check_model_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise InvalidRequestError("Missing ModelSpec")
