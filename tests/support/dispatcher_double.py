"""An `Inference` without TensorFlow's runtime, for the tests of REST."""

import http.client
import json
import threading
from concurrent import futures
from types import SimpleNamespace

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    regression_pb2,
)

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import StatusError
from bn_keras_serving.common.metrics import Metrics
from bn_keras_serving.rest import RestServer

METRICS = "/monitoring/prometheus/metrics"


def infos(**described):
    """`TensorInfo`s of name to (dtype, shape)."""
    found = {}
    for name, (dtype, shape) in described.items():
        info = meta_graph_pb2.TensorInfo(name=f"{name}:0", dtype=dtype.as_datatype_enum)
        info.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
        found[name] = info
    return found


def signature(inputs, outputs, method="tensorflow/serving/predict"):
    return meta_graph_pb2.SignatureDef(
        inputs=infos(**inputs), outputs=infos(**outputs), method_name=method
    )


ROWS = (tf.float32, [None, 2])
SIGNATURES = {
    "serving_default": signature({"x": ROWS}, {"y": ROWS}),
    "pair": signature({"a": ROWS, "b": ROWS}, {"sum": ROWS, "difference": ROWS}),
    "__saved_model_init_op": signature({}, {}),
}


class InferenceDouble:
    """Answers `{"y": 2 * x}`, and keeps what it was asked.

    Attributes:
        signatures: of every model, name to `SignatureDef`.
        functions: signature name to function from arrays to arrays.
        refusal: raised in the place of an answer, if set.
        running: set while a prediction waits for `release`.
    """

    def __init__(self, names=("m",), error=""):
        self.models = SimpleNamespace(names=lambda: list(names))
        self.metrics = Metrics(self.models.names)
        self.signatures = SIGNATURES
        self.functions = {
            "": lambda x: {"y": 2 * x},
            "pair": lambda a, b: {"sum": a + b, "difference": a - b},
        }
        self.refusal = None
        self.asked = []
        self.hold = False
        self.running = threading.Event()
        self.release = threading.Event()
        self.finished = threading.Event()
        self._names = names
        self._error = error

    def answer(self, api, request, check=lambda: None):
        self.asked.append((api, request))
        spec = request.model_spec
        if spec.name not in self._names:
            what = "Could not find any versions of model {0}"
            if api != "GetModelStatus":
                what = "Servable not found for request: Latest({0})"
            raise StatusError(grpc.StatusCode.NOT_FOUND, what.format(spec.name))
        if api in ("Predict", "Classify", "Regress"):
            self._wait()
            check()
            if self.refusal is not None:
                raise self.refusal
        return getattr(self, f"_{api}")(request)

    def _wait(self):
        if self.hold:
            self.running.set()
            assert self.release.wait(30)
            self.finished.set()

    def _GetModelStatus(self, request):  # noqa: N802
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(
            version=2, state="AVAILABLE", status={"error_message": ""}
        )
        if self._error:
            response.model_version_status.add(
                version=1,
                state="END",
                status={"error_code": 2, "error_message": self._error},
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
        function = self.functions[request.model_spec.signature_name]
        arrays = {name: tf.make_ndarray(one) for name, one in request.inputs.items()}
        return predict_pb2.PredictResponse(
            outputs={
                name: tensors.to_typed_fields(np.asarray(array))
                for name, array in function(**arrays).items()
            }
        )

    def _Classify(self, request):  # noqa: N802
        response = classification_pb2.ClassificationResponse()
        for example in request.input.example_list.examples:
            one = response.result.classifications.add()
            score = example.features.feature["x"].float_list.value[0]
            one.classes.add(label="cat", score=score)
        return response

    def _Regress(self, request):  # noqa: N802
        response = regression_pb2.RegressionResponse()
        for example in request.input.example_list.examples:
            score = example.features.feature["x"].float_list.value[0]
            response.result.regressions.add(value=score / 2 + 2)
        return response


class Served:
    """A server in front of an `InferenceDouble`, and requests to it."""

    def __init__(self, inference=None, workers=2, **options):
        self.inference = inference or InferenceDouble()
        self.workers = futures.ThreadPoolExecutor(workers)
        options = {
            "metrics_path": METRICS,
            "message_bytes": 2**22,
            "concurrent_requests": 8,
            "workers": self.workers,
        } | options
        self.server = RestServer(self.inference, "127.0.0.1", 0, **options)
        self.port = self.address = None

    def __enter__(self):
        self.port = self.server.start()
        self.address = f"http://127.0.0.1:{self.port}/"
        return self

    def __exit__(self, *_):
        self.inference.release.set()
        self.server.stop(5)
        self.workers.shutdown()

    def request(self, method, path, body=None, **headers):
        """Return status, body and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def ask(self, path, document=None, method=None):
        """Return status and document."""
        body = None if document is None else json.dumps(document)
        method = method or ("GET" if document is None else "POST")
        status, body, headers = self.request(method, path, body)
        assert headers["Content-Type"] == "application/json"
        return status, json.loads(body)

    def counted(self):
        return {
            name: counts["requests"]
            for name, counts in self.inference.metrics.summary().items()
        }
