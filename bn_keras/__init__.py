"""Batch normalization for Keras 3, from the layer to the served model."""

import importlib
from typing import TYPE_CHECKING, Any

from bn_keras import registration

if TYPE_CHECKING:
    from bn_keras import models
    from bn_keras.export import export_saved_model
    from bn_keras.folding import fold_batch_normalization
    from bn_keras.layer.batch_normalization import BatchNormalization
    from bn_keras.population import estimate_population_statistics
    from bn_keras.replacement import replace_batch_normalization

__all__ = [
    "BatchNormalization",
    "estimate_population_statistics",
    "export_saved_model",
    "fold_batch_normalization",
    "models",
    "replace_batch_normalization",
]
__version__ = "0.1.0"

# The module of each public name. A name is imported when it is first used, so that
# `bn-keras --help` waits for neither Keras nor its backend.
_MODULES = {
    "BatchNormalization": "bn_keras.layer.batch_normalization",
    "estimate_population_statistics": "bn_keras.population",
    "export_saved_model": "bn_keras.export",
    "fold_batch_normalization": "bn_keras.folding",
    "replace_batch_normalization": "bn_keras.replacement",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "models":
        return importlib.import_module("bn_keras.models")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.register_with_keras()
