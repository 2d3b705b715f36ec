"""TensorFlow Serving's two gRPC services, PredictionService and ModelService."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor, message, message_factory
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from bn_keras_serving.common.errors import ServerBusyError
from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import StatusError, to_status_error

# Full service name to methods. Taken from the descriptors, since reflection finds only
# files that have been imported.
SERVICES = {
    service.full_name: service.methods
    for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
_COUNTED_METHODS = {"Predict", "Classify", "Regress"}  # as in TensorFlow Serving
_INFERENCE_METHODS = {*_COUNTED_METHODS, "MultiInference"}
# For a call without a deadline, gRPC reports a remaining time of centuries.
_NO_DEADLINE_SECONDS = 1e9


def add_services(
    server: grpc.Server, dispatcher: Dispatcher, concurrent_requests: int
) -> None:
    """Answer every method of PredictionService and ModelService.

    Args:
        server: A server that has not been started. One of its threads waits for the
            message of each request, and until its model may run.
        dispatcher: Answers the requests.
        concurrent_requests: Maximum number of inference requests, running or waiting;
            further ones are rejected. Requests for metadata and state are always
            answered. gRPC's own limit, `maximum_concurrent_rpcs`, would reject those
            and health checks too, so that a busy server would seem to be dead.
    """
    places = threading.BoundedSemaphore(concurrent_requests)
    for service, methods in SERVICES.items():
        # The methods are registered as streams of one message, so that the handler
        # starts before the message has arrived: a slow client can take any time to
        # send it. They have no deserializers: gRPC would never release a call whose
        # message cannot be parsed, and would log a traceback.
        handlers = {
            method.name: grpc.stream_unary_rpc_method_handler(
                _RpcMethod(
                    dispatcher,
                    method,
                    places if method.name in _INFERENCE_METHODS else None,
                )
            )
            for method in methods
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )


class _RpcMethod:
    """A method of the protocol, from serialized request to serialized response."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        method: descriptor.MethodDescriptor,
        places: threading.BoundedSemaphore | None,
    ):
        self._dispatcher = dispatcher
        self._api = method.name
        self._request_class = message_factory.GetMessageClass(method.input_type)
        self._places = places

    def __call__(
        self, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        if self._places is None:
            return self._answer(messages, context)
        # Never wait for a place: each waiting call would hold a thread.
        if not self._places.acquire(blocking=False):
            error = to_status_error(ServerBusyError())
            self._count("", error, 0)
            return context.abort(error.code, error.details)
        try:
            return self._answer(messages, context)
        finally:
            self._places.release()

    def _answer(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        serialized = next(messages, b"")
        start = time.perf_counter()
        model_name, status_error = "", None
        try:
            request = self._parse(serialized)
            if self._api in _COUNTED_METHODS:
                model_name = request.model_spec.name
            deadline = _deadline(context)
            response = self._dispatcher.answer(self._api, request, deadline)
            return response.SerializeToString()
        except Exception as error:
            status_error = to_status_error(error)
        finally:
            self._count(model_name, status_error, time.perf_counter() - start)
        # `abort` raises; outside the `try`, so that it is not caught there.
        return context.abort(status_error.code, status_error.details)

    def _parse(self, serialized: bytes) -> Any:
        try:
            return self._request_class.FromString(serialized)
        except message.DecodeError:
            # gRPC in C++ uses this code too.
            raise StatusError(
                grpc.StatusCode.INTERNAL,
                f"The message must be a {self._request_class.DESCRIPTOR.name}. "
                "Received: bytes that cannot be parsed as one.",
            ) from None

    def _count(
        self, model_name: str, error: StatusError | None, seconds: float
    ) -> None:
        if self._api in _COUNTED_METHODS:
            status = "OK" if error is None else error.code.name
            self._dispatcher.metrics.record_request(
                model_name, self._api, "GRPC", status, 1e6 * seconds
            )


def _deadline(context: grpc.ServicerContext) -> Deadline:
    seconds = context.time_remaining()
    if seconds is not None and seconds > _NO_DEADLINE_SECONDS:
        seconds = None
    return Deadline(seconds, context.is_active)
