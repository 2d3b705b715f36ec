"""Serve exported models as TensorFlow Serving does, and ask them.

Knows no training library: an exported directory is all it reads.
"""

from bn_keras_serving.client import AsyncPredictionClient, PredictionClient, Tls
from bn_keras_serving.server import PredictionServer

__all__ = ["AsyncPredictionClient", "PredictionClient", "PredictionServer", "Tls"]
