"""Folded models to quantize, and images for them."""

import keras
import numpy as np

from bn_keras import fold_batch_normalization

L = keras.layers


def normalize(x):
    """Return batch normalization with uneven statistics."""
    layer = L.BatchNormalization()
    y = layer(x)
    draw = np.random.default_rng(len(layer.weights) + x.shape[-1])
    layer.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return y


def convolve(x, filters, size=3, strides=1, **options):
    """Return a convolution with batch normalization."""
    layer = L.Conv2D(filters, size, strides, "same", use_bias=False, **options)
    return normalize(layer(x))


def fold(inputs, outputs, name="network"):
    """Return a model without batch normalization."""
    return fold_batch_normalization(keras.Model(inputs, outputs, name=name)).model


def residual_network(classes=10):
    """Return a residual network with every kind of shortcut."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3), name="image")
    x = L.ReLU()(convolve(x, 16))
    for filters, strides in ((16, 1), (16, 1), (32, 2)):
        y = L.ReLU()(convolve(x, filters, strides=strides))
        y = convolve(y, filters)
        if strides > 1:
            x = convolve(x, filters, 1, strides)
        x = L.ReLU()(L.Add()([y, x]))
    x = L.GlobalAveragePooling2D()(x)
    return fold(inputs, L.Dense(classes, activation="softmax", name="scores")(x))


def branching_network(classes=10):
    """Return a network with branches, pooling and everything that is int8."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((17, 17, 3), name="image")
    x = L.ZeroPadding2D(((0, 1), (1, 0)))(x)
    x = L.ReLU(6.0)(normalize(L.DepthwiseConv2D(3, 2, depth_multiplier=4)(x)))
    branches = [
        L.Conv2D(8, 1, activation="relu")(x),
        L.SeparableConv2D(8, 3, padding="same", activation="relu")(x),
        L.Conv2D(8, 3, dilation_rate=2, padding="same", activation="relu6")(x),
        L.MaxPooling2D(3, 1, "same")(x),
        L.AveragePooling2D(3, 1, "same")(x),
    ]
    # The ReLU ends all folding: this normalization stays a multiply-add.
    x = L.ReLU()(normalize(L.Concatenate()(branches)))
    x = L.Conv2D(32, 3, groups=4, activation="swish")(L.Dropout(0.1)(x))
    x = L.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = L.MaxPooling2D(2)(L.ZeroPadding2D(1)(x))
    x = L.Dense(16, activation="relu")(L.Flatten()(x))
    return fold(inputs, L.Dense(classes, name="scores")(x))


def images(count, size):
    """Return normally distributed images."""
    draw = np.random.default_rng(count)
    return draw.normal(size=(count, size, size, 3)).astype("float32")
