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
@pytest.mark.parametrize(
    "to", [keras.layers.LayerNormalization, "group", None, np.zeros(2), KERAS()]
)
def test_another_class_is_an_error(to):
    model = keras.Sequential([keras.Input((4,)), KERAS()])
    with pytest.raises(ValueError, match=r"or 'affine'\. Received: to="):
        replace_batch_normalization(model, to=to)


@pytest.mark.fast
def test_an_unknown_argument_is_an_error():
    model = keras.Sequential([keras.Input((4,)), KERAS()])
    with pytest.raises(
        ValueError, match=r"BatchNormalization\. Received: ghost, groups"
    ):
        replace_batch_normalization(model, ghost=2, groups=1)
    with pytest.raises(ValueError, match=r"affine\. Received: epsilon"):
        replace_batch_normalization(model, to="affine", epsilon=1e-3)
    # With another axis of the same size it would normalize something else.
    for name in ("axis", "name"):
        with pytest.raises(ValueError, match=f"Received: {name}. `axis` and `name`"):
            replace_batch_normalization(model, **{name: 1})


@pytest.mark.fast
@pytest.mark.parametrize(
    ("to", "arguments"),
    [
        (keras.layers.GroupNormalization, {"groups": 4}),
        (keras.layers.GroupNormalization, {"groups": "2"}),
        (BatchNormalization, {"momentum": "0.9"}),
        (KERAS, {"epsilon": 1e-3, "beta_initializer": "none"}),
    ],
)
def test_the_layer_that_an_argument_does_not_suit_is_named(to, arguments):
    inner = keras.Sequential([keras.Input((6,)), KERAS(name="six")], name="inner")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, inner(inputs))
    with pytest.raises(ValueError, match=r"Received: '.*six' of shape \(None, 6\)"):
        replace_batch_normalization(model, to=to, **arguments)


@pytest.mark.fast
@pytest.mark.parametrize(
    "model", [keras.Sequential([KERAS()]), keras.Sequential([keras.layers.ReLU()])]
)
def test_a_model_that_is_not_built_is_an_error(model):
    with pytest.raises(ValueError, match=r"must be built\. Received: "):
        replace_batch_normalization(model)


class Recurrent(keras.layers.Layer):
    """A cell of an RNN with batch normalization inside."""

    def __init__(self, normalization, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)
        self.blocks = {"bn": [normalization]}
        self.state_size = self.output_size = 3

    def build(self, shape):
        self.dense.build((shape[0], shape[-1] + 3))
        self.blocks["bn"][0].build((shape[0], 3))

    def call(self, x, states, training=None):
        joined = keras.ops.concatenate([x, states[0]], -1)
        y = keras.ops.tanh(self.blocks["bn"][0](self.dense(joined)))
        return y, [y]


class Doubling(keras.Model):
    """A Functional subclass with its own arguments, layers and training step."""

    def __init__(self, normalization, factor):
        inputs = keras.Input((5, 3))
        x = keras.layers.Lambda(lambda x: x * factor)(inputs)
        x = keras.layers.TimeDistributed(normalization())(x)
        x = keras.layers.RNN(Recurrent(normalization()), return_sequences=True)(x)
        x = keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True))(x)
        super().__init__(inputs, keras.layers.Dense(3)(normalization()(x)))
        self.factor = factor
        self.extra = normalization()
        self.extra.build((None, 5, 3))
        self.steps = 0

    def train_step(self, data):
        self.steps += 1
        self.extra(data[0], training=True)
        return {"loss": keras.ops.sum(data[0])}


class Subclassed(keras.Model):
    """A model whose own code calls its layers."""

    def __init__(self, normalization):
        super().__init__()
        self.inner = Doubling(normalization, 2.0)
        self.tower = [keras.layers.Dense(3), normalization()]

    def call(self, x, training=None):
        x = self.inner(x, training=training)
        for layer in self.tower:
            x = layer(x)
        return x


def roughen(model):
    draw = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" not in variable.path:
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))


