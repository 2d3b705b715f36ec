"""Programs under test: direct calls, this project's server, and other servers.

Each program loads the same SavedModels, reports when it is ready, and exits when its
standard input is closed. It runs in the environment of its server, so the imports at
the top need nothing but NumPy.
"""

import json
import os
import socket
import sys
import threading
from pathlib import Path

import numpy as np

from benchmarks.serving_load import closed_loop
from benchmarks.serving_requests import Case

PREDICT = "/tensorflow.serving.PredictionService/Predict"
READY = "READY "


def send(facts):
    """Send a line of facts to the benchmark."""
    print(READY + json.dumps(facts), flush=True)


def load_models(folder):
    """Return all models of the benchmark by name."""
    import tensorflow as tf

    return {
        path.name: tf.saved_model.load(str(path / "1"))
        for path in sorted((folder / "models").iterdir())
    }


def free_port():
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def request_input(folder, case):
    """Return the input name and the array of a request."""
    with np.load(folder / "requests" / f"{case}.npz") as arrays:
        ((name, array),) = arrays.items()
    return name, array


def direct(folder):
    """Answer lines of `[case, threads, seconds, minimum, pause]` with a `Load`.

    The models are loaded and called as in the server: through TensorFlow's session,
    which is faster than the functions of `tf.saved_model.load`.
    """
    from bn_keras_serving.servable.servable import Servable

    models = {
        path.name: Servable(1, path / "1")
        for path in sorted((folder / "models").iterdir())
    }

    def make_call(case):
        signature = models[case.model].signatures[case.signature]
        name, array = request_input(folder, case)
        return lambda: signature.compute({name: array})

    send({})
    for line in sys.stdin:
        case, *settings = json.loads(line)
        load = closed_loop(make_call(Case(*case)), *settings)
        send(vars(load))


def empty(folder):
    """Answer every request of the benchmark with the bytes of its answer at once.

    This is the time that gRPC's own Python server takes, without a model.
    """
    from concurrent import futures

    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    answers = {}
    for path in (folder / "requests").glob("*.predict"):
        answer = np.load(path.with_suffix(".answer.npy"))
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(
            predict_pb2.PredictRequest.FromString(path.read_bytes()).model_spec
        )
        response.outputs["y"].CopyFrom(tf.make_tensor_proto(answer))
        answers[path.stat().st_size] = response.SerializeToString()
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", -1)],
    )
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: answers[len(request)]
    )
    service, method = PREDICT.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    send({"address": f"127.0.0.1:{port}", "method": PREDICT, "form": "predict"})
    sys.stdin.read()


def poster(folder):
    """Post documents without a pause: answer `[address, path, file]` with the count.

    A line without an address ends the posting. The process is separate from the one
    that measures, so that the two do not compete for an interpreter.
    """
    import http.client

    stop, counts = threading.Event(), []

    def post(address, path, body):
        connection = http.client.HTTPConnection(address, timeout=120)
        count = 0
        while not stop.is_set():
            connection.request("POST", path, body)
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(answer.read())
            answer.read()
            count += 1
        counts.append(count)

    send({})
    thread = None
    for line in sys.stdin:
        question = json.loads(line)
        if question:
            address, path, file = question
            stop.clear()
            body = Path(file).read_bytes()
            thread = threading.Thread(target=post, args=(address, path, body))
            thread.start()
            send({})
        else:
            stop.set()
            thread.join()
            send({"posted": counts[-1]})


def ours(folder, batching=None):
    """Serve with this project; `batching` is the path of batching parameters."""
    from bn_keras_serving import PredictionServer
    from bn_keras_serving.configuration import read_batching

    config = folder / "models.config"
    texts = [
        f'config {{ name: "{path.name}" base_path: "{path}" '
        'model_platform: "tensorflow" }'
        for path in sorted((folder / "models").iterdir())
    ]
    config.write_text(f"model_config_list {{ {' '.join(texts)} }}")
    parameters = None if batching is None else read_batching(batching)
    with PredictionServer(
        config=config, port=0, rest_port=0, batching=parameters
    ) as server:
        facts = {"address": server.address, "rest": server.rest_address}
        send({**facts, "method": PREDICT, "form": "predict"})
        sys.stdin.read()


