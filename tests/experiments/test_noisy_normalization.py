"""Noise after a normalization, p-norms, and a layer that records moments."""

import keras
import numpy as np
import pytest

from bn_keras import BatchNormalization
from bn_keras.experiments.layers.lp_normalization import LpNormalization
from bn_keras.experiments.layers.noisy_normalization import (
    NoisyBatchNormalization,
    NoisyBias,
    add_noise,
)
from bn_keras.experiments.layers.watch import Watch

SHAPE = (6, 5, 4, 3)
INFINITY = float("inf")


def draw(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


def normalized(x, p, axes, epsilon):
    """Return the formula in float64, and the mean and the norm."""
    x = np.asarray(x, np.float64)
    mean = x.mean(axes, keepdims=True)
    if np.isinf(p):
        norm = np.abs(x).max(axes, keepdims=True) + epsilon
    else:
        norm = ((np.abs(x) ** p).mean(axes, keepdims=True) + epsilon) ** (1 / p)
    return (x - mean) / norm, mean.ravel(), norm.ravel()


def test_the_noise_of_a_value_has_the_papers_moments_given_its_channel():
    zeros = np.zeros((200_000, 3), "float32")
    shift = np.asarray(add_noise(zeros, [1], keras.random.SeedGenerator(1)), float)
    # With a = 0 only m is left, uniform within 0.1 of the channel's mu.
    mu = shift.mean(axis=0)
    assert (np.abs(mu) < 0.5).all()
    assert np.abs(shift - mu).max() < 0.1 + 1e-3
    np.testing.assert_allclose(shift.std(axis=0), 0.2 / np.sqrt(12), rtol=0.01)
    # The same draws on 1: the difference is s, normal around the channel's sigma.
    ones = zeros + 1
    factor = np.asarray(add_noise(ones, [1], keras.random.SeedGenerator(1)), float)
    factor = factor - shift
    sigma = factor.mean(axis=0)
    assert ((sigma > 1 - 1e-3) & (sigma < 1.25 + 1e-3)).all()
    np.testing.assert_allclose(factor.std(axis=0), 0.1, rtol=0.01)
    kurtosis = ((factor - sigma) ** 4).mean(axis=0) / factor.var(axis=0) ** 2
    np.testing.assert_allclose(kurtosis, 3, rtol=0.03)
    # The noise differs between channels and between the values of a channel.
    assert len(set(mu.round(4))) == len(set(sigma.round(4))) == 3
    assert abs(np.corrcoef(shift[1:, 0], shift[:-1, 0])[0, 1]) < 0.01
    assert abs(np.corrcoef(shift[:, 0], factor[:, 0])[0, 1]) < 0.01


def test_the_noise_of_a_channel_is_drawn_again_at_each_call():
    generator = keras.random.SeedGenerator(2)
    # The mean over zeros is mu, that over ones mu + sigma.
    values = np.repeat([[0.0], [1.0]], 500, axis=0) * np.ones((1, 400))
    mu, sigma = [], []
    for _ in range(10):
        noisy = np.asarray(add_noise(values.astype("float32"), [1], generator), float)
        mu.append(noisy[:500].mean(axis=0))
        sigma.append(noisy[500:].mean(axis=0) - mu[-1])
    mu, sigma = np.array(mu), np.array(sigma)
    np.testing.assert_allclose(mu.mean(), 0, atol=0.02)
    np.testing.assert_allclose(mu.std(), 1 / np.sqrt(12), rtol=0.03)
    np.testing.assert_allclose(sigma.mean(), 1.125, rtol=0.01)
    np.testing.assert_allclose(sigma.std(), 0.25 / np.sqrt(12), rtol=0.03)
    assert abs(np.corrcoef(mu[1:].ravel(), mu[:-1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("layer", [NoisyBatchNormalization, NoisyBias])
@pytest.mark.parametrize(("axis", "shape"), [(-1, SHAPE), (1, SHAPE), (-1, (8, 4))])
def test_training_is_random_and_inference_is_not(layer, axis, shape):
    noisy, x = layer(axis=axis, seed=3), draw(shape)
    first, second = (np.asarray(noisy(x, training=True)) for _ in range(2))
    assert first.shape == shape
    assert np.abs(first - second).mean() > 0.05
    np.testing.assert_array_equal(noisy(x, training=False), noisy(x))


@pytest.mark.fast
def test_noisy_bn_at_inference_is_bn():
    x = draw()
    noisy, plain = (
        NoisyBatchNormalization(momentum=0.5),
        BatchNormalization(momentum=0.5),
    )
    for layer in (noisy, plain):
        layer(x, training=True)
    np.testing.assert_array_equal(noisy.moving_mean, plain.moving_mean)
    np.testing.assert_array_equal(noisy(x), plain(x))


@pytest.mark.fast
def test_a_noisy_bias_at_inference_is_a_bias():
    layer, x = NoisyBias(axis=1), draw()
    layer.build(x.shape)
    bias = np.arange(5, dtype="float32")
    layer.bias.assign(bias)
    np.testing.assert_allclose(layer(x), x + bias[:, None, None], rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("p", [1, 1.5, 2, 3, INFINITY])
@pytest.mark.parametrize(("axis", "shape"), [(-1, SHAPE), (1, SHAPE), (-1, (9, 4))])
def test_p_norms_and_their_moving_averages_follow_the_formula(p, axis, shape):
    layer = LpNormalization(p, axis, momentum=0.8, epsilon=0.01)
    layer.build((None, *shape[1:]))
    axes = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    gamma, beta = draw(layer.gamma.shape, 7), draw(layer.beta.shape, 8)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    weight = tuple(-1 if i not in axes else 1 for i in range(len(shape)))
    gamma, beta = gamma.reshape(weight), beta.reshape(weight)
    moving_mean, moving_norm = 0.0, 1.0
    for step in range(3):
        x = draw(shape, step)
        answer, mean, norm = normalized(x, p, axes, 0.01)
        np.testing.assert_allclose(
            layer(x, training=True), gamma * answer + beta, rtol=1e-4, atol=1e-4
        )
        moving_mean = 0.8 * moving_mean + 0.2 * mean
        moving_norm = 0.8 * moving_norm + 0.2 * norm
        np.testing.assert_allclose(layer.moving_mean, moving_mean, rtol=1e-5)
        np.testing.assert_allclose(layer.moving_norm, moving_norm, rtol=1e-5)
    expected = (x - moving_mean.reshape(weight)) / moving_norm.reshape(weight)
    np.testing.assert_allclose(layer(x), gamma * expected + beta, rtol=1e-4, atol=1e-4)


@pytest.mark.fast
def test_the_2_norm_is_bn_only_for_centred_inputs():
    x = draw()
    centred = x - x.mean((0, 1, 2))
    ours, theirs = LpNormalization(2), keras.layers.BatchNormalization()
    expected = np.asarray(theirs(centred, training=True))
    np.testing.assert_allclose(
        ours(centred, training=True), expected, rtol=1e-4, atol=1e-5
    )
    # The norm is taken "before shifting the mean".
    shifted = np.asarray(ours(centred + 10, training=True))
    assert np.abs(shifted).mean() < 0.5 * np.abs(expected).mean()


@pytest.mark.parametrize("p", [1, 2, INFINITY])
def test_a_constant_channel_gives_finite_gradients(p):
    x = np.ones((4, 2), "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.add(LpNormalization(p))
    model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    model.fit(x, draw((4, 2)), verbose=0)
    for weight in model.get_weights():
        assert np.isfinite(weight).all()


@pytest.mark.fast
@pytest.mark.parametrize("p", [0.5, 0, float("nan")])
def test_a_p_below_1_is_refused(p):
    with pytest.raises(ValueError, match=f"`p` must be 1 or more.*Received: p={p}"):
        LpNormalization(p)


@pytest.mark.fast
def test_watch_returns_its_inputs_and_records_the_last_training_batch():
    watch, x = Watch(), draw()
    np.testing.assert_array_equal(watch(draw(seed=5), training=True), draw(seed=5))
    watch(x, training=True)
    watch(draw(seed=9))
    exact = x.astype(np.float64)
    moments = [exact.mean((0, 1, 2)), exact.var((0, 1, 2))]
    np.testing.assert_allclose(watch.moments, moments, rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        NoisyBatchNormalization(momentum=0.7, seed=4),
        NoisyBias(seed=4),
        LpNormalization(INFINITY, momentum=0.7, epsilon=0.1),
        LpNormalization(1),
        Watch(),
    ],
    ids=lambda layer: layer.name,
)
def test_layers_are_saved_and_loaded(layer, tmp_path):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    model = keras.Sequential([keras.Input(SHAPE[1:]), again])
    model(draw(), training=True)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    x = draw(seed=1)
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[0].get_config() == layer.get_config()
