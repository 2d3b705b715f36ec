"""The log of requests: one JSON document per line."""

import contextlib
import dataclasses
import datetime
import json
import logging
import logging.handlers
import queue
import random
import re
import secrets
import sys
import threading
from collections.abc import Mapping
from typing import Any

from tensorflow_serving.apis import model_pb2

from bn_keras_serving.configuration.settings import RequestLog

# Clients choose the names in their requests, and could fill the disk with long ones.
MAXIMUM_NAME = 256
# W3C Trace Context: version, trace, parent and flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

# Lines that wait to be written.
MAXIMUM_LINES = 10_000

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class RequestRecord:
    """What is logged about one request. Inputs and outputs never are."""

    entrypoint: str
    api: str
    model: str = ""
    version: int | None = None
    signature: str = ""
    status: str = ""
    microseconds: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0
    peer: str = ""
    trace_id: str = ""

    def read_spec(self, spec: model_pb2.ModelSpec) -> None:
        """Take over what a request or a response says about the model."""
        self.model = spec.name
        self.signature = spec.signature_name
        if spec.HasField("version"):
            self.version = spec.version.value

    def read_message(self, message: Any) -> None:
        """Take over what any request or response says about the model.

        Those of MultiInference name a model and a signature for each of their tasks.
        """
        fields = message.DESCRIPTOR.fields_by_name
        if "model_spec" in fields:
            self.read_spec(message.model_spec)
        for name in {"tasks", "results"}.intersection(fields):
            specs = [part.model_spec for part in getattr(message, name)]
            if specs:
                self.read_spec(specs[0])
                self.signature = ",".join(spec.signature_name for spec in specs)


class RequestLogger:
    """Writes a sample of the requests to a file.

    A thread writes the lines, so that no request waits for a slow disk; if it falls
    behind by `MAXIMUM_LINES`, further lines are dropped. The file is opened again if it
    has been moved away, as `logrotate` does. If it cannot be written, requests are
    answered nevertheless.

    Args:
        settings: Which requests are logged, and where; None logs none.

    Attributes:
        enabled: Whether any request is logged.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the sampling rate is not between 0 and 1.
    """

    def __init__(self, settings: RequestLog | None = None):
        self.enabled = settings is not None
        if settings is None:
            return
        if not 0 <= settings.sampling_rate <= 1:
            raise ValueError(
                "`sampling_rate` must be between 0 and 1. Received: "
                f"sampling_rate={settings.sampling_rate}"
            )
        self._rate = settings.sampling_rate
        if str(settings.path) == "-":
            self._handler: logging.Handler = logging.StreamHandler(sys.stdout)
        else:
            self._handler = logging.handlers.WatchedFileHandler(settings.path)
        self._failed = False
        self._handler.handleError = lambda _: self._report(sys.exc_info()[1])
        self._lines: queue.Queue[str | None] = queue.Queue(MAXIMUM_LINES)
        self._thread = threading.Thread(
            target=self._write_lines, name="request log", daemon=True
        )
        self._thread.start()

    def write(self, record: RequestRecord) -> None:
        """Log a request that has been answered, if it belongs to the sample."""
        if not self.enabled or random.random() >= self._rate:
            return
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        fields = {"time": time, **dataclasses.asdict(record)}
        fields["microseconds"] = round(record.microseconds)
        for name in ("model", "signature"):
            fields[name] = fields[name][:MAXIMUM_NAME]
        try:
            self._lines.put_nowait(json.dumps(fields))
        except queue.Full:
            self._report("the disk is too slow")

    def close(self) -> None:
        """Write the remaining lines, for a second at most, and close the file."""
        if not self.enabled:
            return
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(1.0)

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            self._handler.handle(logging.makeLogRecord({"msg": line}))
        with contextlib.suppress(OSError):  # the last line has been reported
            self._handler.close()

    def _report(self, problem: object) -> None:
        if not self._failed:
            self._failed = True
            _logger.error("Requests are not logged: %s", problem)


def trace_id(headers: Mapping[str, str | bytes]) -> str:
    """Return the identifier that connects a request with those of other services.

    Args:
        headers: HTTP headers or gRPC metadata; the names in lower case.

    Returns:
        The trace of `traceparent` (W3C Trace Context), or `x-request-id`, or a new one.
    """
    for name, pattern in (("traceparent", _TRACEPARENT), ("x-request-id", _REQUEST_ID)):
        value = headers.get(name, "")
        match = pattern.fullmatch(value) if isinstance(value, str) else None
        if match is not None:
            return match[match.lastindex or 0]
    return secrets.token_hex(16)
