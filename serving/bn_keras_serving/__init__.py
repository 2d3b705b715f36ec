"""Serve exported models as TensorFlow Serving does, and query such servers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bn_keras_serving.client import AsyncPredictionClient, PredictionClient, Tls
    from bn_keras_serving.server import PredictionServer

__all__ = ["AsyncPredictionClient", "PredictionClient", "PredictionServer", "Tls"]

# The module of each public name. A name is imported when it is first used, so that a
# client does not wait for TensorFlow, which only the server needs.
_MODULES = {
    "AsyncPredictionClient": "bn_keras_serving.client",
    "PredictionClient": "bn_keras_serving.client",
    "PredictionServer": "bn_keras_serving.server",
    "Tls": "bn_keras_serving.client",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
