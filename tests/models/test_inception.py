"""The Inception networks are those of figure 5."""

from functools import cache, partial

import keras
import numpy as np
import pytest

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import (
    MLP,
    BNInception,
    ConvNet,
    Inception,
    LocalResponseNormalization,
)

# Three convolutions in the stem, seven in each of eight modules, five in 3c and 4e.
CONVOLUTIONS = 3 + 8 * 7 + 2 * 5

small_inception = partial(
    BNInception, input_shape=(32, 32, 3), classes=5, stem="small", width=0.05
)


@cache
def full_width(builder, separable):
    """Return the network at full width; tests must not change it."""
    return builder(separable=separable)


@pytest.fixture(scope="module")
def bn_inception():
    return full_width(BNInception, True)


@pytest.fixture
def channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


def names(model, kind):
    return [layer.name for layer in model.layers if isinstance(layer, kind)]


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def producer(layer):
    """Return the layer that produces the input of `layer`."""
    return layer.input._keras_history.operation


@pytest.mark.parametrize(
    ("builder", "separable", "trainable", "total"),
    [
        # Counted by hand from figure 5.
        (BNInception, True, 11_188_288, 11_208_192),
        (BNInception, False, 11_194_984, 11_214_888),
        (Inception, True, 11_178_336, 11_178_336),
        (Inception, False, 11_185_032, 11_185_032),
    ],
)
def test_inception_has_the_parameters_of_figure_5(builder, separable, trainable, total):
    model = full_width(builder, separable)
    assert count(model.trainable_weights) == trainable
    assert model.count_params() == total


def test_the_output_is_one_vector_of_a_thousand_classes(bn_inception):
    assert bn_inception.input_shape == (None, 224, 224, 3)
    assert bn_inception.get_layer("avg_pool").output.shape == (None, 1024)
    assert bn_inception.output_shape == (None, 1000)


def test_modules_pool_by_average_except_3c_4e_and_5b(bn_inception):
    maximum = names(bn_inception, keras.layers.MaxPooling2D)
    assert maximum == ["pool1", "pool2"] + [
        f"inception_{module}_pool" for module in ("3c", "4e", "5b")
    ]
    assert len(names(bn_inception, keras.layers.AveragePooling2D)) == 7


def test_all_modules_except_3c_and_4e_project_the_pooled_maps(bn_inception):
    projected = {
        name.split("_")[1]
        for name in names(bn_inception, keras.layers.Conv2D)
        if name.endswith("_pool_projection_conv")
    }
    assert projected == {"3a", "3b", "4a", "4b", "4c", "4d", "5a", "5b"}


def test_only_the_last_step_of_each_branch_of_3c_and_4e_has_stride_2(bn_inception):
    strided = [
        layer.name
        for layer in bn_inception.layers
        if layer.name.startswith("inception") and getattr(layer, "strides", 1) == (2, 2)
    ]
    assert sorted(strided) == [
        f"inception_{module}_{step}"
        for module in ("3c", "4e")
        for step in ("3x3_conv", "double_3x3_b_conv", "pool")
    ]


@pytest.mark.parametrize(
    "build",
    [
        MLP,
        partial(ConvNet, (8, 8, 1)),
        pytest.param(small_inception, marks=pytest.mark.slow),
        partial(full_width, BNInception, True),
    ],
)
def test_bn_is_between_a_linear_layer_without_bias_and_the_nonlinearity(build):
    model = build()
    linear = (keras.layers.Dense, keras.layers.Conv2D, keras.layers.SeparableConv2D)
    normalized = [
        layer for layer in model.layers if isinstance(layer, BatchNormalization)
    ]
    for layer in normalized:
        place = layer.name.removesuffix("_bn")
        assert isinstance(producer(layer), linear)
        assert not producer(layer).use_bias
        activation = model.get_layer(f"{place}_activation")
        assert isinstance(activation, keras.layers.Activation)
        assert producer(activation) is layer
    assert len(normalized) == len(names(model, linear)) - 1
    assert model.get_layer("predictions").use_bias


def test_bn_inception_normalizes_every_convolution(bn_inception):
    assert len(names(bn_inception, BatchNormalization)) == CONVOLUTIONS
    assert not names(bn_inception, LocalResponseNormalization)
    assert not names(bn_inception, keras.layers.Dropout)


def test_the_first_convolution_is_separable_with_depth_multiplier_8(bn_inception):
    assert names(bn_inception, keras.layers.SeparableConv2D) == ["conv1_conv"]
    assert bn_inception.get_layer("conv1_conv").depth_multiplier == 8


def test_inception_has_lrn_where_googlenet_has_it_and_40_percent_dropout():
    model = Inception(input_shape=(64, 64, 3), width=0.05)
    assert producer(model.get_layer("lrn1")).name == "pool1"
    assert producer(model.get_layer("pool2")).name == "lrn2"
    assert producer(model.get_layer("lrn2")).name == "conv2_activation"
    assert model.get_layer("dropout").rate == 0.4
    assert producer(model.get_layer("predictions")).name == "dropout"
    assert not names(model, BatchNormalization)
    assert all(
        layer.use_bias
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    )


def test_bn_baseline_can_be_built_by_either_builder():
    small = {"input_shape": (32, 32, 3), "stem": "small", "width": 0.05}
    one = Inception(normalization=BatchNormalization, **small)
    other = BNInception(dropout=0.4, local_response_normalization=True, **small)
    assert [layer.name for layer in one.layers[1:]] == [
        layer.name for layer in other.layers[1:]
    ]
    assert len(names(one, BatchNormalization)) == CONVOLUTIONS
    assert names(one, LocalResponseNormalization) == ["lrn1", "lrn2"]


