"""Keras' conventions: what a user of Keras' layer may expect of this one."""

import keras
import numpy as np
import pytest
from keras import ops
from normalization_oracle import TENSORFLOW, layer_gradients, tensorflow_only

from bn_keras import BatchNormalization

KERAS = keras.layers.BatchNormalization

# Every argument of Keras' layer, none at its default.
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


@pytest.mark.parametrize("arguments", [{}, EVERY_ARGUMENT], ids=["defaults", "every"])
def test_keras_configuration_makes_this_layer(arguments):
    theirs = KERAS(**arguments)
    config = theirs.get_config()
    ours = BatchNormalization.from_config(config)
    assert {name: ours.get_config()[name] for name in config} == config
    again = BatchNormalization.from_config(ours.get_config())
    assert again.get_config() == ours.get_config()
    for layer in (theirs, ours):
        layer.build((None, 3, 5))
    described = [
        [
            (one.name, tuple(one.shape), one.dtype, one.trainable)
            for one in layer.weights
        ]
        for layer in (theirs, ours)
    ]
    assert described[0] == described[1]
    for own, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6)


def test_every_own_argument_survives_the_configuration():
    own = {
        "axis": (1, 2),
        "unbiased": False,
        "averaging": "debiased",
        "virtual_batch_size": 4,
        "frozen_statistics": True,
    }
    layer = BatchNormalization.from_config(BatchNormalization(**own).get_config())
    for name, value in own.items():
        assert getattr(layer, name) == value


@pytest.mark.parametrize("regularized", ["gamma", "beta"])
def test_regularizers_and_constraints_act(regularized):
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


@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 3), -1), ((4, 6, 5, 3), -1), ((4, 3, 6), 1)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_keras_weights_give_keras_outputs_gradients_and_statistics(shape, axis, masked):
    arguments = {"axis": axis, "momentum": 0.7, "epsilon": 1e-2}
    theirs, ours = KERAS(**arguments), BatchNormalization(unbiased=False, **arguments)
    for layer in (theirs, ours):
        layer.build(shape)
    weights = np.random.default_rng(5).uniform(0.5, 2, (4, 3))
    theirs.set_weights(weights)
    ours.set_weights(theirs.get_weights())
    mask = np.random.default_rng(6).random(shape[:-1]) < 0.8 if masked else None
    for step in range(3):
        x, cotangent = draw(shape, step), draw(shape, 10 + step)
        np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
        found, expected = (
            layer_gradients(layer, x, cotangent, mask=mask) for layer in (ours, theirs)
        )
        for own, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(own, other, atol=3e-5)
        for own, other in zip(ours.weights, theirs.weights, strict=True):
            np.testing.assert_allclose(own, other, rtol=2e-5, err_msg=own.name)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "float64"])
@pytest.mark.parametrize("axis", [-1, 1, (1, 2), (1, 2, 3)])
def test_a_symbolic_call_knows_shape_and_dtype(axis, dtype):
    layer = BatchNormalization(axis, dtype=dtype)
    outputs = layer(keras.Input((4, 5, 3), batch_size=None, dtype="float32"))
    assert outputs.shape == (None, 4, 5, 3)
    assert outputs.dtype == layer.compute_dtype
    assert layer.compute_output_shape((None, 4, 5, 3)) == (None, 4, 5, 3)
    spec = layer.compute_output_spec(keras.KerasTensor((2, 4, 5, 3)))
    assert (spec.shape, spec.dtype) == ((2, 4, 5, 3), layer.compute_dtype)
    shape = [(4, 5, 3)[one % 4 - 1] for one in np.atleast_1d(axis)]
    assert tuple(layer.moving_mean.shape) == tuple(shape)


