"""Keras' conventions: what a user of Keras' layer may expect of this layer."""

import keras
import numpy as np
import pytest
from keras import ops
from normalization_oracle import TENSORFLOW, layer_gradients, tensorflow_only

from bn_keras import BatchNormalization

KERAS = keras.layers.BatchNormalization

# Every argument of Keras' layer, with values that are not the defaults.
EVERY_ARGUMENT = {
    "axis": 1,
    "momentum": 0.7,
    "epsilon": 1e-2,
    "center": True,
    "scale": True,
    "beta_initializer": keras.initializers.RandomNormal(seed=1),
    "gamma_initializer": keras.initializers.RandomUniform(0.5, 2.0, seed=2),
    "moving_mean_initializer": keras.initializers.Constant(0.3),
    "moving_variance_initializer": keras.initializers.Constant(2.0),
    "beta_regularizer": keras.regularizers.L1(0.1),
    "gamma_regularizer": keras.regularizers.L2(0.2),
    "beta_constraint": keras.constraints.MaxNorm(3.0),
    "gamma_constraint": keras.constraints.NonNeg(),
    "renorm": True,
    "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0},
    "renorm_momentum": 0.8,
    "name": "a_name",
    "dtype": "mixed_float16",
    "trainable": False,
}
if TENSORFLOW:
    EVERY_ARGUMENT["synchronized"] = True


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


def model_of(*layers, shape=(6, 3)):
    return keras.Sequential([keras.Input(shape), *layers])


@pytest.mark.fast
@pytest.mark.parametrize("arguments", [{}, EVERY_ARGUMENT], ids=["defaults", "every"])
def test_the_configuration_of_keras_layer_builds_this_layer(arguments):
    keras_layer = KERAS(**arguments)
    config = keras_layer.get_config()
    layer = BatchNormalization.from_config(config)
    assert {name: layer.get_config()[name] for name in config} == config
    copy = BatchNormalization.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    keras_layer.build((None, 3, 5))
    layer.build((None, 3, 5))
    weights, keras_weights = (
        [(w.name, tuple(w.shape), w.dtype, w.trainable) for w in built.weights]
        for built in (layer, keras_layer)
    )
    assert weights == keras_weights
    for weight, keras_weight in zip(layer.weights, keras_layer.weights, strict=True):
        np.testing.assert_allclose(weight, keras_weight, rtol=1e-6)


@pytest.mark.fast
def test_arguments_that_keras_does_not_have_are_in_the_configuration():
    arguments = {
        "axis": (1, 2),
        "unbiased": False,
        "averaging": "debiased",
        "virtual_batch_size": 4,
        "frozen_statistics": True,
    }
    config = BatchNormalization(**arguments).get_config()
    layer = BatchNormalization.from_config(config)
    for name, value in arguments.items():
        assert getattr(layer, name) == value


@pytest.mark.parametrize("regularized", ["gamma", "beta"])
def test_regularizers_and_constraints_are_applied(regularized):
    arguments = {
        f"{regularized}_initializer": keras.initializers.Constant(2.0),
        f"{regularized}_regularizer": keras.regularizers.L1(0.5),
        f"{regularized}_constraint": keras.constraints.MaxNorm(1.0, axis=0),
    }
    layer = BatchNormalization(**arguments)
    model = model_of(layer)
    assert float(sum(model.losses)) == pytest.approx(3.0)
    model.compile("sgd", "mse")
    model.fit(draw((8, 6, 3)), draw((8, 6, 3)), verbose=0)
    assert np.linalg.norm(getattr(layer, regularized)) <= 1 + 1e-6


@pytest.mark.fast
@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 3), -1), ((4, 6, 5, 3), -1), ((4, 3, 6), 1)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_gradients_and_statistics_are_those_of_keras_layer(shape, axis, masked):
    arguments = {"axis": axis, "momentum": 0.7, "epsilon": 1e-2}
    keras_layer = KERAS(**arguments)
    layer = BatchNormalization(unbiased=False, **arguments)
    weights = np.random.default_rng(5).uniform(0.5, 2, (4, 3))
    for built in (layer, keras_layer):
        built.build(shape)
        built.set_weights(weights)
    mask = np.random.default_rng(6).random(shape[:-1]) < 0.8 if masked else None
    for step in range(3):
        x, cotangent = draw(shape, step), draw(shape, 10 + step)
        np.testing.assert_allclose(layer(x), keras_layer(x), atol=1e-5)
        values, keras_values = (
            layer_gradients(called, x, cotangent, mask=mask)
            for called in (layer, keras_layer)
        )
        for value, expected in zip(values, keras_values, strict=True):
            np.testing.assert_allclose(value, expected, atol=3e-5)
        for weight, expected in zip(layer.weights, keras_layer.weights, strict=True):
            np.testing.assert_allclose(weight, expected, rtol=2e-5, err_msg=weight.name)


