"""The papers' networks as plain Functional models, not compiled."""

from typing import TYPE_CHECKING

from bn_keras.lazy_names import lazy_names

if TYPE_CHECKING:
    from bn_keras.layer.local_response_normalization import LocalResponseNormalization
    from bn_keras.models.convnet import ConvNet
    from bn_keras.models.imagenet_classes import decode_predictions, preprocess_input
    from bn_keras.models.inception import BNInception, Inception
    from bn_keras.models.mlp import MLP
    from bn_keras.models.pytorch_weights import bn_inception_from_pytorch
    from bn_keras.models.vgg import VGG

__all__ = [
    "MLP",
    "VGG",
    "BNInception",
    "ConvNet",
    "Inception",
    "LocalResponseNormalization",
    "bn_inception_from_pytorch",
    "decode_predictions",
    "preprocess_input",
]

# The help of the command line lists the stems and must not wait for Keras.
_MODULES = {
    "BNInception": "bn_keras.models.inception",
    "ConvNet": "bn_keras.models.convnet",
    "Inception": "bn_keras.models.inception",
    "LocalResponseNormalization": "bn_keras.layer.local_response_normalization",
    "MLP": "bn_keras.models.mlp",
    "VGG": "bn_keras.models.vgg",
    "bn_inception_from_pytorch": "bn_keras.models.pytorch_weights",
    "decode_predictions": "bn_keras.models.imagenet_classes",
    "preprocess_input": "bn_keras.models.imagenet_classes",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
