"""Count requests and their time under the names that TensorFlow Serving gives them.

Knows no model, no request and no transport.
"""

import array
import collections
import threading
from collections.abc import Callable, Collection

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RECENT_REQUESTS = 1000
# Microseconds; servables/tensorflow/util.cc: "Scale of 10, power of 1.8 with bucket
# count 33 (~20 minutes)".
BUCKETS = tuple(10 * 1.8**power for power in range(33))


class Metrics:
    """The metrics of one server.

    Names, labels and buckets are TensorFlow Serving's, so its dashboards read them:
    `:tensorflow:serving:request_count`, `...:request_latency` (of requests answered
    with OK) and `...:runtime_latency`. Clients choose the names in their requests, and
    each name stays in memory: a name that is not served is counted as "".

    Args:
        model_names: Tells the names that are served. Called when a name is met that
            was not served before.

    Example:
        ```python
        from bn_keras_serving.common.metrics import Metrics

        metrics = Metrics(lambda: ["digits"])
        metrics.record_request("digits", "Predict", "GRPC", "OK", 1500.0)
        line = b':tensorflow:serving:request_count{model_name="digits",status="OK"} 1'
        assert line in metrics.exposition().splitlines()
        ```
    """

    def __init__(self, model_names: Callable[[], Collection[str]]):
        self._model_names = model_names
        self._served: set[str] = set()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._request_latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) of a request.",
            ["model_name", "API", "entrypoint"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._runtime_latency = Histogram(
            ":tensorflow:serving:runtime_latency",
            "Distribution of wall time (in microseconds) of TensorFlow's part.",
            ["model_name", "API", "runtime"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._guard = threading.Lock()
        # Not Python floats: one made beside a big answer lies in that answer's memory,
        # which goes back by the MiB, and would keep a MiB of it.
        self._recent: dict[tuple[str, str, str], array.array] = collections.defaultdict(
            lambda: array.array("d")
        )

    def record_request(
        self,
        model_name: str,
        api: str,
        entrypoint: str,
        status: str,
        microseconds: float,
    ) -> None:
        """Count one request.

        Args:
            model_name: As the request names it.
            api: `Predict`, `Classify` or `Regress` over gRPC; over REST, as TensorFlow
                Serving has it, `predict`, `classify`, `regress` or "" for the others.
            entrypoint: `GRPC` or `REST`.
            status: Name of the status code, `OK`, `INVALID_ARGUMENT`, ...
            microseconds: From its arrival to its answer; kept for `OK` alone.
        """
        model_name = self._known(model_name)
        self._requests.labels(model_name, status).inc()
        if status == "OK":
            labels = (model_name, api, entrypoint)
            self._request_latency.labels(*labels).observe(microseconds)
            with self._guard:
                times = self._recent[labels]
                times.append(microseconds)
                del times[:-RECENT_REQUESTS]

    def record_runtime(self, model_name: str, api: str, microseconds: float) -> None:
        """Add the time that TensorFlow took for one request."""
        self._runtime_latency.labels(self._known(model_name), api, "TF1").observe(
            microseconds
        )

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, of type `CONTENT_TYPE`.

        The library's own writer would call the counter `request_count_total`.
        """
        lines = []
        for family in self._registry.collect():
            lines.append(f"# TYPE {family.name} {family.type}")
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    name = sample.name.removesuffix("_total")
                    lines.append(f"{name}{_labels(sample)} {_number(sample.value)}")
        return ("\n".join(lines) + "\n").encode()

    def summary(self) -> dict[str, dict]:
        """Return what a person wants to know of each model.

        Returns:
            `{model_name: {"requests": {status: count}, "latencies": [...]}}`, each
            latency with `api`, `entrypoint`, `count` and, in microseconds, `p50`, `p95`
            and `p99` of the latest `RECENT_REQUESTS` requests answered with OK.
        """
        found: dict[str, dict] = collections.defaultdict(
            lambda: {"requests": {}, "latencies": []}
        )
        for sample in next(iter(self._requests.collect())).samples:
            if sample.name.endswith("_total"):
                labels = sample.labels
                counts = found[labels["model_name"]]["requests"]
                counts[labels["status"]] = int(sample.value)
        with self._guard:
            recent = {labels: times[:] for labels, times in self._recent.items()}
        for (model_name, api, entrypoint), times in sorted(recent.items()):
            middle, high, highest = np.percentile(times, (50, 95, 99)).tolist()
            found[model_name]["latencies"].append(
                {
                    "api": api,
                    "entrypoint": entrypoint,
                    "count": len(times),
                    "p50": middle,
                    "p95": high,
                    "p99": highest,
                }
            )
        return dict(found)

    def _known(self, model_name: str) -> str:
        if model_name in self._served:
            return model_name
        if model_name not in self._model_names():
            return ""
        self._served.add(model_name)
        return model_name


def _labels(sample) -> str:
    if not sample.labels:
        return ""
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    pairs = (
        f'{name}="{_bound(value) if name == "le" else value.translate(escapes)}"'
        for name, value in sample.labels.items()
    )
    return "{" + ",".join(pairs) + "}"


def _bound(text: str) -> str:
    """Write a bucket's bound as TensorFlow Serving does, with six digits."""
    return text if text == "+Inf" else f"{float(text):g}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else floatToGoString(value)
