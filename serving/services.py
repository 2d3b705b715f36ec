"""TensorFlow Serving's two gRPC services, and what becomes of a refusal there.

Knows no model, no version on disk and no port.
"""

import time
import types
from concurrent import futures

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.errors import StatusError
from serving.inference import Inference, deadline_passed


def add_services(
    server: grpc.Server, inference: Inference, workers: futures.ThreadPoolExecutor
) -> None:
    """Answer every call of PredictionService and ModelService.

    Args:
        server: Not yet started. Its own threads answer what runs no model, so that a
            state is told while all workers are busy.
        inference: Answers the calls.
        workers: Threads that run models.
    """
    predictions = types.SimpleNamespace(
        Predict=_Call(inference, "Predict", workers),
        Classify=_Call(inference, "Classify", workers),
        Regress=_Call(inference, "Regress", workers),
        MultiInference=_Call(inference, "MultiInference", workers),
        GetModelMetadata=_Call(inference, "GetModelMetadata"),
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        predictions, server
    )
    models = types.SimpleNamespace(
        GetModelStatus=_Call(inference, "GetModelStatus"),
        HandleReloadConfigRequest=_Call(inference, "HandleReloadConfigRequest"),
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)


class _Call:
    """One call of the protocol, as gRPC wants it."""

    def __init__(
        self,
        inference: Inference,
        api: str,
        workers: futures.ThreadPoolExecutor | None = None,
    ):
        self._inference = inference
        self._api = api
        # gRPC runs a call in the pool that it names so.
        self.experimental_thread_pool = workers

    def __call__(self, request, context: grpc.ServicerContext):
        began = time.perf_counter()

        def check():
            remaining = context.time_remaining()
            if not context.is_active() or (remaining is not None and remaining <= 0):
                raise deadline_passed()
            return remaining

        refused, status = None, "OK"
        try:
            return self._inference.answer(self._api, request, check)
        except StatusError as error:
            refused, status = error, error.code.name
        finally:
            # As in TensorFlow Serving, of these three alone.
            if self._api in ("Predict", "Classify", "Regress"):
                self._inference.metrics.record_request(
                    request.model_spec.name,
                    self._api,
                    "GRPC",
                    status,
                    1e6 * (time.perf_counter() - began),
                )
        return context.abort(refused.code, refused.details)
