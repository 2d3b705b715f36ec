"""A server whose answers a test scripts, for tests of the clients."""

import contextlib
import math
import threading
import time
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)


def make_signature(inputs, outputs=None, method="predict", defaults=()):
    """Make a signature of inputs and outputs, name to `(dtype, shape)`."""

    def infos(specs):
        return {
            name: meta_graph_pb2.TensorInfo(
                name=f"{name}:0",
                dtype=dtype.as_datatype_enum,
                tensor_shape=tf.TensorShape(shape).as_proto(),
            )
            for name, (dtype, shape) in specs.items()
        }

    return meta_graph_pb2.SignatureDef(
        inputs=infos(inputs),
        outputs=infos(outputs or {"y": (tf.float32, None)}),
        method_name=f"tensorflow/serving/{method}",
        defaults={name: tf.make_tensor_proto(1.0) for name in defaults},
    )


ROWS_OF_FOUR = make_signature({"x": (tf.float32, [None, 4])})


class ScriptedServer(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers `y` = `x` unless a test scripts something else; records its calls."""

    def __init__(self):
        self.signatures = {"serving_default": ROWS_OF_FOUR}
        self.refusals = []  # (code, details) for each of the next calls, None to answer
        self.answer = None  # a tensor proto to return instead of the input
        self.delay = 0.0  # seconds that a prediction takes
        self.look_up_delay = 0.0
        # Predictions take `slow_delay` if the first value is at least `slow_from`.
        self.slow_from, self.slow_delay = math.inf, 60.0
        self.barrier = 1  # predictions that must be open together before any answer
        self.requests = []  # of Predict, Classify and Regress
        self.arrivals = []
        self.remaining = []  # seconds until the deadline of each prediction
        self.look_ups = []
        self.open = self.peak_open = self.cancelled = 0
        self._lock = threading.Lock()

    def Predict(self, request, context):  # noqa: N802
        self._record(request)
        with self._lock:
            self.remaining.append(context.time_remaining())
            self.open += 1
            self.peak_open = max(self.peak_open, self.open)
        try:
            ended = threading.Event()
            if not context.add_callback(ended.set):
                ended.set()  # the call ended before the callback was added
            delay = self.slow_delay if self._is_slow(request) else self.delay
            while self.peak_open < self.barrier and not ended.wait(0.005):
                pass
            if ended.wait(delay):
                self.cancelled += 1
            self._refuse(context)
            answer = self.answer or next(iter(request.inputs.values()))
            return predict_pb2.PredictResponse(outputs={"y": answer})
        finally:
            with self._lock:
                self.open -= 1

    def _is_slow(self, request):
        if self.slow_from == math.inf:
            return False
        array = tf.make_ndarray(next(iter(request.inputs.values())))
        return array.flat[0] >= self.slow_from

    def Classify(self, request, context):  # noqa: N802
        self.requests.append(request)
        response = classification_pb2.ClassificationResponse()
        for index, _ in enumerate(request.input.example_list.examples):
            classes = response.result.classifications.add().classes
            classes.add(label="cat", score=0.5 + index)
            classes.add(label="dog", score=0.25)
        return response

    def Regress(self, request, context):  # noqa: N802
        self.requests.append(request)
        response = regression_pb2.RegressionResponse()
        for index, _ in enumerate(request.input.example_list.examples):
            response.result.regressions.add(value=0.5 + index)
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        self.look_ups.append(request.model_spec)
        time.sleep(self.look_up_delay)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(
            get_model_metadata_pb2.SignatureDefMap(signature_def=self.signatures)
        )
        return response

    def GetModelStatus(self, request, context):  # noqa: N802
        self._record(request)
        self._refuse(context)
        return get_model_status_pb2.GetModelStatusResponse(
            model_version_status=[{"version": 3, "state": "AVAILABLE"}]
        )

    def _record(self, request):
        with self._lock:
            self.requests.append(request)
            self.arrivals.append(time.monotonic())

    def _refuse(self, context):
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal:
            context.abort(*refusal)


@contextlib.contextmanager
def serve(servicer, address="127.0.0.1:0", credentials=None):
    """Serve over gRPC; yield the address."""
    server = grpc.server(
        futures.ThreadPoolExecutor(32),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        servicer, server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    server.start()
    try:
        yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
