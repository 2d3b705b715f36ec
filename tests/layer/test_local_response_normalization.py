"""Local response normalization, compared with NumPy in float64 and TensorFlow."""

import keras
import numpy as np
import pytest

from bn_keras.models import LocalResponseNormalization

pytestmark = pytest.mark.fast


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def lrn_oracle(x, depth, bias, alpha, beta):
    """Return the result of the equation in AlexNet's section 3.3, channels last."""
    x = x.astype("float64")
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        window = x[..., max(0, i - depth // 2) : i + depth // 2 + 1]
        y[..., i] = x[..., i] / (bias + alpha * (window**2).sum(-1)) ** beta
    return y


@pytest.mark.parametrize("channels", [1, 3, 5, 12])
@pytest.mark.parametrize(
    ("depth", "bias", "alpha", "beta"),
    [(5, 2.0, 1e-4, 0.75), (1, 1.0, 0.5, 1.0), (3, 0.5, 2.0, 0.3)],
)
def test_outputs_follow_alexnets_equation(channels, depth, bias, alpha, beta):
    tensorflow = pytest.importorskip("tensorflow")
    x = 30 * images((2, 4, 3, channels), seed=channels)
    expected = lrn_oracle(x, depth, bias, alpha, beta)
    layer = LocalResponseNormalization(depth, bias, alpha, beta)
    actual = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_allclose(
        tensorflow.nn.local_response_normalization(x, depth // 2, bias, alpha, beta),
        expected,
        rtol=1e-5,
    )
    channels_first = LocalResponseNormalization(
        depth, bias, alpha, beta, data_format="channels_first"
    )
    moved = keras.ops.convert_to_numpy(channels_first(np.moveaxis(x, -1, 1)))
    np.testing.assert_array_equal(np.moveaxis(moved, 1, -1), actual)


def test_the_defaults_are_alexnets_constants():
    x = 100 * images((2, 3, 3, 8))
    actual = keras.ops.convert_to_numpy(LocalResponseNormalization()(x))
    expected = lrn_oracle(x, depth=5, bias=2, alpha=1e-4, beta=0.75)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_squares_do_not_overflow_in_float16():
    x = np.full((1, 1, 1, 5), 1000, "float16")
    layer = LocalResponseNormalization(dtype="float16")
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(y), lrn_oracle(x, 5, 2, 1e-4, 0.75), rtol=1e-3
    )


def test_the_configuration_rebuilds_the_layer():
    layer = LocalResponseNormalization(3, 1.5, 0.1, 0.5, "channels_first", name="lrn")
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 4}, "odd and positive.*Received: depth=4"),
        ({"depth": -1}, "odd and positive.*Received: depth=-1"),
        ({"bias": 0}, "must be positive.*Received: bias=0"),
        ({"data_format": "last"}, "channels_first.*Received: data_format='last'"),
    ],
)
def test_the_error_for_a_wrong_argument_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalResponseNormalization(**arguments)
