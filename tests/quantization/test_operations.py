"""Each form of the int8 operations computes what NumPy does in integers."""

import numpy as np
import pytest
import tensorflow as tf
from processor import VNNI, skip_signed_products

from bn_keras.quantization import operations
from bn_keras.quantization.linear_layers import Linear, quantize_weights
from bn_keras.quantization.operations import QuantizedTensor, Scale

DRAW = np.random.default_rng(0)
# Integers may differ by one where float32 rounds a half to the other side.
ONE_STEP = 1.0001
# 7 bits are exact on every processor.
REDUCE_RANGE = not VNNI


def draw_integers(shape, scale):
    low = -127 if scale.signed else 0
    high = 127 if scale.signed else 255
    return DRAW.integers(low, high + 1, shape)


def numbers(integers, scale):
    return (
        integers * np.float64(np.float32(scale.limit)) / (127 if scale.signed else 255)
    )


def round_to(values, scale):
    low, high = (-127, 127) if scale.signed else (0, 255)
    limit = np.float64(np.float32(scale.limit))
    return np.clip(np.rint(values / limit * high), low, high)


def run(function, *integers_and_scales):
    """Return the integers of a function of `QuantizedTensor`s."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensors, feeds = [], {}
        for integers, scale in integers_and_scales:
            dtype = tf.int8 if scale.signed else tf.uint8
            placeholder = tf.compat.v1.placeholder(dtype, integers.shape)
            feeds[placeholder] = integers.astype(dtype.as_numpy_dtype)
            # A copy: a summand is overwritten.
            values = tf.bitcast(placeholder + tf.cast(0, dtype), scale_dtype(scale))
            tensors.append(QuantizedTensor(values, scale))
        result = function(*tensors)
        if isinstance(result, QuantizedTensor):
            signed = result.scale.signed
            result = tf.bitcast(result.values, tf.int8 if signed else tf.uint8)
        return session.run(result, feeds).astype(np.float64)


def scale_dtype(scale):
    return tf.qint8 if scale.signed else tf.quint8


def convolve(images, kernel, strides, dilations, padding, depthwise):
    """Return a convolution in float64, position by position."""
    height, width = kernel.shape[:2]
    reach = [(size - 1) * d for size, d in zip((height, width), dilations, strict=True)]
    if padding == "SAME":
        pads = []
        for size, stride, r in zip(images.shape[1:3], strides, reach, strict=True):
            total = max((-(-size // stride) - 1) * stride + r + 1 - size, 0)
            pads.append((total // 2, total - total // 2))
    else:
        pads = [(0, 0), (0, 0)] if padding == "VALID" else padding
    images = np.pad(images, [(0, 0), *pads, (0, 0)])
    rows = range(0, images.shape[1] - reach[0], strides[0])
    columns = range(0, images.shape[2] - reach[1], strides[1])
    channels = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[3]
    result = np.zeros((len(images), len(rows), len(columns), channels))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = images[
                :,
                row : row + reach[0] + 1 : dilations[0],
                column : column + reach[1] + 1 : dilations[1],
            ]
            if depthwise:
                parts = np.einsum("bhwc,hwcm->bcm", window, kernel)
                result[:, i, j] = parts.reshape(len(images), -1)
            else:
                result[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
    return result


FORMS = [
    {},
    {"relu": True},
    {"strides": (2, 2)},
    {"strides": (2, 2), "padding": "VALID"},
    {"dilations": (2, 2)},
    {"padding": [(1, 2), (0, 1)], "strides": (2, 2)},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("signed_input", [False, True])
@pytest.mark.parametrize("signed_output", [False, True])
@pytest.mark.parametrize("operation", [operations.CONVOLUTION, operations.DEPTHWISE])
def test_convolutions_round_the_sum_of_integers(
    operation, signed_input, signed_output, form
):
    if not signed_output:  # else negative results would be cut off
        form = {**form, "relu": True}
    depthwise = operation == operations.DEPTHWISE
    skip_signed_products(signed_input and not depthwise)
    kernel = DRAW.normal(size=(3, 3, 16, 2 if depthwise else 24))
    channels = 32 if depthwise else 24
    kernel = (kernel * DRAW.uniform(0.1, 3, kernel.shape[3])).astype(np.float32)
    bias = DRAW.normal(size=channels).astype(np.float32)
    scale = Scale(2.5, signed_input)
    images = draw_integers((2, 9, 8, 16), scale)
    weights = quantize_weights(
        Linear("depthwise" if depthwise else "convolution", kernel, bias),
        scale,
        REDUCE_RANGE,
    )
    steps = np.float64(weights.limits) / 127
    rounded = (
        weights.values * steps.reshape(16, 2) if depthwise else (weights.values * steps)
    )
    expected = convolve(
        numbers(images, scale),
        rounded,
        form.get("strides", (1, 1)),
        form.get("dilations", (1, 1)),
        form.get("padding", "SAME"),
        depthwise,
    )
    expected = expected + bias
    if form.get("relu"):
        expected = np.maximum(expected, 0)
    output = Scale(float(np.abs(expected).max() * 0.9), signed_output)
    actual = run(
        lambda x: operations.convolve(
            operation, x, weights, output, **{"strides": (1, 1), **form}
        ),
        (images, scale),
    )
    assert actual.shape == expected.shape
    assert np.abs(actual - round_to(expected, output)).max() <= ONE_STEP


@pytest.mark.parametrize("signed_input", [False, True])
def test_a_convolution_adds_a_summand_before_the_relu(signed_input):
    skip_signed_products(signed_input)
    scale, other = Scale(1.5, signed_input), Scale(7.0, False)
    images = draw_integers((2, 6, 6, 8), scale)
    summand = draw_integers((2, 6, 6, 16), other)
    kernel = DRAW.normal(size=(3, 3, 8, 16)).astype(np.float32)
    bias = DRAW.normal(size=16).astype(np.float32)
    weights = quantize_weights(Linear("convolution", kernel, bias), scale, REDUCE_RANGE)
    rounded = weights.values * np.float64(weights.limits) / 127
    expected = convolve(numbers(images, scale), rounded, (1, 1), (1, 1), "SAME", False)
    expected = np.maximum(expected + bias + numbers(summand, other), 0)
    output = Scale(float(expected.max()), False)
    actual = run(
        lambda x, y: operations.convolve(
            operations.CONVOLUTION,
            x,
            weights,
            output,
            strides=(1, 1),
            relu=True,
            summand=y,
        ),
        (images, scale),
        (summand, other),
    )
    assert np.abs(actual - round_to(expected, output)).max() <= ONE_STEP


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("signed_input", [False, True])
@pytest.mark.parametrize("kind", ["float", "signed", "unsigned"])
def test_products_round_the_sum_of_integers(kind, signed_input, relu):
    skip_signed_products(signed_input)
    relu = relu or kind == "unsigned"
    scale = Scale(3.0, signed_input)
    rows = draw_integers((5, 40), scale)
    matrix = (DRAW.normal(size=(40, 7)) * DRAW.uniform(0.1, 3, 7)).astype(np.float32)
    bias = DRAW.normal(size=7).astype(np.float32)
    weights = quantize_weights(Linear("matrix", matrix, bias), scale, REDUCE_RANGE)
    product = numbers(rows, scale) @ (weights.values * np.float64(weights.limits) / 127)
    expected = np.maximum(product + bias, 0) if relu else product + bias
    output = None
    if kind != "float":
        output = Scale(float(np.abs(expected).max() * 0.9), kind == "signed")
    actual = run(
        lambda x: operations.multiply(x, weights, output, relu=relu), (rows, scale)
    )
    if output is None:
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
    else:
        assert np.abs(actual - round_to(expected, output)).max() <= ONE_STEP


@pytest.mark.parametrize("signed", [False, True])
def test_numbers_are_rounded_to_the_closest_integer_and_cut_off(signed):
    scale = Scale(0.7, signed)
    values = DRAW.normal(size=(3, 50)).astype(np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensor = operations.quantize(tf.constant(values), scale)
        back = session.run(operations.dequantize(tensor))
    expected = numbers(round_to(values.astype(np.float64), scale), scale)
    # Halves may be rounded either way.
    assert np.abs(back - expected).max() <= scale.step * ONE_STEP
    assert (np.abs(back - expected) > scale.step / 100).mean() < 0.02
    assert np.abs(back).max() == np.float32(0.7)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_pooling_takes_the_maximum_or_average_of_integers(padding, signed):
    scale = Scale(1.0, signed)
    images = draw_integers((2, 7, 6, 16), scale)
    for kind, function in (("max", tf.nn.max_pool2d), ("average", tf.nn.avg_pool2d)):
        expected = function(images.astype(np.float32), 3, 2, padding).numpy()
        actual = run(
            lambda x, kind=kind: operations.pool(kind, x, (3, 3), (2, 2), padding),
            (images, scale),
        )
        assert np.abs(actual - expected).max() <= (0 if kind == "max" else ONE_STEP)


@pytest.mark.parametrize("signed", [False, True])
def test_integers_are_moved_as_they_are(signed):
    scale = Scale(1.0, signed)
    images, others = (draw_integers((2, 3, 4, n), scale) for n in (5, 6))
    both = run(
        lambda x, y: operations.concatenate([x, y], 3), (images, scale), (others, scale)
    )
    np.testing.assert_array_equal(both, np.concatenate([images, others], 3))
    padded = run(lambda x: operations.pad(x, [(1, 2), (0, 3)]), (images, scale))
    np.testing.assert_array_equal(
        padded, np.pad(images, [(0, 0), (1, 2), (0, 3), (0, 0)])
    )
    rows = run(lambda x: operations.reshape(x, (2, 60)), (images, scale))
    np.testing.assert_array_equal(rows, images.reshape(2, 60))


def test_weights_keep_their_precision_in_each_channel():
    kernel = DRAW.normal(size=(3, 3, 4, 6)) * 10.0 ** -np.arange(6)
    weights = quantize_weights(
        Linear("convolution", kernel, np.zeros(6)), Scale(1.0, False)
    )
    largest = np.abs(kernel).max((0, 1, 2))
    np.testing.assert_allclose(weights.limits, largest, rtol=1e-6)
    error = np.abs(weights.values * weights.limits / 127 - kernel).max((0, 1, 2))
    assert (error <= largest / 127 / 2 * 1.001).all()


def test_seven_bits_are_half_of_the_integers():
    kernel = DRAW.normal(size=(3, 3, 4, 6))
    weights = quantize_weights(
        Linear("convolution", kernel, np.zeros(6)), Scale(1.0, False), True
    )
    assert np.abs(weights.values).max() == 63
    error = np.abs(weights.values * weights.limits / 127 - kernel).max((0, 1, 2))
    assert (error <= np.abs(kernel).max((0, 1, 2)) / 63 / 2 * 1.001).all()


@pytest.mark.parametrize("bias", [1.0, -300.0])
def test_a_channel_without_weights_keeps_its_bias(bias):
    # In steps of such small weights, the bias would not fit into 32 bits.
    kernel = np.zeros((1, 1, 4, 16), np.float32)
    kernel[..., 0] = 1e-25
    weights = quantize_weights(
        Linear("convolution", kernel, np.full(16, bias)), Scale(1.0, False)
    )
    images = draw_integers((1, 3, 3, 4), Scale(1.0, False))
    actual = run(
        lambda x: operations.convolve(
            operations.CONVOLUTION, x, weights, Scale(300.0, True), strides=(1, 1)
        ),
        (images, Scale(1.0, False)),
    )
    assert np.abs(actual - round_to(bias, Scale(300.0, True))).max() <= ONE_STEP
