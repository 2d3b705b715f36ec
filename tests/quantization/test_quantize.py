"""Quantized models agree with the float models, and their reports say how well."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from quantization_checks import (
    L,
    branching_network,
    convolve,
    fold,
    images,
    residual_network,
)

from bn_keras.quantization import quantize


@pytest.fixture(scope="module")
def residual():
    return residual_network()


@pytest.fixture(scope="module")
def quantized_residual(residual):
    return quantize(residual, images(64, 16), accuracy=0.9)


@pytest.fixture(scope="module")
def branching():
    return branching_network()


@pytest.fixture(scope="module")
def quantized_branching(branching):
    return quantize(branching, images(64, 17), accuracy=0.5)


def outcomes(model):
    return {entry.layer: entry.outcome for entry in model.report.entries}


def operations(model, inputs):
    function = tf.function(lambda x: model(x), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec((None, *inputs))).graph
    return [operation.type for operation in graph.get_operations()]


def error(model, float_model, inputs):
    expected = float_model(inputs).numpy()
    actual = np.asarray(model(inputs))
    return np.sqrt(np.square(actual - expected).mean() / np.square(expected).mean())


def test_the_outputs_are_those_of_the_float_model(
    residual, quantized_residual, branching, quantized_branching
):
    # Other images than those of the calibration.
    assert error(quantized_residual, residual, images(40, 16)) < 0.02
    assert error(quantized_branching, branching, images(40, 17)) < 0.1


def test_predict_and_batches_give_the_same_outputs(quantized_residual):
    inputs = images(12, 16)
    whole = quantized_residual.predict(inputs, verbose=0)
    np.testing.assert_allclose(quantized_residual(inputs), whole, atol=1e-6)
    for i in range(12):
        np.testing.assert_allclose(
            quantized_residual(inputs[i : i + 1])[0], whole[i], atol=1e-3
        )


def test_all_layers_with_weights_are_int8(quantized_residual, quantized_branching):
    for model in (quantized_residual, quantized_branching):
        assert model.report.int8_share == 1
        floats = {x.kind for x in model.report.entries if x.outcome == "float"}
        assert floats <= {
            *("Add", "ReLU", "Activation", "GlobalAveragePooling2D"),
            "ZeroPadding2D",  # of a depthwise convolution with a multiplier
        }


def test_tensors_are_converted_as_rarely_as_possible(
    quantized_residual, quantized_branching
):
    found = operations(quantized_residual, (16, 16, 3))
    # The images; both summands of the shortcut with weights; the pooled features.
    assert found.count("QuantizeV2") == 2
    assert found.count("Dequantize") == 2
    found = operations(quantized_branching, (17, 17, 3))
    # The images, and before and after the swish.
    assert found.count("QuantizeV2") == 2
    assert found.count("Dequantize") == 1
    assert found.count("QuantizedMaxPool") == 2
    assert found.count("QuantizedAvgPool") == 1


@pytest.mark.parametrize("multiplier", [1, 2, 4])
@pytest.mark.parametrize("padding", [((0, 0), (1, 0)), ((0, 0), (0, 1)), 1])
def test_zeros_along_the_width_only_count(padding, multiplier):
    # oneDNN's kernel for AVX-512 forgets them if there is a depth multiplier.
    inputs = keras.Input((17, 17, 16))
    x = L.ZeroPadding2D(padding)(inputs)
    x = L.DepthwiseConv2D(3, 2, depth_multiplier=multiplier)(x)
    draw = np.random.default_rng(0)
    examples = draw.normal(size=(64, 17, 17, 16)).astype("float32")
    model = keras.Model(inputs, x)
    quantized = quantize(model, examples, accuracy=0.9)
    assert quantized.report.int8_share == 1
    assert error(quantized, model, examples) < 0.03


def test_a_padding_along_the_width_only_leaves_a_layer_in_float():
    inputs = keras.Input((17, 17, 16))
    x = L.DepthwiseConv2D((1, 3), padding="same", depth_multiplier=2)(inputs)
    draw = np.random.default_rng(0)
    examples = draw.normal(size=(64, 17, 17, 16)).astype("float32")
    model = keras.Model(inputs, L.Conv2D(4, 3)(x))
    quantized = quantize(model, examples, accuracy=0.9)
    (entry, _) = quantized.report.entries
    assert entry.outcome == "float"
    assert "depth multiplier" in entry.reason


def test_the_report_has_the_noise_of_every_int8_layer(quantized_branching):
    report = quantized_branching.report
    for entry in report.entries:
        if entry.outcome == "int8":
            assert entry.scale > 0
            assert 15 < entry.snr < 80
            assert not entry.reason
        else:
            assert entry.reason
    table = str(report)
    assert "top-1 agreement" in table
    assert "on 32 held-back examples" in table
    assert report._repr_html_().count("<tr>") == len(report.entries) + 1
    (points,) = report.plot().lines
    assert len(points.get_xdata()) == sum(x.outcome == "int8" for x in report.entries)


def test_a_summand_that_is_read_later_is_not_overwritten():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 16))
    x = L.ReLU()(convolve(inputs, 16))
    y = L.ReLU()(L.Add()([convolve(L.ReLU()(convolve(x, 16)), 16), x]))
    later = L.ReLU()(convolve(x, 16))
    twice = L.ReLU()(L.Add()([convolve(y, 16), y]))
    joined = L.Concatenate()([y, later, twice])
    model = fold(inputs, [L.Conv2D(4, 1)(joined), L.Conv2D(4, 1)(x)])
    data = np.random.default_rng(0).normal(size=(32, 8, 8, 16)).astype("float32")
    quantized = quantize(model, data, accuracy=0.9)
    assert quantized.report.relative_error < 0.05
    # `twice` adds what the convolution itself reads, `y` is read by others.
    assert "Sum" not in str(
        [x.calls for x in quantized.plan.steps if x.summand is not None]
    )
    assert not [x for x in quantized.plan.steps if x.summand is not None]


def test_an_addition_to_negative_values_of_a_concatenation_is_exact():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 16))
    x = L.ReLU()(convolve(inputs, 16))
    y = L.ReLU()(convolve(x, 16))
    z = L.ReLU()(L.Add()([convolve(y, 16), x]))
    # One scale for all, which must be signed.
    joined = L.Concatenate()([z, convolve(y, 16)])
    model = fold(inputs, L.Conv2D(4, 1)(joined))
    data = np.random.default_rng(0).normal(size=(32, 8, 8, 16)).astype("float32")
    quantized = quantize(model, data, accuracy=0.9)
    assert quantized.report.relative_error < 0.05


def test_a_shared_layer_has_a_scale_at_each_call():
    inputs = keras.Input((8, 8, 4))
    shared = L.Conv2D(4, 3, padding="same", activation="relu")
    model = keras.Model(inputs, L.Conv2D(3, 1)(shared(shared(inputs))))
    data = np.random.default_rng(0).normal(size=(32, 8, 8, 4)).astype("float32")
    report = quantize(model, data, accuracy=0.9).report
    assert [x.layer for x in report.entries][:2] == [
        f"{shared.name} (call 1)",
        f"{shared.name} (call 2)",
    ]


def test_other_layers_stay_float_with_their_reasons():
    inputs = keras.Input((6, 6, 16))
    x = L.Conv2D(32, 1, groups=16)(inputs)
    x = L.Conv2DTranspose(4, 2, strides=2)(x)
    x = L.Dense(5)(x)
    x = L.LeakyReLU()(L.Conv2D(4, 3)(x))
    model = keras.Model(inputs, L.GlobalMaxPooling2D()(x))
    data = np.random.default_rng(0).normal(size=(32, 6, 6, 16)).astype("float32")
    report = quantize(model, data, accuracy=0.9).report
    reasons = {x.kind: x.reason for x in report.entries if x.outcome == "float"}
    assert reasons["Conv2DTranspose"] == "Conv2DTranspose is not supported in int8"
    assert "its input has 4 axes" in reasons["Dense"]
    assert "16 groups" in next(x.reason for x in report.entries if "groups" in x.reason)


def test_the_float_model_is_not_changed(residual):
    before = [w.copy() for w in residual.get_weights()]
    inputs = images(4, 16)
    outputs = residual(inputs).numpy()
    quantize(residual, images(8, 16), accuracy=0)
    for old, new in zip(before, residual.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(residual(inputs), outputs)


@pytest.mark.parametrize(("method", "gain"), [("percentile", 4), ("mse", 1.5)])
def test_outliers_are_cut_off_by_the_other_methods(method, gain):
    inputs = keras.Input((32, 32, 4))
    convolution = L.Conv2D(8, 3, activation="relu")
    model = keras.Model(inputs, convolution(inputs))
    data = np.random.default_rng(0).normal(size=(64, 32, 32, 4)).astype("float32")
    data[0, 0, 0, 0] = 40.0
    errors = {}
    for name in ("max", method):
        errors[name] = quantize(model, data, accuracy=0, method=name)
        errors[name] = errors[name].report.relative_error
    assert errors[method] < errors["max"] / gain


def test_seven_bits_are_less_exact_but_close(residual):
    data = images(64, 16)
    report = quantize(residual, data, accuracy=0.9, reduce_range=True).report
    eight = quantize(residual, data, accuracy=0.9).report
    assert eight.relative_error < report.relative_error < 0.05
    assert "7 bits" in report.calibration
