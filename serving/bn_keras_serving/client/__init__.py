"""Clients of TensorFlow Serving servers, this project's or the original.

They need NumPy, grpcio and protobuf, and neither TensorFlow nor Keras.
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
