"""Run the requests that were exported with a version, before it is served.

Knows no version but the one it warms, and no transport.
"""

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.dispatch.handlers import Answering
from bn_keras_serving.servable.servable import Servable

MAXIMUM_RECORDS = 1000


def warm_up(servable: Servable, path: Path) -> None:
    """Run the requests of `assets.extra/tf_serving_warmup_requests`, if it is there.

    Args:
        servable: The loaded version.
        path: Its directory.

    Raises:
        InvalidRequestError: More than 1,000 records, or one that cannot be run.
            Whatever a record's run raises is passed on: one fails the load.
    """
    records = path / "assets.extra" / "tf_serving_warmup_requests"
    if not records.exists():
        return
    answering = Answering()
    answers = {
        "predict_log": answering.predict,
        "classify_log": answering.classify,
        "regress_log": answering.regress,
        "multi_inference_log": answering.multi_inference,
    }
    for number, record in enumerate(tf.data.TFRecordDataset(str(records)), 1):
        if number > MAXIMUM_RECORDS:
            raise InvalidRequestError(
                f"Expected at most {MAXIMUM_RECORDS} warm-up records. "
                "Received: more; export fewer."
            )
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind is None:
            continue
        if kind not in answers:
            raise InvalidRequestError(
                f"Expected warm-up records with one of {', '.join(answers)}. "
                f"Received: {kind} in record {number}; export without it."
            )
        answers[kind](servable, getattr(log, kind).request)
