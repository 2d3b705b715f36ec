"""Inputs and settings of other people's models: unknown sizes, types, loading."""

import keras
import numpy as np
import pytest
from keras import ops
from normalization_oracle import TENSORFLOW, oracle, tensorflow_only

from bn_keras import BatchNormalization

KERAS = keras.layers.BatchNormalization


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


@tensorflow_only
@pytest.mark.parametrize("arguments", [{}, {"virtual_batch_size": 2}], ids=str)
@pytest.mark.parametrize(
    "shape", [(None, 4, None), (None, None, None), (4, None, 3)], ids=str
)
def test_sizes_that_are_known_only_at_run_time(shape, arguments):
    import tensorflow as tf

    layer = BatchNormalization(momentum=0.0, **arguments)
    layer.build((None, 4, 3))
    x = draw((4, 4, 3))

    @tf.function(input_signature=[tf.TensorSpec(shape)])
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x, x), layer(x)

    outputs, gradient, inferred = step(x)
    parts = [x] if not arguments else [x[:2], x[2:]]
    expected = [
        oracle(part, np.ones((1, 1, 3)), np.zeros((1, 1, 3)), part, (0, 1), 1e-3)
        for part in parts
    ]
    np.testing.assert_allclose(
        outputs, np.concatenate([e.outputs for e in expected]), atol=1e-5
    )
    np.testing.assert_allclose(
        gradient, np.concatenate([e.inputs_gradient for e in expected]), atol=1e-4
    )
    assert inferred.shape == x.shape
    if shape[-1] is None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            step(draw((4, 4, 5)))  # another number of channels than the weights


@tensorflow_only
def test_a_model_trains_on_a_generator_without_static_sizes():
    import tensorflow as tf

    def generate():
        yield draw((8, 4, 3)), draw((8, 4, 3))

    data = tf.data.Dataset.from_generator(
        generate, output_signature=(tf.TensorSpec((None, None, None)),) * 2
    )
    model = keras.Sequential([BatchNormalization()])
    model.build((None, 4, 3))
    model.compile("sgd", "mse")
    model.fit(data.repeat(), steps_per_epoch=1, verbose=0, shuffle=False)
    assert np.abs(model.layers[0].moving_mean).min() > 0


@pytest.mark.fast
def test_integers_and_numbers_of_numpy_are_accepted():
    layer = BatchNormalization(
        np.int64(-1),
        momentum=np.float32(0.5),
        epsilon=np.float64(1e-3),
        virtual_batch_size=np.int32(2),
    )
    config = layer.get_config()
    assert type(config["virtual_batch_size"]) is int
    assert type(config["momentum"]) is type(config["epsilon"]) is float
    assert BatchNormalization.from_config(config).get_config() == config


@pytest.mark.fast
def test_averaging_cannot_be_changed_after_build():
    layer = BatchNormalization()
    layer.averaging = "debiased"
    layer.build((None, 3))
    layer.averaging = "moving"
    layer(draw((4, 3)), training=True)
    plain = BatchNormalization()
    plain.build((None, 3))
    with pytest.raises(
        ValueError, match=r"Received: averaging='cumulative'\. Use `bn_keras.replace"
    ):
        plain.averaging = "cumulative"
    with pytest.raises(ValueError, match=r"Received: averaging='mean'"):
        plain.averaging = "mean"


@pytest.mark.parametrize("file", ["keras.weights.h5", "ours.weights.h5"])
def test_weights_without_a_number_of_updates_load(file, tmp_path):
    source = KERAS() if file.startswith("keras") else BatchNormalization()
    saved = keras.Sequential([keras.Input((3,)), source], name="model")
    source(draw((5, 3)), training=True)
    saved.save_weights(tmp_path / file)
    layer = BatchNormalization(averaging="cumulative")
    model = keras.Sequential([keras.Input((3,)), layer], name="model")
    layer.updates.assign(ops.ones(3))
    model.load_weights(tmp_path / file)
    np.testing.assert_array_equal(layer.moving_mean, source.moving_mean)
    np.testing.assert_array_equal(layer.updates, 0)


@pytest.mark.fast
@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_gamma_and_beta_follow_a_pure_policy_and_statistics_are_float32(policy):
    layer, peer = BatchNormalization(dtype=policy), KERAS(dtype=policy)
    for each in (layer, peer):
        each.build((None, 3))
    for weight, expected in zip(layer.weights[:2], peer.weights[:2], strict=True):
        assert weight.dtype == expected.dtype == policy
    assert {weight.dtype for weight in layer.weights[2:]} == {"float32"}


@pytest.mark.skipif(TENSORFLOW, reason="tests JAX only")
@pytest.mark.parametrize("arguments", [{}, {"averaging": "debiased"}], ids=str)
def test_a_training_step_is_exported_with_a_symbolic_batch(arguments):
    import jax
    from jax import export

    layer = BatchNormalization(**arguments)
    layer.build((None, 4, 3))
    state = [
        [variable.value for variable in group]
        for group in (layer.trainable_variables, layer.non_trainable_variables)
    ]

    def step(x):
        return layer.stateless_call(*state, x, training=True)

    (batch,) = export.symbolic_shape("batch")
    spec = jax.ShapeDtypeStruct((batch, 4, 3), "float32")
    exported = export.export(jax.jit(step))(spec)
    x = draw((5, 4, 3))
    outputs, statistics = exported.call(x)
    expected, expected_statistics = step(x)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for value, expected in zip(statistics, expected_statistics, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.skipif(TENSORFLOW, reason="tests JAX only")
def test_gradients_flow_through_the_new_moving_statistics_on_jax():
    # As a loss of model inversion needs it: the distance of the batch's statistics from
    # the stored ones.
    import jax

    layer = BatchNormalization(momentum=0.0, unbiased=False)
    layer.build((None, 3))
    state = [
        [variable.value for variable in group]
        for group in (layer.trainable_variables, layer.non_trainable_variables)
    ]

    def loss(x):
        mean, variance = layer.stateless_call(*state, x, training=True)[1]
        return ops.sum(mean) + ops.sum(variance)

    x = draw((5, 3))
    expected = 1 / 5 + 2 * (x - x.mean(0)) / 5
    np.testing.assert_allclose(jax.grad(loss)(x), expected, atol=1e-6)
