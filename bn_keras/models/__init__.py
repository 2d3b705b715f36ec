"""The papers' networks as plain Functional models, built by nouns.

Knows neither data nor recipes: a builder returns a model that is not compiled.
"""

from bn_keras.layer.local_response_normalization import LocalResponseNormalization
from bn_keras.models.convnet import ConvNet
from bn_keras.models.inception import BNInception, Inception
from bn_keras.models.mlp import MLP
from bn_keras.models.vgg import VGG

__all__ = [
    "MLP",
    "VGG",
    "BNInception",
    "ConvNet",
    "Inception",
    "LocalResponseNormalization",
]
