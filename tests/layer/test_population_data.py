"""Population statistics estimated on data sets of TensorFlow and of this package."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_keras import BatchNormalization, estimate_population_statistics
from bn_keras.data import Arrays


def test_data_sets_of_unknown_or_infinite_size_are_accepted():
    batches = np.random.default_rng(0).normal(2.0, 3.0, (3, 5, 4)).astype("float32")
    stream = tf.data.Dataset.from_tensor_slices(batches)
    for data_set in (stream.filter(lambda _: True), stream.repeat()):
        model = keras.Sequential([keras.Input((4,)), BatchNormalization()])
        estimate_population_statistics(model, data_set, steps=3, verbose=1)
        expected = batches.mean((0, 1))
        np.testing.assert_allclose(model.layers[0].moving_mean, expected, rtol=1e-5)


def test_an_infinite_data_set_needs_a_number_of_steps():
    pixels = np.random.default_rng(0).integers(0, 256, (15, 2, 2, 1)).astype(np.uint8)
    infinite = Arrays(pixels, np.zeros(15, int)).batches(5, epochs=None)
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), BatchNormalization()]
    )
    with pytest.raises(ValueError, match=r"infinite\. Received: steps=None"):
        estimate_population_statistics(model, infinite)
    estimate_population_statistics(model, infinite, "pooled", steps=2, verbose=0)
    expected = pixels[:10].reshape(10, -1).mean(0) / 255
    np.testing.assert_allclose(model.layers[-1].moving_mean, expected, rtol=1e-5)
