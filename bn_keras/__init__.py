"""Batch normalization for Keras 3, from the layer to the served model."""

from typing import TYPE_CHECKING

from bn_keras import registration
from bn_keras.lazy_names import lazy_names

if TYPE_CHECKING:
    from bn_keras import models
    from bn_keras.diagnosis import diagnose
    from bn_keras.export import export_saved_model
    from bn_keras.folding import fold_batch_normalization
    from bn_keras.layer.batch_normalization import BatchNormalization
    from bn_keras.population import estimate_population_statistics
    from bn_keras.replacement import replace_batch_normalization

__all__ = [
    "BatchNormalization",
    "diagnose",
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
    "diagnose": "bn_keras.diagnosis",
    "estimate_population_statistics": "bn_keras.population",
    "export_saved_model": "bn_keras.export",
    "fold_batch_normalization": "bn_keras.folding",
    "models": "bn_keras.models",
    "replace_batch_normalization": "bn_keras.replacement",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

registration.register_with_keras()
