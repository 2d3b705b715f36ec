"""Layers inside `TimeDistributed`, tables and shared dense layers fold."""

import keras
import numpy as np
import pytest
from folding_checks import chain, fold_and_compare, inputs_of, roughen
from keras import layers

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization

FRAMES, STEPS = (3, 6, 7, 2), (3, 5)


def spread(layer):
    return layers.TimeDistributed(layer)


LINEAR = {
    "dense": (STEPS, lambda: layers.Dense(4)),
    "convolution": (FRAMES, lambda: layers.Conv2D(4, 3, padding="same")),
    "depthwise": (FRAMES, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "separable": (FRAMES, lambda: layers.SeparableConv2D(4, 3)),
    "transposed": (FRAMES, lambda: layers.Conv2DTranspose(4, 3)),
    "einsum": ((3, 5, 4), lambda: layers.EinsumDense("btx,xy->bty", (None, 3))),
}


@pytest.mark.parametrize("name", LINEAR)
def test_normalization_after_a_layer_at_each_step_folds_into_it(name):
    shape, make = LINEAR[name]
    model = chain(shape, spread(make()), BatchNormalization(), layers.ReLU())
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    inner = type(model.layers[1].layer).__name__
    assert result.report.entries[0].rule == f"TimeDistributed({inner}), then BN"


@pytest.mark.parametrize("name", sorted(set(LINEAR) - {"transposed", "convolution"}))
def test_normalization_before_a_layer_at_each_step_folds_into_it(name):
    shape, make = LINEAR[name]
    model = chain(shape, layers.ReLU(), BatchNormalization(), spread(make()))
    fold_and_compare(model, 1e-5, folded=1, left=0)


def test_normalization_along_the_steps_is_a_multiply_add():
    model = chain(STEPS, spread(layers.Dense(4)), BatchNormalization(axis=1))
    result = fold_and_compare(model, 1e-5, folded=0, left=1)
    assert "varies along the steps" in result.report.entries[0].reason


@pytest.mark.parametrize("kind", [BatchNormalization, layers.BatchNormalization])
def test_normalization_at_each_step_folds(kind):
    model = chain(FRAMES, layers.Conv3D(4, 1), spread(kind(name="bn")), layers.ReLU())
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    assert result.report.entries[0].rule == "Conv3D, then BN"
    model = chain(FRAMES, spread(layers.Conv2D(4, 1)), spread(kind()), layers.ReLU())
    fold_and_compare(model, 1e-5, folded=1, left=0)
    model = chain(FRAMES, layers.ReLU(), spread(kind(axis=1)), layers.ReLU())
    fold_and_compare(model, 1e-5, folded=0, left=1)


def test_a_model_at_each_step_is_folded():
    start = keras.Input(FRAMES[1:])
    x = BatchNormalization(name="one")(layers.Conv2D(4, 3, name="conv")(start))
    x = BatchNormalization(name="two")(layers.ReLU()(x))
    inner = keras.Model(start, layers.GlobalAveragePooling2D()(x), name="frame")
    model = chain(FRAMES, layers.TimeDistributed(inner, name="each"), layers.LSTM(3))
    result = fold_and_compare(model, 1e-5, folded=1, left=1)
    assert [(x.layer, x.outcome, x.into) for x in result.report.entries] == [
        ("each/frame/one", "folded", ("each/frame/conv",)),
        ("each/frame/two", "multiply-add", ()),
    ]


def test_a_wrapper_does_not_share_its_layer_with_the_original():
    model = chain(STEPS, spread(layers.Dense(4)), BatchNormalization())
    folded = fold_batch_normalization(model).model
    inputs = inputs_of(model)
    before = np.array(folded(inputs))
    for variable in model.variables:
        variable.assign(variable * 2)
    np.testing.assert_array_equal(folded(inputs), before)


def test_normalization_of_embeddings_changes_the_table():
    model = chain(
        (6,),
        layers.Embedding(4, 5),
        layers.Dropout(0.5),
        BatchNormalization(),
        layers.ReLU(),
        dtype="int32",
    )
    result = fold_and_compare(model, 1e-5, folded=1, left=0)
    assert result.report.entries[0].rule == "Embedding, Dropout, then BN"
    table, normalization = model.layers[1], model.layers[3]
    deviation = np.sqrt(np.array(normalization.moving_variance, "float64") + 1e-3)
    expected = np.array(table.embeddings, "float64") - normalization.moving_mean
    expected = expected / deviation * normalization.gamma + normalization.beta
    folded = np.array(result.model.layers[1].embeddings)
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-6)


