"""The layer, compared with NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from bn_keras import BatchNormalization

pytestmark = pytest.mark.fast

SHAPES = [
    pytest.param((6, 3), -1, id="dense"),
    pytest.param((4, 5, 3), -1, id="sequence"),
    pytest.param((4, 5, 6, 3), -1, id="channels_last"),
    pytest.param((4, 3, 5, 6), 1, id="channels_first"),
    pytest.param((4, 3, 2, 3), (1, 2, 3), id="per-activation"),
    pytest.param((4, 3, 2, 3), (-1, 1), id="two-axes"),
    pytest.param((2, 3, 2, 3, 2), -1, id="volume"),
]


def reduced_axes(shape, axis):
    channel_axes = np.mod([axis] if isinstance(axis, int) else axis, len(shape))
    return tuple(i for i in range(len(shape)) if i not in channel_axes)


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_training_normalizes_by_the_biased_moments_of_the_batch(shape, axis):
    layer = BatchNormalization(
        axis,
        epsilon=1e-2,
        gamma_initializer=keras.initializers.RandomNormal(1.0, seed=1),
        beta_initializer=keras.initializers.RandomNormal(1.0, seed=2),
    )
    values = draw(shape)
    outputs = layer(values, training=True)
    axes = reduced_axes(shape, axis)
    x = values.astype(np.float64)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    gamma, beta = (
        np.reshape(weight, mean.shape) for weight in (layer.gamma, layer.beta)
    )
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-2) + beta
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("unbiased", [True, False])
def test_moving_statistics_at_steps_one_two_three(shape, axis, unbiased):
    layer = BatchNormalization(axis, momentum=0.7, unbiased=unbiased)
    axes = reduced_axes(shape, axis)
    mean = variance = None
    for step in (1, 2, 3):
        values = draw(shape, seed=step)
        layer(values, training=True)
        x = values.astype(np.float64)
        batch_mean = x.mean(axes)
        batch_variance = x.var(axes, ddof=1 if unbiased else 0)
        old_mean, old_variance = (0.0, 1.0) if step == 1 else (mean, variance)
        mean = 0.7 * old_mean + 0.3 * batch_mean
        variance = 0.7 * old_variance + 0.3 * batch_variance
        np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


def test_inference_uses_the_moving_statistics_and_does_not_change_them():
    layer = BatchNormalization(epsilon=1e-3)
    layer.build((None, 3))
    weights = [[1.0, 2.0, -1.0], [0.5, 0.0, 1.0], [1.0, 0.0, 3.0], [4.0, 1.0, 9.0]]
    layer.set_weights([np.array(weight) for weight in weights])
    x = draw((5, 3)).astype(np.float64)
    expected = np.array([1.0, 2.0, -1.0]) * (x - [1.0, 0.0, 3.0]) / np.sqrt(
        np.array([4.0, 1.0, 9.0]) + 1e-3
    ) + [0.5, 0.0, 1.0]
    np.testing.assert_allclose(layer(x.astype("float32")), expected, atol=1e-5)
    np.testing.assert_array_equal(layer.moving_variance, [4, 1, 9])


def test_without_scale_and_center_the_layer_has_only_statistics():
    layer = BatchNormalization(scale=False, center=False)
    outputs = np.asarray(layer(draw((50, 3)), training=True))
    assert len(layer.weights) == 2
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(0), 1, atol=1e-3)


@pytest.mark.parametrize("values", [np.ones((1, 3)), np.ones((0, 3))])
def test_fewer_than_two_values_do_not_change_the_statistics(values):
    layer = BatchNormalization(momentum=0.5)
    layer(values.astype("float32"), training=True)
    np.testing.assert_array_equal(layer.moving_mean, 0)
    np.testing.assert_array_equal(layer.moving_variance, 1)


def test_masked_positions_are_ignored():
    layer = BatchNormalization(momentum=0.0)
    values = draw((4, 5, 3))
    mask = np.random.default_rng(1).random((4, 5)) < 0.7
    layer(values, training=True, mask=mask)
    x = values.astype(np.float64)[mask]
    np.testing.assert_allclose(layer.moving_mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, x.var(0, ddof=1), rtol=1e-5)


def test_a_fully_masked_batch_does_not_change_the_statistics():
    layer = BatchNormalization(momentum=0.5)
    layer(draw((4, 5, 3)), training=True, mask=np.zeros((4, 5), bool))
    np.testing.assert_array_equal(layer.moving_mean, 0)
    np.testing.assert_array_equal(layer.moving_variance, 1)


def test_the_statistics_of_a_float16_layer_are_float32():
    layer = BatchNormalization(momentum=0.0, dtype="float16")
    values = (1000 * np.random.default_rng(0).normal(size=(64, 2))).astype("float16")
    outputs = layer(values, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert keras.backend.standardize_dtype(layer.moving_variance.dtype) == "float32"
    expected = values.astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-4)


def test_a_layer_that_is_not_trainable_runs_in_inference_mode():
    layer = BatchNormalization()
    layer.build((None, 3))
    layer.trainable = False
    values = draw((6, 3))
    np.testing.assert_array_equal(layer(values, training=True), layer(values))
    np.testing.assert_array_equal(layer.moving_mean, 0)


def test_the_registered_name_of_the_layer_contains_the_package():
    name = keras.saving.get_registered_name(BatchNormalization)
    assert name == "bn_keras>BatchNormalization"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.5}, r"\[0, 1\]\. Received: momentum=1.5"),
        ({"epsilon": -1e-3}, r"not negative\. Received: epsilon=-0.001"),
        ({"epsilon": float("nan")}, "Received: epsilon=nan"),
    ],
)
def test_the_error_for_a_wrong_argument_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(**arguments)


@pytest.mark.parametrize(
    ("axis", "shape", "message"),
    [
        (2, (None, 3), r"-2 to 1\. Received: axis=2, input shape \(None, 3\)"),
        ((), (None, 3), r"-2 to 1\. Received: axis=\(\)"),
        ((1, -1), (None, 3), r"twice\. Received: axis=\(1, -1\)"),
        (-1, (None, None), r"known size of at least 1\. Received: axis=-1"),
        (-1, (None, 0), r"known size of at least 1\. Received: axis=-1"),
        (1, (None, None, 3), r"known size of at least 1\. Received: axis=1"),
        (0, (None, 3), r"known size of at least 1\. Received: axis=0"),
    ],
)
def test_the_error_for_a_wrong_axis_names_it(axis, shape, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(axis).build(shape)


def test_the_error_for_a_mask_of_another_rank_shows_its_shape():
    with pytest.raises(ValueError, match=r"Received: mask shape \(4,\)"):
        BatchNormalization()(
            ops.ones((4, 5, 3)), training=True, mask=ops.ones((4,), "bool")
        )
