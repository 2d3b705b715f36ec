"""TensorFlow Serving's two gRPC services, and what becomes of a refusal there.

Knows no model, no version on disk and no port.
"""

import threading
import time
from collections.abc import Iterator

import grpc
from google.protobuf import message, message_factory
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from bn_keras_serving.common.errors import StatusError
from bn_keras_serving.dispatch.dispatcher import Inference
from bn_keras_serving.dispatch.error_mapping import deadline_passed, refusal, too_many

# Of the descriptors: reflection finds only the files that were imported.
SERVICES = {
    service.full_name: service.methods
    for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
_COUNTED = {"Predict", "Classify", "Regress"}  # as in TensorFlow Serving
_MODELS_RUN = {*_COUNTED, "MultiInference"}
# gRPC tells a call without a deadline a time of centuries.
_NO_DEADLINE = 1e9


def add_services(server: grpc.Server, inference: Inference, places: int) -> None:
    """Answer every call of PredictionService and ModelService.

    Args:
        server: Not yet started; a thread of its own waits for each request, for its
            message and for its turn.
        inference: Answers the requests.
        places: Requests for models under way or waiting; one more is refused, and
            those for states are answered: with gRPC's own bound,
            `maximum_concurrent_rpcs`, a server that is busy would be taken for a dead
            one.
    """
    free = threading.BoundedSemaphore(places)
    for service, methods in SERVICES.items():
        # As streams of one message, so that the call comes before the message, which a
        # slow client sends for as long as it likes; and without serializers: gRPC would
        # keep each call whose message it cannot parse for ever, and log a traceback.
        handlers = {
            method.name: grpc.stream_unary_rpc_method_handler(
                _Call(inference, method, free if method.name in _MODELS_RUN else None)
            )
            for method in methods
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )


class _Call:
    """One call of the protocol, as gRPC wants it: bytes to bytes."""

    def __init__(
        self,
        inference: Inference,
        method,
        free: threading.BoundedSemaphore | None,
    ):
        self._inference = inference
        self._api = method.name
        self._request = message_factory.GetMessageClass(method.input_type)
        self._free = free

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext):
        if self._free is None:
            return self._answer(messages, context)
        if not self._free.acquire(blocking=False):
            refused = too_many()
            self._count("", refused, 0)
            return context.abort(refused.code, refused.details)
        try:
            return self._answer(messages, context)
        finally:
            self._free.release()

    def _answer(self, messages: Iterator[bytes], context: grpc.ServicerContext):
        def check():
            remaining = context.time_remaining()
            if not context.is_active() or (remaining is not None and remaining <= 0):
                raise deadline_passed()
            if remaining is None or remaining > _NO_DEADLINE:
                return None
            return remaining

        received = next(messages, b"")
        began = time.perf_counter()
        name, refused = "", None
        try:
            request = self._parsed(received)
            if self._api in _COUNTED:
                name = request.model_spec.name
            return self._inference.answer(self._api, request, check).SerializeToString()
        except Exception as error:
            refused = refusal(error)
        finally:
            self._count(name, refused, time.perf_counter() - began)
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

    def _count(self, name: str, refused: StatusError | None, seconds: float) -> None:
        if self._api in _COUNTED:
            status = "OK" if refused is None else refused.code.name
            self._inference.metrics.record_request(
                name, self._api, "GRPC", status, 1e6 * seconds
            )
