"""Request counts and latencies under the names that TensorFlow Serving uses."""

import array
import collections
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
)
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from bn_keras_serving.common.history import History

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RECENT_REQUESTS = 1000
# Microseconds; servables/tensorflow/util.cc: "Scale of 10, power of 1.8 with bucket
# count 33 (~20 minutes)".
BUCKETS = tuple(10 * 1.8**power for power in range(33))
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metrics:
    """The metrics of one server.

    Names, labels and buckets are those of TensorFlow Serving, so that dashboards made
    for it work unchanged: `:tensorflow:serving:request_count`, `...:request_latency`
    (only requests answered with OK), `...:runtime_latency`, and of TensorFlow itself
    `:tensorflow:cc:saved_model:load_attempt_count` and `...:load_latency`. In addition,
    there are the `process_...` metrics of Prometheus' clients. Clients choose the model
    names in their requests and each name would occupy memory forever, so requests for a
    name that is not served are counted under "".

    Args:
        model_names: Function that returns the names of the served models. It is called
            when a request names a model that has not been seen before.

    Attributes:
        history: Requests and latencies of the last minutes.

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
        self._seen_names: set[str] = set()
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
        self._loads = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of times a SavedModel was requested to be loaded.",
            ["model_path", "status"],
            registry=self._registry,
        )
        self._load_latency = Counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Latency in microseconds for SavedModels that were successfully loaded.",
            ["model_path"],
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self.history = History()
        # Guards `_recent`; the Prometheus client has locks of its own.
        self._lock = threading.Lock()
        # Arrays of doubles rather than lists of Python floats: a float that is
        # allocated next to a large answer shares a memory arena with it, and would
        # keep that whole arena (1 MiB) from being returned to the system.
        self._recent: dict[tuple[str, str, str], array.array[float]] = (
            collections.defaultdict(lambda: array.array("d"))
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
            model_name: The name in the request.
            api: `Predict`, `Classify` or `Regress` for gRPC. For REST, as in
                TensorFlow Serving, `predict`, `classify`, `regress`, or "" for
                anything else.
            entrypoint: `GRPC` or `REST`.
            status: Name of the status code: `OK`, `INVALID_ARGUMENT`, ...
            microseconds: Time from the arrival of the request to its answer. Recorded
                for `OK` only.
        """
        model_name = self._label_for(model_name)
        self._requests.labels(model_name, status).inc()
        is_answer = status == "OK" and api != ""
        self.history.record(model_name, microseconds if is_answer else None)
        if status == "OK":
            labels = (model_name, api, entrypoint)
            self._request_latency.labels(*labels).observe(microseconds)
            with self._lock:
                times = self._recent[labels]
                times.append(microseconds)
                del times[:-RECENT_REQUESTS]

    def record_runtime(self, model_name: str, api: str, microseconds: float) -> None:
        """Record the time that TensorFlow took for one request."""
        self._runtime_latency.labels(self._label_for(model_name), api, "TF1").observe(
            microseconds
        )

    @contextlib.contextmanager
    def record_load(self, model_name: str, version: int) -> Iterator[None]:
        """Count one attempt to load a version, and add up the time of successful ones.

        The label `model_path` is `NAME/VERSION`: whoever reads the metrics must not
        learn the paths of this machine.
        """
        model_path = f"{model_name}/{version}"
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self._loads.labels(model_path, "fail").inc()
            raise
        seconds = time.perf_counter() - start
        self._loads.labels(model_path, "success").inc()
        self._load_latency.labels(model_path).inc(round(1e6 * seconds))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, of type `CONTENT_TYPE`.

        The writer of the Prometheus client is not used because it would rename the
        counters of TensorFlow Serving, for example to `request_count_total`.
        """
        lines = []
        for family in self._registry.collect():
            is_total = family.type == "counter" and not family.name.startswith(":")
            suffix = "_total" if is_total else ""
            lines.append(f"# TYPE {family.name}{suffix} {family.type}")
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    name = sample.name.removesuffix("_total") + suffix
                    labels, value = _format_labels(sample), _format_value(sample.value)
                    lines.append(f"{name}{labels} {value}")
        return ("\n".join(lines) + "\n").encode()

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return request counts and latency percentiles of each model.

        Returns:
            `{model_name: {"requests": {status: count}, "latencies": [...]}}`. Each
            latency has `api`, `entrypoint`, `count` and, in microseconds, `p50`, `p95`
            and `p99` of the latest `RECENT_REQUESTS` requests answered with OK.
        """
        summaries: dict[str, dict[str, Any]] = collections.defaultdict(
            lambda: {"requests": {}, "latencies": []}
        )
        for sample in next(iter(self._requests.collect())).samples:
            if sample.name.endswith("_total"):
                labels = sample.labels
                counts = summaries[labels["model_name"]]["requests"]
                counts[labels["status"]] = int(sample.value)
        # Copy under the lock, compute outside it: recording must not wait for this.
        with self._lock:
            recent = {labels: times[:] for labels, times in self._recent.items()}
        for (model_name, api, entrypoint), times in sorted(recent.items()):
            p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
            summaries[model_name]["latencies"].append(
                {
                    "api": api,
                    "entrypoint": entrypoint,
                    "count": len(times),
                    "p50": p50,
                    "p95": p95,
                    "p99": p99,
                }
            )
        return dict(summaries)

    def _label_for(self, model_name: str) -> str:
        """Return the name if it is, or once was, that of a served model; else ""."""
        if model_name in self._seen_names:
            return model_name
        if model_name not in self._model_names():
            return ""
        self._seen_names.add(model_name)
        return model_name


def _format_labels(sample: Sample) -> str:
    if not sample.labels:
        return ""
    pairs = (
        f'{name}="{_format_bound(value) if name == "le" else _escape(value)}"'
        for name, value in sample.labels.items()
    )
    return "{" + ",".join(pairs) + "}"


def _escape(text: str) -> str:
    return text.translate(_LABEL_ESCAPES)


def _format_bound(text: str) -> str:
    """Write a bucket's bound with six digits, as TensorFlow Serving does."""
    return text if text == "+Inf" else f"{float(text):g}"


def _format_value(value: float) -> str:
    return str(int(value)) if value == int(value) else floatToGoString(value)