def test_sigmoid_can_replace_every_relu():
    model = small_inception(activation="sigmoid")
    activations = [
        layer for layer in model.layers if isinstance(layer, keras.layers.Activation)
    ]
    assert len(activations) == CONVOLUTIONS
    assert all(layer.activation is keras.activations.sigmoid for layer in activations)


@pytest.mark.parametrize(
    ("side", "pooled"),
    [pytest.param(32, False, marks=pytest.mark.slow), (63, False), (64, True)],
)
def test_the_small_stem_pools_only_images_of_at_least_64_pixels(side, pooled):
    model = small_inception(input_shape=(side, side, 3))
    assert model.get_layer("conv1_conv").output.shape[1] == side
    assert model.get_layer("inception_3b").output.shape[1] == (32 if pooled else side)
    assert names(model, keras.layers.MaxPooling2D).count("pool2") == pooled


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 32), ("small", 4)])
def test_the_shortest_side_leaves_one_pixel_in_the_last_module(stem, side):
    model = small_inception(input_shape=(side, side, 3), stem=stem)
    assert model.get_layer("inception_5b").output.shape[1:3] == (1, 1)
    with pytest.raises(ValueError, match=rf"at least {side} pixels.*Received: input_s"):
        small_inception(input_shape=(side, side - 1, 3), stem=stem)


def test_width_multiplies_the_channels_but_leaves_at_least_one():
    model = small_inception(width=0.5)
    assert model.get_layer("inception_3a").output.shape[-1] == 128
    tiny = small_inception(width=0.001)
    assert tiny.get_layer("inception_3a_1x1_conv").filters == 1


@pytest.mark.parametrize(
    "builder",
    [Inception, pytest.param(BNInception, marks=pytest.mark.slow)],
)
def test_without_the_top_the_outputs_are_features_pooled_over_all_positions(builder):
    # `classes` is ignored, as in `keras.applications`.
    build = partial(
        builder,
        include_top=False,
        input_shape=(None, None, 3),
        classes=7,
        stem="small",
        width=0.05,
    )
    x = images((2, 32, 32, 3))
    model = build()
    assert not names(model, (keras.layers.Dense, keras.layers.Dropout))
    features = model.predict_on_batch(x)
    assert features.shape == (2, 8, 8, 51)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = build(pooling=pooling)
        assert not names(pooled, (keras.layers.Dense, keras.layers.Dropout))
        pooled.set_weights(model.get_weights())
        actual = pooled.predict_on_batch(x)
        np.testing.assert_allclose(actual, reduce(features, (1, 2)), rtol=1e-4)


@pytest.mark.slow  # The same proof for VGG is in the default suite.
def test_a_saved_and_loaded_model_has_the_same_outputs(tmp_path):
    x = images((2, 32, 32, 3))
    # With both kinds of normalization the model has every kind of layer.
    build = partial(small_inception, dropout=0.4, local_response_normalization=True)
    model = build()
    model(x, training=True)
    expected = keras.ops.convert_to_numpy(model(x))
    assert np.all(np.isfinite(expected))
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for other in (
        loaded,
        build(weights=tmp_path / "model.weights.h5"),
        build(weights=str(tmp_path / "model.keras")),
    ):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(other(x)), expected)


def test_the_normalization_may_depend_on_the_name():
    def normalization(axis, name):
        last = name.startswith("inception_5b")
        return BatchNormalization(axis=(1, 2, 3) if last else axis, name=name)

    model = small_inception(normalization=normalization)
    assert model.get_layer("inception_5b_1x1_bn").gamma.shape == (8, 8, 18)
    assert model.get_layer("inception_5a_1x1_bn").gamma.shape == (18,)


@pytest.mark.usefixtures("channels_first")
def test_every_layer_can_have_its_channels_first():
    model = BNInception(width=0.1, local_response_normalization=True)
    assert model.input_shape == (None, 3, 224, 224)
    assert model.get_layer("inception_4e").output.shape == (None, 103, 7, 7)
    assert model.get_layer("inception_3a_1x1_bn").gamma.shape == (6,)
    assert model.get_layer("lrn1").data_format == "channels_first"
    assert model.output_shape == (None, 1000)
    small = ConvNet((1, 9, 8))
    assert small.get_layer("stage_2_pool").output.shape == (None, 32, 2, 2)
    with pytest.raises(ValueError, match="Received: input_shape"):
        ConvNet((8, 8, 1))
    with pytest.raises(ValueError, match=r"channels_first.*Received: input_shape"):
        BNInception(input_shape=(224, 224, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem": "huge"}, r"'imagenet', 'small'.*Received: stem='huge'"),
        ({"width": 0}, "must be positive.*Received: width=0"),
        ({"width": -1.5}, "must be positive.*Received: width=-1.5"),
        ({"pooling": "median"}, r"'avg', 'max'.*Received: pooling='median'"),
        ({"input_shape": (32, 32)}, r"rank 3.*Received: input_shape=\(32, 32\)"),
        ({"input_shape": (32, 32, None)}, "known channels.*Received: input_shape="),
        ({"weights": "nowhere.keras"}, "existing.*Received: weights='nowhere.keras'"),
        ({"normalization": "batch"}, "None or a func.*Received: normalization='batch'"),
    ],
)
@pytest.mark.parametrize("builder", [Inception, BNInception])
@pytest.mark.fast
def test_wrong_arguments_are_named(builder, arguments, message):
    with pytest.raises(ValueError, match=message):
        builder(**arguments)
