"""Warm-up: recorded requests that are run before a version is served."""

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.dispatch import handlers
from bn_keras_serving.servable.servable import Servable

MAXIMUM_RECORDS = 1000

# The handler for each kind of PredictionLog.
_HANDLERS = {
    "predict_log": handlers.predict,
    "classify_log": handlers.classify,
    "regress_log": handlers.regress,
    "multi_inference_log": handlers.multi_inference,
}


def warm_up(servable: Servable, path: Path, iterations: int = 1) -> None:
    """Run the requests in `assets.extra/tf_serving_warmup_requests`, if present.

    Args:
        servable: The loaded version.
        path: Directory of the version.
        iterations: How often each request is run.

    Raises:
        InvalidRequestError: If there are more than 1,000 records, or a record is of an
            unsupported kind. Errors of running a record are passed on: a single record
            that fails makes the load fail.
    """
    records = path / "assets.extra" / "tf_serving_warmup_requests"
    if not records.exists():
        return
    for number, record in enumerate(tf.data.TFRecordDataset(str(records)), 1):
        if number > MAXIMUM_RECORDS:
            raise InvalidRequestError(
                f"A warm-up file must have at most {MAXIMUM_RECORDS} records. "
                "Received: more. Export fewer."
            )
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind is None:
            continue
        if kind not in _HANDLERS:
            raise InvalidRequestError(
                f"A warm-up record must have one of {', '.join(_HANDLERS)}. "
                f"Received: {kind} in record {number}. Export without it."
            )
        for _ in range(iterations):
            _HANDLERS[kind](servable, getattr(log, kind).request)
