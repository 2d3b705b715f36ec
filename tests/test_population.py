"""Algorithm 2 against its formula in NumPy."""

import keras
import numpy as np
import pytest

from bn_keras import BatchNormalization, estimate_population_statistics

LAYERS = [BatchNormalization, keras.layers.BatchNormalization]


def batches(count=3, size=5):
    draw = np.random.default_rng(0)
    return [draw.normal(2.0, 3.0, (size, 4)).astype("float32") for _ in range(count)]


def model_of(*layers):
    return keras.Sequential([keras.Input((4,)), *layers])


@pytest.mark.parametrize("layer", LAYERS)
def test_the_estimate_is_the_mean_of_the_batches_moments(layer):
    model, data = model_of(layer()), batches()
    moved = estimate_population_statistics(model, data)
    mean = np.mean([batch.mean(0) for batch in data], axis=0)
    variance = 5 / 4 * np.mean([batch.var(0) for batch in data], axis=0)
    found = model.layers[0]
    np.testing.assert_allclose(found.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.moving_variance, variance, rtol=1e-5)
    expected = np.max(np.abs(mean) / np.sqrt(variance + 1e-3))
    np.testing.assert_allclose(moved[found.path], expected, rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_later_layer_sees_batches_that_earlier_ones_normalized(layer):
    model = model_of(layer(epsilon=1e-3), keras.layers.Dropout(0.9), layer())
    data = batches()
    estimate_population_statistics(model, data)
    variance = 5 / 4 * np.mean([b.var(0) / (b.var(0) + 1e-3) for b in data], axis=0)
    np.testing.assert_allclose(model.layers[2].moving_mean, 0, atol=1e-5)
    np.testing.assert_allclose(model.layers[2].moving_variance, variance, rtol=1e-5)


def test_weights_stay_and_layers_are_left_as_they_were():
    model = model_of(keras.layers.Dense(4), BatchNormalization(momentum=0.9))
    before = model.get_weights()
    estimate_population_statistics(model, batches())
    after = model.get_weights()
    for old, new in zip(before[:4], after[:4], strict=True):
        np.testing.assert_array_equal(old, new)
    assert "call" not in vars(model.layers[1])
    values = batches(1)[0]
    np.testing.assert_array_equal(model(values), model(values, training=False))


def test_nested_layers_are_found_and_frozen_ones_left():
    frozen = BatchNormalization(trainable=False)
    model = model_of(keras.Sequential([BatchNormalization()]), frozen)
    moved = estimate_population_statistics(model, batches())
    assert list(moved) == [model.layers[0].layers[0].path]
    np.testing.assert_array_equal(frozen.moving_variance, 1)


def test_data_may_be_an_array_or_batches_with_labels():
    values = batches(1, size=12)[0]
    models = [model_of(BatchNormalization()) for _ in range(2)]
    estimate_population_statistics(models[0], values)
    estimate_population_statistics(models[1], [(values, np.zeros(12))])
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_bounds_the_batches_used():
    data = batches()
    model = model_of(BatchNormalization())
    estimate_population_statistics(model, data, steps=1)
    np.testing.assert_allclose(model.layers[0].moving_mean, data[0].mean(0), rtol=1e-5)


def test_an_interrupted_estimate_restores_everything():
    model = model_of(BatchNormalization())

    def interrupted():
        yield batches(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_population_statistics(model, interrupted())
    np.testing.assert_array_equal(model.layers[0].moving_mean, 0)
    np.testing.assert_array_equal(model.layers[0].moving_variance, 1)
    assert "call" not in vars(model.layers[0])


@pytest.mark.parametrize("data", [[], [np.ones((1, 4), "float32")]])
def test_too_little_data_is_an_error_and_changes_nothing(data):
    model = model_of(BatchNormalization())
    with pytest.raises(ValueError, match=r"two values or more .* Received: none"):
        estimate_population_statistics(model, data)
    np.testing.assert_array_equal(model.layers[0].moving_variance, 1)


def test_a_model_without_batch_normalization_is_an_error():
    with pytest.raises(ValueError, match="Received: Sequential"):
        estimate_population_statistics(model_of(keras.layers.Dense(2)), batches())
