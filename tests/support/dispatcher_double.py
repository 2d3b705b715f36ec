"""A `Dispatcher` that runs no model, for the tests of REST."""

import http.client
import json
import threading
from types import SimpleNamespace

import grpc
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    regression_pb2,
)

from bn_keras_serving.common.limits import Limits
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.dispatch.deadline import UNLIMITED
from bn_keras_serving.dispatch.error_mapping import StatusError
from bn_keras_serving.dispatch.request_log import RequestLogger
from bn_keras_serving.dispatch.workers import Workers
from bn_keras_serving.rest import json_numbers, json_tensors, json_text
from bn_keras_serving.rest.server import RestServer

METRICS = "/monitoring/prometheus/metrics"


def tensor_infos(**types_and_shapes):
    """Build `TensorInfo`s from names and (dtype, shape)."""
    infos = {}
    for name, (dtype, shape) in types_and_shapes.items():
        info = meta_graph_pb2.TensorInfo(name=f"{name}:0", dtype=dtype.as_datatype_enum)
        info.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
        infos[name] = info
    return infos


def read_json(text, **inputs):
    """Decode a Predict document for inputs of the given types; return the arrays."""
    if not isinstance(text, str):
        text = json.dumps(text)
    types = {name: dtype.as_datatype_enum for name, dtype in inputs.items()}
    fast = json_numbers.decode(text.encode(), {"serving_default": types})
    decoded = json_tensors.decode_inputs(json_text.parse(text.encode()), types)
    if fast is not None:
        assert fast[1].by_row == decoded.by_row
        for name in inputs:
            check_equal(fast[1].arrays[name], decoded.arrays[name])
    return decoded.arrays


def check_equal(array, expected):
    """Check that two arrays have the same type, shape and bits."""
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    assert array.tobytes() == expected.tobytes()


def signature(inputs, outputs, method="tensorflow/serving/predict"):
    return meta_graph_pb2.SignatureDef(
        inputs=tensor_infos(**inputs),
        outputs=tensor_infos(**outputs),
        method_name=method,
    )


ROWS = (tf.float32, [None, 2])
SIGNATURES = {
    "serving_default": signature({"x": ROWS}, {"y": ROWS}),
    "pair": signature({"a": ROWS, "b": ROWS}, {"sum": ROWS, "difference": ROWS}),
    "__saved_model_init_op": signature({}, {}),
}