def test_normalization_along_the_tokens_of_embeddings_is_a_multiply_add():
    model = chain(
        (6,), layers.Embedding(4, 5), BatchNormalization(axis=1), dtype="int32"
    )
    fold_and_compare(model, 1e-5, folded=0, left=1)


@pytest.mark.parametrize("readers", [2, 3])
def test_a_dense_layer_that_several_normalizations_read_is_copied_for_each(readers):
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="dense")(inputs)
    outputs = [layers.ReLU()(BatchNormalization()(x)) for _ in range(readers)]
    model = roughen(keras.Model(inputs, outputs))
    result = fold_and_compare(model, 1e-5, folded=readers, left=0)
    dense = [x for x in result.model.layers if isinstance(x, layers.Dense)]
    assert len(dense) == readers


def test_a_convolution_that_several_normalizations_read_is_not_copied():
    inputs = keras.Input((6, 7, 2))
    x = layers.Conv2D(3, 3)(inputs)
    outputs = [layers.ReLU()(BatchNormalization()(x)) for _ in range(2)]
    model = roughen(keras.Model(inputs, outputs))
    result = fold_and_compare(model, 1e-5, folded=0, left=2)
    assert "is also used elsewhere" in result.report.entries[0].reason


def test_a_dense_layer_is_copied_only_if_every_reader_is_a_normalization():
    inputs = keras.Input((4,))
    x = layers.Dense(3)(inputs)
    outputs = [BatchNormalization()(x), BatchNormalization()(x), layers.ReLU()(x)]
    fold_and_compare(roughen(keras.Model(inputs, outputs)), 1e-5, folded=0, left=2)


FORMULAS = {
    "step": (lambda y, z, x: spread(y)(x), lambda y, z: y),
    "difference": (
        lambda y, z, x: layers.Subtract()([y(x), z(x)]),
        lambda y, z: y - z,
    ),
    "average": (
        lambda y, z, x: layers.Average()([y(x), z(x)]),
        lambda y, z: (y + z) / 2,
    ),
    "constants": (
        lambda y, z, x: layers.Rescaling(0.5, 3.0)(2.0 - y(x)),
        lambda y, z: (2 - y) / 2 + 3,
    ),
    "mean": (lambda y, z, x: keras.ops.mean(y(x), axis=1), lambda y, z: y.mean(1)),
    "repeated": (
        lambda y, z, x: layers.RepeatVector(3)(y(x[:, 0])),
        lambda y, z: np.repeat(y[:, :1], 3, axis=1),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_folded_model_agrees_with_numpy_in_float64(name):
    merge, formula = FORMULAS[name]
    dense = layers.Dense(2), layers.Dense(2)
    normalization = BatchNormalization(epsilon=0.5)
    inputs = keras.Input((3, 4))
    outputs = layers.Activation("tanh")(normalization(merge(*dense, inputs)))
    model = roughen(keras.Model(inputs, outputs), wide=False)
    result = fold_batch_normalization(model)
    assert (result.report.folded, result.report.left) == (1, 0)
    x = np.random.default_rng(0).normal(size=(5, 3, 4))
    linear = [
        x @ np.asarray(layer.kernel, "float64") + np.asarray(layer.bias, "float64")
        for layer in dense
        if layer.built
    ]
    gamma, beta, mean, variance = (
        x.astype("float64") for x in normalization.get_weights()[:4]
    )
    expected = formula(linear[0], linear[-1])
    expected = (expected - mean) / np.sqrt(variance + 0.5) * gamma + beta
    actual = result.model(x.astype("float32"))
    np.testing.assert_allclose(actual, np.tanh(expected), atol=1e-5)