def ray(folder):
    """Serve with Ray Serve, through its gRPC proxy and TensorFlow Serving's stubs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray  # pyright: ignore[reportMissingImports]
    from ray import serve  # pyright: ignore[reportMissingImports]

    class Predictions:
        def __init__(self):
            self._models = load_models(folder)

        def Predict(self, request):  # noqa: N802 - the protocol's name
            import tensorflow as tf
            from tensorflow_serving.apis import predict_pb2

            spec = request.model_spec
            function = self._models[spec.name].signatures[spec.signature_name]
            inputs = {
                name: tf.constant(tf.make_ndarray(proto))
                for name, proto in request.inputs.items()
            }
            outputs = function(**inputs).items()
            response = predict_pb2.PredictResponse(
                outputs={
                    name: tf.make_tensor_proto(value.numpy()) for name, value in outputs
                }
            )
            response.model_spec.CopyFrom(spec)
            return response

    port = free_port()
    ray.init(address="local", log_to_driver=False)
    serve.start(
        http_options={"port": free_port()},
        grpc_options={
            "port": port,
            "grpc_servicer_functions": [
                "tensorflow_serving.apis.prediction_service_pb2_grpc."
                "add_PredictionServiceServicer_to_server"
            ],
        },
    )
    serve.run(serve.deployment(Predictions).bind(), name="benchmark")
    send(
        {
            "address": f"127.0.0.1:{port}",
            "method": PREDICT,
            "form": "predict",
            "metadata": {"application": "benchmark"},
            "version": ray.__version__,
        }
    )
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


def kserve(folder):
    """Serve with KServe's Python server, through its gRPC interface."""
    from importlib.metadata import version

    import tensorflow as tf
    from kserve import (  # pyright: ignore[reportMissingImports]
        InferInput,
        InferOutput,
        InferRequest,
        InferResponse,
        Model,
        ModelServer,
    )

    class Predictions(Model):
        def __init__(self, name, loaded):
            super().__init__(name)
            self._function = loaded.signatures["serving_default"]
            self.ready = True

        def predict(self, payload, headers=None, response_headers=None):
            inputs = {x.name: tf.constant(x.as_numpy()) for x in payload.inputs}
            outputs = []
            for name, value in self._function(**inputs).items():
                array = value.numpy()
                output = InferOutput(name, list(array.shape), "FP32")
                output.set_data_from_numpy(array)
                outputs.append(output)
            return InferResponse(payload.id or "0", self.name, outputs)

    requests = folder / "requests"
    for path in requests.glob("*-serving_default-*.npz"):
        model, signature, batch = path.stem.split("-")
        name, array = request_input(folder, Case(model, signature, int(batch)))
        infer_input = InferInput(name, list(array.shape), "FP32")
        infer_input.set_data_from_numpy(array)
        message = InferRequest(model, [infer_input]).to_grpc().SerializeToString()
        (requests / f"{path.stem}.infer").write_bytes(message)
    models = [Predictions(*item) for item in load_models(folder).items()]
    port = free_port()
    server = ModelServer(http_port=free_port(), grpc_port=port)
    send(
        {
            "address": f"127.0.0.1:{port}",
            "method": "/inference.GRPCInferenceService/ModelInfer",
            "form": "infer",
            "version": version("kserve"),
        }
    )

    def exit_with_input():
        sys.stdin.read()
        os._exit(0)  # a regular exit waits half a minute for clients

    threading.Thread(target=exit_with_input, daemon=True).start()
    server.start(models)


if __name__ == "__main__":
    kind, *paths = sys.argv[1:]
    programs = (direct, empty, poster, ours, ray, kserve)
    {program.__name__: program for program in programs}[kind](*map(Path, paths))
