"""TensorFlow Serving's two gRPC services, and what becomes of a refusal there.

Knows no model, no version on disk and no port.
"""

import threading
import time
from concurrent import futures

import grpc
from google.protobuf import message, message_factory
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from serving.errors import StatusError
from serving.inference import Inference, deadline_passed, too_many

# Of the descriptors: reflection finds only the files that were imported.
SERVICES = {
    service.full_name: service.methods
    for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
_MODELS_RUN = {"Predict", "Classify", "Regress", "MultiInference"}
_REFUSING = "refusals"


def add_services(server: grpc.Server, inference: Inference, places: int) -> None:
    """Answer every call of PredictionService and ModelService.

    Args:
        server: Not yet started. Its own threads answer what runs no model, so that a
            state is told whatever the models do.
        inference: Answers the calls.
        places: Requests for models under way or waiting; one more is refused.
    """
    lane = _Lane(places)
    for service, methods in SERVICES.items():
        # Without serializers: gRPC would keep each call whose message it cannot parse
        # for ever, and log a traceback.
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                _Call(inference, method, lane if method.name in _MODELS_RUN else None)
            )
            for method in methods
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )


class _Lane(futures.ThreadPoolExecutor):
    """A thread for each request for a model; those without a place share one.

    The thread waits for the message, which a slow client sends for as long as it likes,
    and for its turn; `Inference` bounds how many run. gRPC's own bound,
    `maximum_concurrent_rpcs`, would refuse the question for health as well, and a
    server that is busy would be taken for a dead one.
    """

    def __init__(self, places: int):
        super().__init__(places, thread_name_prefix="predictions")
        self._free = threading.BoundedSemaphore(places)
        self._refusing = futures.ThreadPoolExecutor(1, thread_name_prefix=_REFUSING)

    def submit(self, fn, /, *args, **kwargs):
        if not self._free.acquire(blocking=False):
            return self._refusing.submit(fn, *args, **kwargs)
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self._free.release())
        return future


class _Call:
    """One call of the protocol, as gRPC wants it: bytes to bytes."""

    def __init__(self, inference: Inference, method, lane: _Lane | None = None):
        self._inference = inference
        self._api = method.name
        self._request = message_factory.GetMessageClass(method.input_type)
        # gRPC runs a call in the pool that it names so.
        self.experimental_thread_pool = lane

    def __call__(self, received: bytes, context: grpc.ServicerContext) -> bytes:
        began = time.perf_counter()

        def check():
            remaining = context.time_remaining()
            if not context.is_active() or (remaining is not None and remaining <= 0):
                raise deadline_passed()
            return remaining

        name, refused, status = "", None, "OK"
        try:
            if threading.current_thread().name.startswith(_REFUSING):
                raise too_many()
            request = self._parsed(received)
            if self._api in ("Predict", "Classify", "Regress"):
                name = request.model_spec.name
            return self._inference.answer(self._api, request, check).SerializeToString()
        except StatusError as error:
            refused, status = error, error.code.name
        finally:
            # As in TensorFlow Serving, of these three alone.
            if self._api in ("Predict", "Classify", "Regress"):
                self._inference.metrics.record_request(
                    name,
                    self._api,
                    "GRPC",
                    status,
                    1e6 * (time.perf_counter() - began),
                )
        return context.abort(refused.code, refused.details)

    def _parsed(self, received: bytes):
        try:
            return self._request.FromString(received)
        except message.DecodeError:
            # As gRPC in C++ has it.
            raise StatusError(
                grpc.StatusCode.INTERNAL,
                f"Expected a {self._request.DESCRIPTOR.name}. Received: bytes that "
                "are none.",
            ) from None
