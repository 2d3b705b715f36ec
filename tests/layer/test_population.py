"""Population statistics, compared with their formulas in NumPy."""

from functools import partial

import keras
import numpy as np
import pytest

import bn_keras
from bn_keras import BatchNormalization
from bn_keras.population import METHODS

pytestmark = pytest.mark.fast

estimate = partial(bn_keras.estimate_population_statistics, verbose=0)
LAYERS = [BatchNormalization, keras.layers.BatchNormalization]


def batches(count=3, size=5):
    draw = np.random.default_rng(0)
    return [draw.normal(2.0, 3.0, (size, 4)).astype("float32") for _ in range(count)]


def model_of(*layers):
    return keras.Sequential([keras.Input((4,)), *layers])


@pytest.mark.parametrize("layer", LAYERS)
def test_algorithm_2_averages_the_moments_of_the_batches(layer):
    model, data = model_of(layer()), batches()
    movements = estimate(model, data)
    mean = np.mean([batch.mean(0) for batch in data], axis=0)
    variance = 5 / 4 * np.mean([batch.var(0) for batch in data], axis=0)
    estimated = model.layers[0]
    np.testing.assert_allclose(estimated.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(estimated.moving_variance, variance, rtol=1e-5)
    movement = movements[estimated.path]
    expected = np.max(np.abs(mean) / np.sqrt(variance + 1e-3))
    np.testing.assert_allclose(movement.mean, expected, rtol=1e-5)
    expected = np.max(np.abs(np.log((variance + 1e-3) / (1 + 1e-3))))
    np.testing.assert_allclose(movement.log_variance, expected, rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_earlier_layers_normalize_by_the_batch_during_the_estimation(layer):
    model = model_of(layer(epsilon=1e-3), keras.layers.Dropout(0.9), layer())
    data = batches()
    estimate(model, data)
    variance = 5 / 4 * np.mean([b.var(0) / (b.var(0) + 1e-3) for b in data], axis=0)
    np.testing.assert_allclose(model.layers[2].moving_mean, 0, atol=1e-5)
    np.testing.assert_allclose(model.layers[2].moving_variance, variance, rtol=1e-5)


def test_trainable_weights_and_the_layers_themselves_do_not_change():
    model = model_of(keras.layers.Dense(4), BatchNormalization(momentum=0.9))
    before = model.get_weights()
    estimate(model, batches())
    after = model.get_weights()
    for old, new in zip(before[:4], after[:4], strict=True):
        np.testing.assert_array_equal(old, new)
    assert "call" not in vars(model.layers[1])
    values = batches(1)[0]
    layer, inputs = model.layers[1], np.asarray(model.layers[0](values))
    expected = (inputs - layer.moving_mean) / np.sqrt(layer.moving_variance + 1e-3)
    np.testing.assert_allclose(model(values), expected, atol=1e-5)


def test_nested_layers_are_estimated_and_frozen_layers_are_not():
    frozen = BatchNormalization(trainable=False)
    model = model_of(keras.Sequential([BatchNormalization()]), frozen)
    movements = estimate(model, batches())
    assert list(movements) == [model.layers[0].layers[0].path]
    np.testing.assert_array_equal(frozen.moving_variance, 1)


def test_data_may_be_an_array_or_batches_with_labels():
    values = batches(1, size=12)[0]
    models = [model_of(BatchNormalization()) for _ in range(2)]
    estimate(models[0], values)
    estimate(models[1], [(values, np.zeros(12))])
    for weight, expected in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_only_the_given_number_of_batches_is_used():
    data = batches()
    model = model_of(BatchNormalization())
    estimate(model, data, steps=1)
    np.testing.assert_allclose(model.layers[0].moving_mean, data[0].mean(0), rtol=1e-5)


def test_an_interrupted_estimation_restores_the_statistics():
    model = model_of(BatchNormalization())

    def interrupt():
        yield batches(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate(model, interrupt())
    np.testing.assert_array_equal(model.layers[0].moving_mean, 0)
    np.testing.assert_array_equal(model.layers[0].moving_variance, 1)
    assert "call" not in vars(model.layers[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_pooled_methods_do_not_depend_on_the_size_of_the_batches(layer, method):
    values = np.concatenate(batches())
    model = model_of(layer())
    estimate(model, [values[:2], values[2:5], values[5:]], method=method)
    estimated, pooled = model.layers[0], values.astype(np.float64)
    for statistic, expected in (
        (estimated.moving_mean, pooled.mean(0)),
        (estimated.moving_variance, pooled.var(0, ddof=1)),
    ):
        is_equal = np.allclose(statistic, expected, rtol=1e-5)
        assert is_equal == (method != "algorithm2")


def test_layerwise_estimates_each_layer_on_its_inputs_of_inference():
    model = model_of(BatchNormalization(), keras.layers.ReLU(), BatchNormalization())
    data = batches()
    estimate(model, data, method="layerwise")
    first, _, second = model.layers
    values = np.concatenate(data).astype(np.float64)
    deviation = np.sqrt(values.var(0, ddof=1) + 1e-3)
    hidden = np.maximum((values - values.mean(0)) / deviation, 0)
    np.testing.assert_allclose(first.moving_mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(second.moving_mean, hidden.mean(0), rtol=1e-4)
    np.testing.assert_allclose(second.moving_variance, hidden.var(0, ddof=1), rtol=1e-4)


def test_layerwise_is_an_error_for_data_that_can_be_read_only_once():
    with pytest.raises(ValueError, match="must be readable once for each layer"):
        estimate(model_of(BatchNormalization()), iter(batches()), method="layerwise")


def test_layers_of_equal_names_in_two_models_are_estimated_separately():
    def tower(name):
        inputs = keras.Input((1,))
        return keras.Model(inputs, BatchNormalization(name="bn")(inputs), name=name)

    left, right = keras.Input((1,)), keras.Input((1,))
    towers = [tower("left"), tower("right")]
    outputs = keras.layers.Concatenate()([towers[0](left), towers[1](right)])
    near, far = batches()[0][:, :1], batches()[0][:, :1] + 100
    movements = estimate(keras.Model([left, right], outputs), [([near, far], None)])
    assert set(movements) == {"bn", "bn (2)"}
    for model, values in zip(towers, (near, far), strict=True):
        np.testing.assert_allclose(
            model.get_layer("bn").moving_mean, values.mean(0), rtol=1e-5
        )


def test_a_layer_called_twice_counts_each_call_as_a_mini_batch():
    left, right = keras.Input((4,)), keras.Input((4,))
    shared = BatchNormalization()
    model = keras.Model([left, right], [shared(left), shared(right)])
    first, second = batches(2)
    estimate(model, [([first, second + 10], None)])
    expected = (first.mean(0) + second.mean(0) + 10) / 2
    np.testing.assert_allclose(shared.moving_mean, expected, rtol=1e-5)
    expected = 5 / 4 * (first.var(0) + second.var(0)) / 2
    np.testing.assert_allclose(shared.moving_variance, expected, rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_masked_time_steps_are_ignored(layer):
    model = keras.Sequential(
        [keras.Input((6, 3)), keras.layers.Masking(mask_value=0.0), layer()]
    )
    values = np.random.default_rng(0).normal(5, 1, (4, 6, 3)).astype("float32")
    values[:, 4:] = 0
    estimate(model, [values], method="pooled")
    unmasked = values[:, :4].reshape(-1, 3).astype(np.float64)
    estimated, variance = model.layers[-1], unmasked.var(0, ddof=1)
    np.testing.assert_allclose(estimated.moving_mean, unmasked.mean(0), rtol=1e-5)
    np.testing.assert_allclose(estimated.moving_variance, variance, rtol=1e-4)


def test_channels_without_values_keep_their_statistics():
    layer = BatchNormalization(axis=(1, 2))
    model = keras.Sequential(
        [keras.Input((2, 3)), keras.layers.Masking(mask_value=0.0), layer]
    )
    values = np.random.default_rng(0).normal(5, 1, (4, 2, 3)).astype("float32")
    values[:3, 1] = 0
    estimate(model, [values])
    np.testing.assert_allclose(layer.moving_mean[0], values[:, 0].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean[1], 0)
    np.testing.assert_array_equal(layer.moving_variance[1], 1)


def test_a_batch_of_nan_is_ignored():
    data = batches(2)
    model = model_of(BatchNormalization())
    estimate(model, [data[0], np.full((5, 4), np.nan, "float32"), data[1]])
    expected = np.mean([batch.mean(0) for batch in data], axis=0)
    np.testing.assert_allclose(model.layers[0].moving_mean, expected, rtol=1e-5)


def test_the_deviation_of_a_renormalizing_layer_is_estimated_too():
    layer = BatchNormalization(renorm=True)
    model, data = model_of(layer), batches(1)
    estimate(model, data)
    np.testing.assert_allclose(
        np.square(layer.moving_stddev) - 1e-3, layer.moving_variance, rtol=1e-5
    )


@pytest.mark.parametrize("averaging", ["cumulative", "debiased"])
def test_the_estimate_keeps_its_weight_in_further_training(averaging):
    layer = BatchNormalization(averaging=averaging)
    data = batches()
    estimate(model_of(layer), data)
    np.testing.assert_array_equal(layer.updates, 3)
    estimated_mean = np.asarray(layer.moving_mean)
    layer(np.array([[100.0] * 4, [102.0] * 4], "float32"), training=True)
    weight = 1 / 4 if averaging == "cumulative" else 0.01 / (1 - 0.99**4)
    expected = estimated_mean + (101 - estimated_mean) * weight
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-5)


def test_statistics_that_overflow_are_an_error_and_change_nothing():
    layer = keras.layers.BatchNormalization(dtype="float16")
    model = model_of(layer)
    with pytest.raises(ValueError, match=r"finite in float16\. Received: layer"):
        estimate(model, [1000 * batches(1)[0]])
    np.testing.assert_array_equal(layer.moving_variance, 1)


def test_a_tuple_is_not_mistaken_for_two_mini_batches():
    with pytest.raises(
        ValueError, match=r"Received: a single tuple\. Pass it in a list"
    ):
        estimate(model_of(BatchNormalization()), (batches(1)[0], np.zeros(5)))


def test_a_model_adapts_to_a_shifted_and_scaled_domain():
    model = model_of(BatchNormalization())
    values = batches(1, size=100)[0]
    estimate(model, [values])
    outputs = np.asarray(model(values))
    movements = estimate(model, [3 * values + 7])
    (movement,) = movements.values()
    assert movement.mean > 1
    np.testing.assert_allclose(movement.log_variance, np.log(9), rtol=1e-3)
    # Except for epsilon, the normalized values are those of the old domain.
    np.testing.assert_allclose(model(3 * values + 7), outputs, atol=1e-3)


def test_progress_is_shown(capsys):
    model = model_of(BatchNormalization())
    bn_keras.estimate_population_statistics(model, batches(), verbose=1)
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "best"}, "algorithm2, pooled, layerwise. Received: method='best'"),
        ({"steps": 0}, "at least 1. Received: steps=0"),
        ({"steps": 2.5}, "at least 1. Received: steps=2.5"),
    ],
)
def test_the_error_for_a_wrong_argument_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate(model_of(BatchNormalization()), batches(), **arguments)


def test_too_few_values_are_an_error_and_change_nothing():
    data = [np.ones((1, 4), "float32")]
    model = model_of(BatchNormalization())
    with pytest.raises(
        ValueError, match=r"two finite values or more .* Received: none"
    ):
        estimate(model, data)
    np.testing.assert_array_equal(model.layers[0].moving_variance, 1)


@pytest.mark.parametrize(
    "layer", [keras.layers.Dense(2), BatchNormalization(trainable=False)]
)
def test_a_model_without_a_trainable_layer_is_an_error(layer):
    with pytest.raises(
        ValueError, match=r"not frozen\. Received: Sequential .* without one"
    ):
        estimate(model_of(layer), batches())
