"""Zero padding that is `padding="same"` becomes a part of the folded convolution."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L

from bn_keras import fold_batch_normalization


def padded_network(padding, kernel=3, stride=1, dilation=1, blocks=1):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 13, 4))
    for _ in range(blocks):
        y = L.ZeroPadding2D(padding)(x)
        y = L.Conv2D(4, kernel, stride, dilation_rate=dilation, use_bias=False)(y)
        y = L.BatchNormalization(beta_initializer="random_normal")(y)
        x = L.ReLU()(L.Add()([y, x]) if y.shape == x.shape else y)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("arguments", "merged"),
    [
        ({"padding": 1}, True),
        ({"padding": 2, "kernel": 5}, True),
        ({"padding": 2, "dilation": 2}, True),
        ({"padding": (1, 0), "kernel": (3, 1)}, True),
        ({"padding": 1, "stride": 2}, False),
        ({"padding": 2}, False),
        ({"padding": ((0, 2), (1, 1))}, False),
        ({"padding": 1, "kernel": 2}, False),
    ],
)
def test_padding_is_merged_where_it_is_the_same(arguments, merged):
    model = padded_network(**arguments)
    folded = fold_batch_normalization(model).model
    kinds = [type(layer) for layer in folded.layers]
    assert (L.ZeroPadding2D not in kinds) == merged
    inputs = np.random.default_rng(0).normal(size=(2, 12, 13, 4)).astype("float32")
    expected, actual = (x.predict(inputs, verbose=0) for x in (model, folded))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_padding_that_others_read_stays():
    inputs = keras.Input((8, 8, 4))
    padded = L.ZeroPadding2D(1)(inputs)
    x = L.BatchNormalization()(L.Conv2D(4, 3)(padded))
    model = keras.Model(inputs, [x, padded])
    folded = fold_batch_normalization(model).model
    assert any(isinstance(layer, L.ZeroPadding2D) for layer in folded.layers)


PROGRAM = """
import numpy as np
import tensorflow as tf
from bn_keras import fold_batch_normalization
from test_paddings import padded_network

model = fold_batch_normalization(padded_network(1, blocks=18)).model
function = tf.function(lambda x: model(x, training=False), autograph=False)
images = np.zeros((100, 12, 13, 4), "float32")
for size in (50, 44, 16):
    function(tf.constant(images[:size]))
model.predict(images, batch_size=44, verbose=0)
"""


@pytest.mark.slow
def test_a_residual_network_with_padding_layers_does_not_end_the_process():
    # Four of four processes with a Keras model of this kind, whose padding is not
    # merged, ended with a segmentation fault.
    for _ in range(3):
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