class DispatcherDouble:
    """Answers Predict with `{"y": 2 * x}`, and records the requests.

    Args:
        names: Names of the models.
        error: Error of a version 1 that failed to load; "" for no such version.

    Attributes:
        signatures: Name to `SignatureDef`, the same for every model.
        functions: Signature name to function from arrays to arrays.
        error: Exception to raise instead of running a model, if set.
        versions: Version, state and error of each version, the same for every model.
        requests: The method and the message of each request. That of Predict has
            arrays as its inputs.
        hold: Whether predictions wait until `release` is set.
        running: Set once a prediction waits.
        release: Set by a test to let predictions continue.
        finished: Set once a prediction that waited continues.
    """

    def __init__(self, names=("m",), error=""):
        self.models = SimpleNamespace(names=lambda: list(names))
        self.metrics = Metrics(self.models.names)
        self.request_log = RequestLogger()
        self.signatures = SIGNATURES
        self.functions = {
            "": lambda x: {"y": 2 * x},
            "pair": lambda a, b: {"sum": a + b, "difference": a - b},
        }
        self.error = None
        self.requests = []
        self.hold = False
        self.running = threading.Event()
        self.release = threading.Event()
        self.finished = threading.Event()
        self._names = names
        self.versions = [(2, "AVAILABLE", "")]
        if error:
            self.versions.append((1, "END", error))

    def answer(self, api, request, deadline=UNLIMITED):
        self.requests.append((api, request))
        spec = request.model_spec
        if spec.name not in self._names:
            details = "Could not find any versions of model {0}"
            if api != "GetModelStatus":
                details = "Servable not found for request: Latest({0})"
            raise StatusError(grpc.StatusCode.NOT_FOUND, details.format(spec.name))
        if api in ("Predict", "Classify", "Regress"):
            self._wait()
            deadline.remaining()
            if self.error is not None:
                raise self.error
        return getattr(self, f"_{api}")(request)

    def predict_arrays(self, spec, inputs, deadline=UNLIMITED):
        request = SimpleNamespace(model_spec=spec, inputs=inputs)
        return self.answer("Predict", request, deadline)

    def input_types(self, spec):
        if spec.name not in self._names:
            details = f"Servable not found for request: Latest({spec.name})"
            raise StatusError(grpc.StatusCode.NOT_FOUND, details)
        return {
            name: {alias: info.dtype for alias, info in definition.inputs.items()}
            for name, definition in self.signatures.items()
        }

    def _wait(self):
        if self.hold:
            self.running.set()
            assert self.release.wait(30)
            self.finished.set()

    def _GetModelStatus(self, request):  # noqa: N802
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state, error in self.versions:
            response.model_version_status.add(
                version=version,
                state=state,
                status={"error_code": 2 if error else 0, "error_message": error},
            )
        return response

    def _GetModelMetadata(self, request):  # noqa: N802
        response = get_model_metadata_pb2.GetModelMetadataResponse(
            model_spec={"name": request.model_spec.name, "version": {"value": 2}}
        )
        response.metadata["signature_def"].Pack(
            get_model_metadata_pb2.SignatureDefMap(signature_def=self.signatures)
        )
        return response

    def _Predict(self, request):  # noqa: N802
        return self.functions[request.model_spec.signature_name](**request.inputs)

    def _Classify(self, request):  # noqa: N802
        response = classification_pb2.ClassificationResponse(
            model_spec=request.model_spec
        )
        for example in request.input.example_list.examples:
            classification = response.result.classifications.add()
            score = example.features.feature["x"].float_list.value[0]
            classification.classes.add(label="cat", score=score)
        return response

    def _Regress(self, request):  # noqa: N802
        response = regression_pb2.RegressionResponse(model_spec=request.model_spec)
        for example in request.input.example_list.examples:
            score = example.features.feature["x"].float_list.value[0]
            response.result.regressions.add(value=score / 2 + 2)
        return response


class RunningRestServer:
    """A REST server with a `DispatcherDouble`, and requests to it.

    Args:
        dispatcher: The double; a new one by default.
        workers: Number of threads that run predictions.
        limits: Keyword arguments of `Limits`.
        options: Further arguments of `RestServer`.
    """

    def __init__(self, dispatcher=None, workers=2, limits=None, **options):
        self.dispatcher = dispatcher or DispatcherDouble()
        self.workers = Workers(workers, "rest-worker")
        self.information = Workers(2, "information")
        options = {"host": "127.0.0.1", "port": 0, "metrics_path": METRICS} | options
        self.server = RestServer(
            self.dispatcher,
            workers=self.workers,
            information=self.information,
            limits=Limits(**{"message_bytes": 2**22} | (limits or {})),
            **options,
        )
        self.port = self.address = None

    def __enter__(self):
        self.port = self.server.start()
        self.address = f"http://127.0.0.1:{self.port}/"
        return self

    def __exit__(self, *_):
        self.dispatcher.release.set()
        self.server.stop(5)
        self.workers.stop(5)
        self.information.stop(5)

    def request(self, method, path, body=None, **headers):
        """Send a request; return status, body and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def send(self, path, document=None, method=None):
        """Post or get a document; return the status and the document in response."""
        body = None if document is None else json.dumps(document)
        method = method or ("GET" if document is None else "POST")
        status, body, headers = self.request(method, path, body)
        assert headers["Content-Type"] == "application/json"
        return status, json.loads(body)

    def request_counts(self):
        """Return the number of requests of each model by status."""
        return {
            name: counts["requests"]
            for name, counts in self.dispatcher.metrics.summary().items()
        }
