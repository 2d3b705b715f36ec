"""Batch normalization for Keras 3, from the layer to the served model."""

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
