"""VGG is that of table 1 of its paper, and that of Keras."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import applications

from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization
from bn_keras.models import VGG

# Table 1: a letter for each convolution with 64, 128, 256 or 512 channels, and M for a
# max pooling.
TABLE_1 = {
    11: "a M b M c c M d d M d d M",
    13: "a a M b b M c c M d d M d d M",
    16: "a a M b b M c c c M d d d M d d d M",
    19: "a a M b b M c c c c M d d d d M d d d d M",
}
CHANNELS = {"a": 64, "b": 128, "c": 256, "d": 512}

small_vgg = partial(VGG, input_shape=(32, 32, 3), classes=5, head="small", width=0.05)
narrow_vgg = partial(VGG, input_shape=(32, 32, 3), classes=5, width=0.02)


def kinds(model, *kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def producer(layer):
    """Return the layer that produces the input of `layer`."""
    return layer.input._keras_history.operation


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("depth", TABLE_1)
def test_vgg_has_the_layers_of_table_1(depth):
    model = small_vgg(depth=depth, width=1)
    steps = kinds(model, keras.layers.Conv2D, keras.layers.MaxPooling2D)
    expected = TABLE_1[depth].split()
    assert len(steps) == len(expected)
    for layer, step in zip(steps, expected, strict=True):
        if step == "M":
            assert layer.pool_size == layer.strides == (2, 2)
        else:
            assert (layer.filters, layer.kernel_size) == (CHANNELS[step], (3, 3))
            assert (layer.strides, layer.padding) == ((1, 1), "same")


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # From the documentation of Keras (16 and 19) and torchvision (11 and 13).
    [(11, 132_863_336), (13, 133_047_848), (16, 138_357_544), (19, 143_667_240)],
)
def test_vgg_has_the_parameters_of_the_paper(depth, parameters):
    model = VGG(
        input_shape=(32, 32, 3),
        depth=depth,
        normalization=None,
        kernel_initializer="zeros",
    )
    # The first dense layer has 7x7 positions at 224 pixels, but one at 32 pixels.
    assert model.count_params() + (7 * 7 - 1) * 512 * 4096 == parameters


@pytest.mark.parametrize(
    ("depth", "include_top"),
    [
        (16, True),
        (19, False),
        pytest.param(16, False, marks=pytest.mark.slow),
        pytest.param(19, True, marks=pytest.mark.slow),
    ],
)
def test_without_bn_vgg_has_the_outputs_of_keras_applications(depth, include_top):
    arguments = {"include_top": include_top, "input_shape": (32, 32, 3), "classes": 7}
    build = getattr(applications, f"VGG{depth}")
    theirs = build(weights=None, pooling="avg", **arguments)
    ours = VGG(
        depth=depth,
        pooling="avg",
        normalization=None,
        kernel_initializer="zeros",
        **arguments,
    )
    assert ours.count_params() == theirs.count_params()
    ours.set_weights(theirs.get_weights())
    x = 100 * images((2, 32, 32, 3))
    expected = theirs.predict_on_batch(x)
    assert np.std(expected) > 0
    np.testing.assert_allclose(ours.predict_on_batch(x), expected, rtol=1e-5)


@pytest.mark.parametrize(("build", "layers"), [(narrow_vgg, 15), (small_vgg, 13)])
def test_bn_is_between_every_hidden_linear_layer_and_its_nonlinearity(build, layers):
    model = build()
    normalized = kinds(model, BatchNormalization)
    assert len(normalized) == layers
    for layer in normalized:
        assert not producer(layer).use_bias
        place = layer.name.removesuffix("_bn")
        assert producer(model.get_layer(f"{place}_activation")) is layer
    assert model.get_layer("predictions").use_bias
    folded = fold_batch_normalization(model)
    assert (folded.report.folded, folded.report.left) == (layers, 0)


def test_the_head_of_the_paper_has_dropout_after_each_of_its_two_layers():
    model = narrow_vgg()
    assert [layer.name for layer in kinds(model, keras.layers.Dense)] == [
        "fc1_dense",
        "fc2_dense",
        "predictions",
    ]
    assert [layer.units for layer in kinds(model, keras.layers.Dense)] == [82, 82, 5]
    for layer, after in (("fc1", "fc2_dense"), ("fc2", "predictions")):
        dropout = producer(model.get_layer(after))
        assert (dropout.name, dropout.rate) == (f"{layer}_dropout", 0.5)
        assert producer(dropout).name == f"{layer}_activation"
    assert not kinds(narrow_vgg(dropout=0), keras.layers.Dropout)


def test_the_small_head_is_global_average_pooling_and_a_classifier():
    model = small_vgg(input_shape=(None, 64, 3), depth=11)
    assert producer(model.get_layer("predictions")).name == "avg_pool"
    assert producer(model.get_layer("avg_pool")).name == "block5_pool"
    assert not kinds(model, keras.layers.Dropout, keras.layers.Flatten)
    assert model(images((2, 96, 64, 3))).shape == (2, 5)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [(None, (2, 2, 1, 26)), ("avg", (2, 26)), ("max", (2, 26))],
)
def test_without_the_top_the_outputs_are_features(pooling, expected):
    model = VGG(False, None, (None, None, 3), pooling, 7, depth=11, width=0.05)
    assert model(images((2, 64, 32, 3))).shape == expected
    assert not kinds(model, keras.layers.Dense, keras.layers.Dropout)


def test_the_arguments_reach_every_layer():
    def normalization(axis, name):
        return keras.layers.LayerNormalization(axis=axis, name=name)

    model = narrow_vgg(
        activation="tanh",
        normalization=normalization,
        kernel_initializer="ones",
        classifier_activation=None,
        name="tower",
    )
    assert model.name == "tower"
    *hidden, predictions = kinds(model, keras.layers.Conv2D, keras.layers.Dense)
    assert len(kinds(model, keras.layers.LayerNormalization)) == len(hidden) == 15
    for layer in kinds(model, keras.layers.Activation):
        assert layer.activation is keras.activations.tanh
    for layer in hidden:
        assert np.all(layer.get_weights()[0] == 1)
    assert not np.any(predictions.get_weights()[0] == 1)
    assert predictions.activation is keras.activations.linear


def test_layers_of_the_same_shape_start_with_different_weights():
    model = small_vgg(kernel_initializer=keras.initializers.HeNormal())
    second, third = (
        model.get_layer(f"block5_{i}_conv").get_weights()[0] for i in (2, 3)
    )
    assert not np.array_equal(second, third)


def test_a_saved_and_loaded_model_has_the_same_outputs(tmp_path):
    model, x = narrow_vgg(depth=11), images((4, 32, 32, 3))
    model(x, training=True)
    expected = keras.ops.convert_to_numpy(model(x))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for other in (
        keras.models.load_model(tmp_path / "model.keras"),
        narrow_vgg(depth=11, weights=tmp_path / "model.weights.h5"),
    ):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(other(x)), expected)


def test_vgg_with_bn_learns_at_a_high_learning_rate():
    keras.utils.set_random_seed(1)
    model = small_vgg(depth=11, width=0.1)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    y = np.arange(20) % 5
    x = images((20, 32, 32, 3)) + y[:, None, None, None]
    first = model.train_on_batch(x, y)
    for _ in range(20):
        last = model.train_on_batch(x, y)
    assert last < 0.3 * first


def test_every_layer_can_have_its_channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        model = narrow_vgg(input_shape=None, depth=11)
        assert model.input_shape == (None, 3, 224, 224)
        assert model.get_layer("block5_pool").output.shape == (None, 10, 7, 7)
        assert model.get_layer("block1_1_bn").gamma.shape == (1,)
        assert model.get_layer("fc1_bn").gamma.shape == (82,)
        with pytest.raises(ValueError, match=r"channels_first.*Received: input_shape"):
            narrow_vgg(input_shape=(32, 32, 3))
    finally:
        keras.config.set_image_data_format(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 12}, r"`depth`.*one of \[11, 13, 16, 19\]. Received: depth=12"),
        ({"head": "big"}, "`head`.*'imagenet', 'small'.*Received: head='big'"),
        ({"pooling": "median"}, r"'avg', 'max'.*Received: pooling='median'"),
        ({"width": 0}, "must be positive.*Received: width=0"),
        ({"weights": "nowhere.keras"}, "existing.*Received: weights='nowhere.keras'"),
        ({"normalization": "batch"}, "None or a func.*Received: normalization='batch'"),
        ({"input_shape": (32, 32)}, r"rank 3.*Received: input_shape=\(32, 32\)"),
        (
            {"input_shape": (32, 31, 3)},
            "at least 32 pixels to be halved five times.*Received: in",
        ),
        (
            {"input_shape": (None, 32, 3)},
            r"known sides for head=\"imagenet\".*Received: input_shape=\(None, 32, 3\)",
        ),
    ],
)
@pytest.mark.fast
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VGG(**arguments)