def test_sizes_beside_the_kept_axes_may_be_unknown():
    outputs = BatchNormalization()(keras.Input((None, None, 3)))
    assert outputs.shape == (None, None, None, 3)


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
def test_a_saved_model_answers_and_trains_on_as_before(arguments, tmp_path):
    model = model_of(keras.layers.Dense(3), BatchNormalization(**arguments))
    for layer in model.layers:
        layer.trainable = True
    model(draw((4, 6, 3)), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    model.save_weights(tmp_path / "of.weights.h5")
    cloned = keras.models.clone_model(model)
    cloned.load_weights(tmp_path / "of.weights.h5")
    values = draw((4, 6, 3), seed=1)
    for other in (loaded, cloned):
        np.testing.assert_array_equal(other(values), model(values))
    for one in (model, loaded, cloned):
        one(values, training=True)
    for other in (loaded, cloned):
        for own, theirs in zip(model.weights, other.weights, strict=True):
            np.testing.assert_array_equal(own, theirs)


def trained(layer, jit_compile, data=None):
    """Weights and losses of a small network after three epochs of three batches."""
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
    return trained(lambda **arguments: BatchNormalization(**arguments), False)


def assert_same_training(found, expected):
    for own, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-3)


@pytest.mark.parametrize("jit_compile", [True, "auto"])
def test_fit_is_the_same_however_it_is_compiled(jit_compile, reference):
    assert_same_training(trained(BatchNormalization, jit_compile), reference)


def test_fit_is_that_of_keras_layer(reference):
    expected = trained(KERAS, False)
    found = trained(
        lambda **arguments: BatchNormalization(unbiased=False, **arguments), False
    )
    assert_same_training(found, expected)
    assert expected[1][-1] < 0.8 * expected[1][0]
    # Unbiased, only the moving variance differs.
    differs = [
        not np.allclose(one, other, rtol=1e-4)
        for one, other in zip(reference[0], expected[0], strict=True)
    ]
    assert differs == [False] * 5 + [True] + [False] * 2


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_reads_a_data_set_of_unknown_batch_size(jit_compile, reference):
    import tensorflow as tf

    def data(x, y):
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        assert batches.element_spec[0].shape[0] is None
        return batches

    found = trained(BatchNormalization, jit_compile, data)
    assert_same_training(found, reference)


def test_the_layer_works_inside_time_distributed():
    inner = BatchNormalization(momentum=0.0)
    model = model_of(keras.layers.TimeDistributed(inner), shape=(1, 5, 3))
    values = draw((8, 1, 5, 3))
    np.asarray(model(values, training=True))
    pooled = values.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(inner.moving_mean, pooled.mean(0), rtol=1e-5)
    np.testing.assert_allclose(inner.moving_variance, pooled.var(0, ddof=1), rtol=1e-5)


def test_the_mask_of_an_earlier_layer_is_used_and_passed_on():
    layer = BatchNormalization(momentum=0.0)
    masking = keras.layers.Masking()
    values = draw((4, 6, 3))
    values[:, 4:] = 0
    outputs = layer(masking(values), training=True)
    np.testing.assert_array_equal(
        np.asarray(keras.src.backend.get_keras_mask(outputs)), np.any(values, -1)
    )
    kept = values[:, :4].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(layer.moving_mean, kept.mean(0), rtol=1e-5)
    # Masked positions are normalized like all others.
    expected = -kept.mean(0) / np.sqrt(kept.var(0) + layer.epsilon)
    np.testing.assert_allclose(outputs[0, 5], expected, rtol=1e-4)


@pytest.mark.parametrize("expanded", [(4, 6), (4, 1), (4, 6, 1), (4, 6, 3), (1, 6, 1)])
def test_a_mask_may_have_any_shape_that_broadcasts(expanded):
    layer = BatchNormalization(momentum=0.0)
    values = draw((4, 6, 3))
    mask = np.random.default_rng(2).random(expanded) < 0.6
    layer(values, training=True, mask=ops.convert_to_tensor(mask))
    full = mask if mask.ndim == 3 else mask[..., None]
    masked = np.ma.array(
        values.astype(np.float64), mask=~np.broadcast_to(full, values.shape)
    )
    np.testing.assert_allclose(layer.moving_mean, masked.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance, masked.var((0, 1), ddof=1), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 2), (6,), (4, 6, 3, 1)])
def test_a_mask_that_does_not_broadcast_is_named(shape):
    mask = ops.ones(shape, "bool")
    with pytest.raises(ValueError, match=r"`mask` must have .* Received: mask shape"):
        BatchNormalization()(draw((4, 6, 3)), training=True, mask=mask)