@pytest.mark.parametrize("to", [BatchNormalization, "affine"])
@pytest.mark.parametrize("make", [Subclassed, lambda bn: Doubling(bn, 2.0)])
def test_models_with_their_own_code_keep_it(make, to):
    model, x = make(KERAS), np.random.default_rng(1).random((4, 5, 3), "float32")
    model(x)
    roughen(model)
    replaced = replace_batch_normalization(model, to=to)
    assert type(replaced) is type(model)
    np.testing.assert_allclose(replaced(x), model(x), atol=1e-5)
    assert not {id(v) for v in replaced.variables} & {id(v) for v in model.variables}
    kinds = {type(layer) for layer in replaced._flatten_layers()}
    assert KERAS not in kinds
    if to == "affine":
        assert len(replaced.trainable_variables) == len(
            model.trainable_variables
        ) - 2 * (len(batch_normalizations(model)))
    inner = getattr(replaced, "inner", replaced)
    assert inner.factor == 2.0
    if to != "affine":
        assert len(batch_normalizations(replaced)) == len(batch_normalizations(model))
        inner.compile(run_eagerly=True)
        inner.fit(x, x, verbose=0, batch_size=4)
        assert inner.steps == 1
        original = getattr(model, "inner", model).extra
        assert np.abs(inner.extra.moving_mean - original.moving_mean).min() > 0
    # Trained, the copy does not change the original.
    before = model.get_weights()
    replaced(x, training=True)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_compiled_model_with_functions_is_compiled_again():
    def own_loss(y, prediction):
        return keras.ops.mean((y - prediction) ** 2, -1)

    model = model_of(KERAS)
    model.compile(keras.optimizers.Adam(0.5), own_loss, metrics={"scores": ["mae"]})
    y = {"scores": np.ones((9, 2), "float32"), "hidden": values(3)}
    model.fit(values(1), y, verbose=0)
    replaced = replace_batch_normalization(model)
    assert replaced.compiled
    assert replaced.optimizer is not model.optimizer
    assert float(replaced.optimizer.learning_rate) == 0.5
    expected = model.evaluate(values(2), y, verbose=0, return_dict=True)
    results = replaced.evaluate(values(2), y, verbose=0, return_dict=True)
    assert results == pytest.approx(expected, rel=1e-4)


@pytest.mark.fast
def test_subclasses_are_replaced_or_named():
    class Named(KERAS):
        def __init__(self, momentum=0.5, **kwargs):
            super().__init__(momentum=momentum, **kwargs)

    class Other(KERAS):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training, mask)

    model = keras.Sequential([keras.Input((6,)), Named(name="bn")])
    replaced = replace_batch_normalization(model)
    assert type(replaced.layers[0]) is BatchNormalization
    assert replaced.layers[0].momentum == 0.5
    model = keras.Sequential([keras.Input((6,)), Other(name="twice")])
    with pytest.raises(ValueError, match=r"twice' of class Other, .* own call"):
        replace_batch_normalization(model)


@pytest.mark.fast
def test_arguments_take_the_place_of_those_of_the_old_layers():
    arguments = {"unbiased": False, "virtual_batch_size": 3, "averaging": "cumulative"}
    model = model_of(KERAS)
    replaced = replace_batch_normalization(model, **arguments)
    again = replace_batch_normalization(
        replaced, synchronized=True, **{"virtual_batch_size": None}
    )
    for layer in batch_normalizations(replaced):
        assert {key: layer.get_config()[key] for key in arguments} == arguments
    assert all(layer.synchronized for layer in batch_normalizations(again))
    for name in ("scores", "hidden"):
        expected = model(values(2))[name]
        np.testing.assert_allclose(again(values(2))[name], expected, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(6, 6), (64, 32), (48, 24), (37, 1)])
def test_group_normalization_has_groups_that_divide_the_channels(channels, groups):
    model = keras.Sequential(
        [keras.Input((4, channels)), keras.layers.Masking(), KERAS(epsilon=1e-2)]
    )
    roughen(model)
    group = keras.layers.GroupNormalization
    replaced = replace_batch_normalization(model, to=group).layers[-1]
    assert type(replaced) is group
    assert (replaced.groups, replaced.epsilon) == (groups, 1e-2)
    np.testing.assert_array_equal(replaced.gamma, model.layers[-1].gamma)
    one = replace_batch_normalization(model, to=group, groups=1)
    assert one.layers[-1].groups == 1
    inputs = keras.Input((4, channels))
    nested = keras.Model(inputs, KERAS()(model(inputs)))  # the call records a mask
    replace_batch_normalization(nested, to=group)(np.ones((2, 4, channels)))


@pytest.mark.fast
def test_unchanged_layers_are_trainable_as_before():
    frozen = keras.layers.Dense(6, trainable=False)
    model = keras.Sequential([keras.Input((6,)), frozen, KERAS(trainable=False)])
    replaced = replace_batch_normalization(model)
    assert [layer.trainable for layer in replaced.layers] == [False, False]
    bn_keras.replace_batch_normalization(replaced, to="affine")