@pytest.mark.fast
# JAX has no float64 unless asked for.
@pytest.mark.parametrize(
    "dtype", ["float32", "mixed_float16", *(["float64"] if TENSORFLOW else [])]
)
@pytest.mark.parametrize("axis", [-1, 1, (1, 2), (1, 2, 3)])
def test_a_symbolic_call_has_a_shape_and_a_dtype(axis, dtype):
    layer = BatchNormalization(axis, dtype=dtype)
    outputs = layer(keras.Input((4, 5, 3), batch_size=None, dtype="float32"))
    assert outputs.shape == (None, 4, 5, 3)
    assert outputs.dtype == layer.compute_dtype
    assert layer.compute_output_shape((None, 4, 5, 3)) == (None, 4, 5, 3)
    spec = layer.compute_output_spec(keras.KerasTensor((2, 4, 5, 3)))
    assert (spec.shape, spec.dtype) == ((2, 4, 5, 3), layer.compute_dtype)
    shape = [(4, 5, 3)[i % 4 - 1] for i in np.atleast_1d(axis)]
    assert tuple(layer.moving_mean.shape) == tuple(shape)


@pytest.mark.fast
def test_only_the_channel_axes_must_have_known_sizes():
    outputs = BatchNormalization()(keras.Input((None, None, 3)))
    assert outputs.shape == (None, None, None, 3)


@pytest.mark.fast
@pytest.mark.parametrize(
    "values", [draw((4, 3)), draw((4, 2, 6, 3)), draw((4, 6, 2))], ids=np.shape
)
def test_inputs_of_another_rank_or_size_are_an_error(values):
    layer = BatchNormalization()
    layer.build((None, 6, 3))
    with pytest.raises(ValueError, match=r"incompatible with the layer.*(ndim|axis)"):
        layer(values, training=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"renorm": True, "renorm_clipping": {"rmax": 2.0}},
        {"averaging": "cumulative", "axis": (1, 2)},
        {"averaging": "debiased", "virtual_batch_size": 2},
        {"scale": False, "center": False, "dtype": "mixed_bfloat16"},
        {"synchronized": True, "frozen_statistics": True, "unbiased": False},
    ],
    ids=str,
)
def test_a_loaded_model_predicts_and_trains_like_the_saved_one(arguments, tmp_path):
    model = model_of(keras.layers.Dense(3), BatchNormalization(**arguments))
    model(draw((4, 6, 3)), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    values = draw((4, 6, 3), seed=1)
    for copy in (loaded, clone):
        np.testing.assert_array_equal(copy(values), model(values))
    for trained in (model, loaded, clone):
        trained(values, training=True)
    for copy in (loaded, clone):
        for weight, expected in zip(copy.weights, model.weights, strict=True):
            np.testing.assert_array_equal(weight, expected)


def test_fit_works_with_an_unknown_batch_size():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), BatchNormalization(momentum=0.0), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    values = draw((7, 3))
    model.fit(values, np.zeros((7, 1)), batch_size=7, verbose=0)
    np.testing.assert_allclose(
        model.layers[0].moving_variance, values.var(0, ddof=1), rtol=1e-5
    )


