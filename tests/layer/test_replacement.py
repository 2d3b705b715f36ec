"""Replacement of layers in either direction: names, weights and outputs stay."""

import keras
import numpy as np
import pytest

import bn_keras
from bn_keras import BatchNormalization, replace_batch_normalization

KERAS = keras.layers.BatchNormalization


def model_of(layer):
    """Return a model with a nested model, a shared layer and two outputs."""
    keras.utils.set_random_seed(0)
    block = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(6), layer(momentum=0.5, name="inner")]
    )
    inputs = keras.Input((6,), name="features")
    shared = layer(scale=False, epsilon=1e-2, name="shared")
    hidden = shared(block(inputs)) + shared(inputs)
    outputs = keras.layers.Dense(2, name="scores")(keras.ops.relu(hidden))
    model = keras.Model(inputs, {"scores": outputs, "hidden": hidden})
    model(values(1), training=True)
    return model


def values(seed):
    return np.random.default_rng(seed).normal(1, 2, (9, 6)).astype("float32")


def batch_normalizations(model):
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, BatchNormalization | KERAS)
    ]


@pytest.mark.parametrize(
    ("source", "to"), [(KERAS, BatchNormalization), (BatchNormalization, KERAS)]
)
def test_every_layer_is_replaced_and_the_outputs_are_equal(source, to):
    model = model_of(source)
    replaced = replace_batch_normalization(model, to=to)
    layers = batch_normalizations(replaced)
    assert [type(layer) for layer in layers] == [to, to]
    assert {layer.name for layer in layers} == {"inner", "shared"}
    assert [layer.epsilon for layer in layers if layer.name == "shared"] == [1e-2]
    for training in (False, True):
        expected = model(values(2), training=training)
        outputs = replaced(values(2), training=training)
        for name in ("scores", "hidden"):
            np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)
    assert not {id(v) for v in replaced.variables} & {id(v) for v in model.variables}


def test_replacing_twice_restores_configuration_and_weights():
    model = model_of(KERAS)
    back = replace_batch_normalization(replace_batch_normalization(model), to=KERAS)
    for weight, expected in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    for layer, original in zip(
        batch_normalizations(back), batch_normalizations(model), strict=True
    ):
        assert layer.get_config() == original.get_config()


@pytest.mark.fast
def test_the_number_of_updates_is_dropped_for_keras_layer():
    model = keras.Sequential(
        [keras.Input((6,)), BatchNormalization(averaging="cumulative")]
    )
    model(values(1), training=True)
    replaced = replace_batch_normalization(model, to=KERAS)
    np.testing.assert_allclose(replaced(values(2)), model(values(2)), atol=1e-5)


@pytest.mark.fast
def test_layers_with_their_own_way_of_saving_keep_their_state():
    adapted = keras.layers.Normalization()
    adapted.adapt(values(3))
    model = keras.Sequential([keras.Input((6,)), adapted, KERAS()])
    replaced = replace_batch_normalization(model)
    np.testing.assert_allclose(replaced(values(2)), model(values(2)), atol=1e-5)


def test_a_network_of_keras_applications_is_replaced():
    model = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), weights=None, alpha=0.35, classes=3
    )
    replaced = replace_batch_normalization(model)
    assert {type(layer) for layer in batch_normalizations(replaced)} == {
        BatchNormalization
    }
    images = np.random.default_rng(0).random((2, 32, 32, 3), dtype="float32")
    np.testing.assert_allclose(replaced(images), model(images), atol=1e-6)


@pytest.mark.fast
def test_several_axes_are_an_error_for_keras_layer():
    model = keras.Sequential([keras.Input((4, 4)), BatchNormalization((1, 2))])
    with pytest.raises(
        ValueError, match=r"one axis\. Received: layer .* axis=\(1, 2\)"
    ):
        replace_batch_normalization(model, to=KERAS)


@pytest.mark.fast
def test_a_layer_inside_a_wrapper_is_an_error():
    wrapped = keras.layers.TimeDistributed(KERAS())
    model = keras.Sequential([keras.Input((4, 4)), wrapped])
    with pytest.raises(ValueError, match="inside a wrapper"):
        replace_batch_normalization(model)


@pytest.mark.fast
def test_another_class_is_an_error():
    model = keras.Sequential([keras.Input((4,)), KERAS()])
    with pytest.raises(ValueError, match=r"Received: to=<class .*LayerNormalization"):
        replace_batch_normalization(model, to=keras.layers.LayerNormalization)


@pytest.mark.fast
def test_a_subclassed_model_is_an_error():
    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="only supported for Sequential models"):
        bn_keras.replace_batch_normalization(Own())
