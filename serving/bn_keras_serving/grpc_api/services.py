"""TensorFlow Serving's two gRPC services, PredictionService and ModelService."""

import asyncio
import functools
import time
from typing import Any

import grpc
from google.protobuf import descriptor, message, message_factory
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import StatusError, to_status_error
from bn_keras_serving.dispatch.request_log import RequestRecord, trace_id
from bn_keras_serving.dispatch.workers import Workers

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
    server: grpc.aio.Server,
    dispatcher: Dispatcher,
    workers: Workers,
    information: Workers,
    reload: Workers,
) -> None:
    """Answer every method of PredictionService and ModelService.

    Args:
        server: A server that has not been started.
        dispatcher: Answers the requests.
        workers: Threads for inference requests. Further requests wait for them as long
            as their deadlines allow.
        information: Threads for requests that run no model.
        reload: Threads for HandleReloadConfigRequest, which can take minutes.
    """
    for service, methods in SERVICES.items():
        # The methods have no deserializers: a message that cannot be parsed would be
        # answered with gRPC's own text, and in the event loop.
        handlers = {}
        for method in methods:
            threads = workers if method.name in _INFERENCE_METHODS else information
            if method.name == "HandleReloadConfigRequest":
                threads = reload
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                _RpcMethod(dispatcher, method, threads).answer
            )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )


class _RpcMethod:
    """A method of the protocol, from serialized request to serialized response."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        method: descriptor.MethodDescriptor,
        workers: Workers,
    ):
        self._dispatcher = dispatcher
        self._api = method.name
        self._request_class = message_factory.GetMessageClass(method.input_type)
        self._workers = workers

    async def answer(self, serialized: bytes, context: grpc.aio.ServicerContext) -> Any:
        """Answer a call in a worker thread."""
        start = time.perf_counter()
        deadline = _deadline(context)
        record = RequestRecord("GRPC", self._api, request_bytes=len(serialized))
        if self._dispatcher.request_log.enabled:
            record.trace_id = trace_id(dict(context.invocation_metadata() or ()))
            record.peer = context.peer()
        error = None
        try:
            return await self._workers.run(
                functools.partial(self._respond, serialized, deadline, record)
            )
        except asyncio.CancelledError:
            # The client has left, or its deadline has passed; gRPC has answered.
            deadline.cancel()
            error = StatusError(grpc.StatusCode.CANCELLED, "")
            if deadline.has_passed():
                error = StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "")
            raise
        except Exception as raised:
            error = to_status_error(raised)
        finally:
            self._finish(record, error, time.perf_counter() - start)
        # gRPC keeps the error that `abort` raises, with this frame, until the next
        # garbage collection.
        del serialized
        # `abort` raises; outside the `try`, so that it is not caught there.
        return await context.abort(error.code, error.details)

    def _respond(
        self, serialized: bytes, deadline: Deadline, record: RequestRecord
    ) -> bytes:
        request = self._parse(serialized)
        record.read_message(request)
        response = self._dispatcher.answer(self._api, request, deadline)
        record.read_message(response)
        serialized_response = response.SerializeToString()
        record.response_bytes = len(serialized_response)
        return serialized_response

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

    def _finish(
        self, record: RequestRecord, error: StatusError | None, seconds: float
    ) -> None:
        """Count a request, and log it."""
        record.status = "OK" if error is None else error.code.name
        record.microseconds = 1e6 * seconds
        if self._api in _COUNTED_METHODS:
            self._dispatcher.metrics.record_request(
                record.model, self._api, "GRPC", record.status, record.microseconds
            )
        self._dispatcher.request_log.write(record)


def _deadline(context: grpc.aio.ServicerContext) -> Deadline:
    seconds = context.time_remaining()
    if seconds is not None and seconds > _NO_DEADLINE_SECONDS:
        seconds = None
    return Deadline(seconds)
