"""Serve exported models as TensorFlow Serving does, and ask them.

Knows no training library: an exported directory is all it reads.
"""

from serving.asyncio_client import AsyncPredictionClient
from serving.client import PredictionClient
from serving.connection import Tls
from serving.server import PredictionServer

__all__ = ["AsyncPredictionClient", "PredictionClient", "PredictionServer", "Tls"]
