"""Ask a TensorFlow Serving server, this one or the real one.

Knows no SavedModel.
"""

from bn_keras_serving.client.aio import AsyncPredictionClient
from bn_keras_serving.client.channel import Tls
from bn_keras_serving.client.conversation import Classes, VersionState
from bn_keras_serving.client.sync import PredictionClient

__all__ = [
    "AsyncPredictionClient",
    "Classes",
    "PredictionClient",
    "Tls",
    "VersionState",
]
