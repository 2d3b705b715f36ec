"""Mixed requests over a long time, while the server's memory is observed."""

import collections
import http.client
import statistics
import time
from pathlib import Path

import grpc
import numpy as np

from benchmarks.serving_contenders import UNLIMITED
from benchmarks.serving_load import open_loop, poisson_arrivals
from benchmarks.serving_requests import NETWORK, PIXELS, TINY

WINDOW = 10.0
WARM_UP = 120.0
# Calls per second, few enough to leave the machine usable.
RATE = 40.0
THREADS = 16


def resident_megabytes(process):
    """Return the resident memory of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def growth(values):
    """Return the increase from the first to the last tenth of the values in %."""
    tenth = max(1, len(values) // 10)
    first, last = (statistics.mean(part) for part in (values[:tenth], values[-tenth:]))
    return 100 * (last / first - 1)


def soak(served, seconds, rate=RATE):
    """Send a server of the small network a random mix of all kinds of calls.

    Args:
        served: A `serving_contenders.Served`.
        seconds: Duration of the soak. The growth of memory leaves out its first fifth,
            at most two minutes.
        rate: Calls per second, at the times of many independent clients.

    Yields:
        The facts so far, every ten seconds.
    """
    calls = _calls(served)
    names, weights = list(calls), [weight for weight, _, _ in calls.values()]
    generator = np.random.default_rng(0)
    shares = np.array(weights) / sum(weights)
    latencies, unexpected = collections.defaultdict(list), collections.Counter()
    kinds = collections.deque()

    def call():
        name = kinds.popleft()
        _, expected, run = calls[name]
        start = time.perf_counter()
        try:
            code = run()
        except grpc.RpcError as error:
            code = error.code().name
        latencies[name].append(time.perf_counter() - start)
        if code != expected:
            unexpected[f"{name}: {code}"] += 1

    warm_up, window = min(WARM_UP, seconds / 5), min(WINDOW, seconds / 10)
    samples, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        arrivals = poisson_arrivals(rate, window, seed=len(samples))
        kinds.extend(generator.choice(names, len(arrivals), p=shares).tolist())
        load = open_loop(call, arrivals, THREADS)
        unexpected.update(load.errors)
        elapsed = time.perf_counter() - start
        samples.append(
            (
                round(elapsed, 1),
                round(resident_megabytes(served.contender.process.pid), 1),
            )
        )
        counted = [size for moment, size in samples if moment > warm_up]
        yield {
            "minutes": round(elapsed / 60, 2),
            "calls": sum(map(len, latencies.values())),
            "errors": sum(unexpected.values()),
            "unexpected": dict(unexpected),
            "growth of resident memory, per cent": round(growth(counted), 3)
            if counted
            else None,
            "latencies": {
                name: {
                    "calls": len(values),
                    **{
                        f"p{percent} ms": round(1e3 * np.percentile(values, percent), 3)
                        for percent in (50, 99)
                    },
                }
                for name, values in sorted(latencies.items())
            },
            "resident MB after seconds": samples,
        }


def _calls(served):
    """Return name to `(weight, expected status, function)` of each kind of call."""
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    predictions = prediction_service_pb2_grpc.PredictionServiceStub(served.channel)
    models = model_service_pb2_grpc.ModelServiceStub(served.channel)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(
        metadata_field=["signature_def"]
    )
    metadata.model_spec.name = NETWORK.model
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = NETWORK.model

    def predict(case):
        send = served.call(case)
        return lambda: send() and "OK"

    def make_call(call, request):
        return lambda: call(request, timeout=60) and "OK"

    def altered_tiny(change):
        request = predict_pb2.PredictRequest.FromString(served.request(TINY))
        change(request)
        return make_call(predictions.Predict, request)

    def first_input(request):
        (name,) = request.inputs
        return request.inputs[name]

    def invalid_image(request):
        request.model_spec.name = NETWORK.model
        request.model_spec.signature_name = "predict_encoded"
        (name,) = predict_pb2.PredictRequest.FromString(served.request(NETWORK)).inputs
        request.inputs.clear()
        request.inputs[name].dtype = 7  # DT_STRING
        request.inputs[name].tensor_shape.dim.add(size=1)
        request.inputs[name].string_val.append(b"not an image")

    def on_a_new_connection():
        with grpc.insecure_channel(served.facts["address"], UNLIMITED) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = predict_pb2.PredictRequest.FromString(served.request(TINY))
            stub.Predict(request, timeout=60)
        return "OK"

    def rest(path, body=None):
        def call_once():
            connection = http.client.HTTPConnection(served.facts["rest"], timeout=60)
            try:
                connection.request("POST" if body else "GET", path, body)
                response = connection.getresponse()
                response.read()
                return str(response.status)
            finally:
                connection.close()

        return call_once

    tiny = f"/v1/models/{TINY.model}"
    numbers = '{"instances": [[1, 2, 3, 4]]}'
    return {
        "tiny": (20, "OK", predict(TINY)),
        "network": (20, "OK", predict(NETWORK)),
        "network, eight": (8, "OK", predict(NETWORK._replace(batch=8))),
        "network, pixels": (8, "OK", predict(PIXELS)),
        "metadata": (4, "OK", make_call(predictions.GetModelMetadata, metadata)),
        "status": (4, "OK", make_call(models.GetModelStatus, status)),
        "new connection": (2, "OK", on_a_new_connection),
        "unknown model": (
            2,
            "NOT_FOUND",
            altered_tiny(lambda x: setattr(x.model_spec, "name", "unknown")),
        ),
        "unknown signature": (
            2,
            "FAILED_PRECONDITION",
            altered_tiny(lambda x: setattr(x.model_spec, "signature_name", "unknown")),
        ),
        "wrong type": (
            2,
            "INVALID_ARGUMENT",
            altered_tiny(lambda x: setattr(first_input(x), "dtype", 2)),
        ),
        "malformed": (
            2,
            "INVALID_ARGUMENT",
            altered_tiny(lambda x: setattr(first_input(x), "tensor_content", b"short")),
        ),
        "invalid image": (2, "INVALID_ARGUMENT", altered_tiny(invalid_image)),
        "REST": (4, "200", rest(f"{tiny}:predict", numbers)),
        "REST, malformed": (2, "400", rest(f"{tiny}:predict", "{")),
        "REST, status": (1, "200", rest(tiny)),
        "REST, unknown model": (1, "404", rest("/v1/models/unknown")),
        "metrics": (1, "200", rest("/monitoring/prometheus/metrics")),
    }
