"""Serve exported models as TensorFlow Serving does, and ask them.

Knows no training library: an exported directory is all it reads.
"""

from serving.client import PredictionClient
from serving.server import PredictionServer

__all__ = ["PredictionClient", "PredictionServer"]