def test_a_saved_model_has_the_same_outputs_and_configuration(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            BatchNormalization(
                (1, 2, 3), momentum=0.6, gamma_regularizer="l2", unbiased=False
            ),
        ]
    )
    values = draw((5, 4, 4, 2))
    model(values, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
    np.testing.assert_array_equal(loaded(values), model(values))


def train(layer, jit_compile, data=None):
    """Train a small network for three epochs of three batches.

    Returns:
        Its weights, losses and predictions.
    """
    keras.utils.set_random_seed(0)
    model = model_of(
        keras.layers.Conv1D(4, 3),
        layer(momentum=0.6),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(1),
    )
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
    x, y = draw((22, 6, 3)), draw((22, 1), seed=1)
    arguments = {"x": data(x, y)} if data else {"x": x, "y": y, "batch_size": 8}
    history = model.fit(epochs=3, verbose=0, shuffle=False, **arguments)
    return model.get_weights(), history.history["loss"], model.predict(x, verbose=0)


@pytest.fixture(scope="module")
def reference():
    return train(lambda **arguments: BatchNormalization(**arguments), False)


def assert_same_training(training, expected_training):
    weights, losses, predictions = training
    expected_weights, expected_losses, expected_predictions = expected_training
    for weight, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    np.testing.assert_allclose(predictions, expected_predictions, atol=1e-3)


@pytest.mark.parametrize(
    "jit_compile", [True, pytest.param("auto", marks=pytest.mark.slow)]
)
def test_the_result_of_fit_does_not_depend_on_jit_compile(jit_compile, reference):
    assert_same_training(train(BatchNormalization, jit_compile), reference)


def test_the_result_of_fit_is_that_of_keras_layer(reference):
    expected = train(KERAS, False)
    training = train(
        lambda **arguments: BatchNormalization(unbiased=False, **arguments), False
    )
    assert_same_training(training, expected)
    _, losses, _ = expected
    assert losses[-1] < 0.8 * losses[0]
    # With the unbiased variance, only the moving variance is different.
    is_different = [
        not np.allclose(weight, keras_weight, rtol=1e-4)
        for weight, keras_weight in zip(reference[0], expected[0], strict=True)
    ]
    assert is_different == [False] * 5 + [True] + [False] * 2


@tensorflow_only
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_fit_accepts_a_data_set_of_unknown_batch_size(jit_compile, reference):
    import tensorflow as tf

    def data(x, y):
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        assert batches.element_spec[0].shape[0] is None
        return batches

    training = train(BatchNormalization, jit_compile, data)
    assert_same_training(training, reference)


@pytest.mark.fast
def test_the_layer_works_inside_time_distributed():
    inner = BatchNormalization(momentum=0.0)
    model = model_of(keras.layers.TimeDistributed(inner), shape=(1, 5, 3))
    values = draw((8, 1, 5, 3))
    np.asarray(model(values, training=True))
    pooled = values.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(inner.moving_mean, pooled.mean(0), rtol=1e-5)
    np.testing.assert_allclose(inner.moving_variance, pooled.var(0, ddof=1), rtol=1e-5)


@pytest.mark.fast
def test_the_mask_of_an_earlier_layer_is_used_and_passed_on():
    layer = BatchNormalization(momentum=0.0)
    masking = keras.layers.Masking()
    values = draw((4, 6, 3))
    values[:, 4:] = 0
    outputs = layer(masking(values), training=True)
    np.testing.assert_array_equal(
        np.asarray(keras.src.backend.get_keras_mask(outputs)), np.any(values, -1)
    )
    unmasked = values[:, :4].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(layer.moving_mean, unmasked.mean(0), rtol=1e-5)
    # Masked positions are normalized like all others.
    expected = -unmasked.mean(0) / np.sqrt(unmasked.var(0) + layer.epsilon)
    np.testing.assert_allclose(outputs[0, 5], expected, rtol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(4, 6), (4, 1), (4, 6, 1), (4, 6, 3), (1, 6, 1)])
def test_a_mask_may_have_any_shape_that_broadcasts(shape):
    layer = BatchNormalization(momentum=0.0)
    values = draw((4, 6, 3))
    mask = np.random.default_rng(2).random(shape) < 0.6
    layer(values, training=True, mask=ops.convert_to_tensor(mask))
    full = mask if mask.ndim == 3 else mask[..., None]
    masked = np.ma.array(
        values.astype(np.float64), mask=~np.broadcast_to(full, values.shape)
    )
    np.testing.assert_allclose(layer.moving_mean, masked.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance, masked.var((0, 1), ddof=1), rtol=1e-5
    )


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 2), (6,), (4, 6, 3, 1)])
def test_the_error_for_a_mask_that_does_not_broadcast_shows_its_shape(shape):
    mask = ops.ones(shape, "bool")
    with pytest.raises(ValueError, match=r"`mask` must have .* Received: mask shape"):
        BatchNormalization()(draw((4, 6, 3)), training=True, mask=mask)
