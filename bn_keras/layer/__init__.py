"""The package's Keras layers; importing this package registers them with Keras."""

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.layer.local_response_normalization import LocalResponseNormalization
from bn_keras.layer.scale_shift import ScaleShift

__all__ = ["BatchNormalization", "LocalResponseNormalization", "ScaleShift"]
