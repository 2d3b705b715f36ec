"""Ask a TensorFlow Serving server, this one or the real one.

Knows no SavedModel.
"""

from serving.client.awaiting import AsyncPredictionClient
from serving.client.blocking import PredictionClient
from serving.client.connection import Tls
from serving.client.requests import Classes, VersionState

__all__ = [
    "AsyncPredictionClient",
    "Classes",
    "PredictionClient",
    "Tls",
    "VersionState",
]
