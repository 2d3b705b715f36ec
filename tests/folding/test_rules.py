"""Each folding rule is exact where it applies and is not applied anywhere else."""

import keras
import numpy as np
import pytest
from folding_checks import fold_and_compare, roughen
from keras import layers

from bn_keras import BatchNormalization

pytestmark = pytest.mark.fast

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    """Set the dtype of every layer of the test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def chain(shape, *steps, dtype="float32"):
    """Return a Functional model that applies the steps; None is batch normalization."""
    x = inputs = keras.Input(shape, dtype=dtype)
    for step in steps:
        x = (BatchNormalization() if step is None else step)(x)
    return roughen(keras.Model(inputs, x))


IMAGE, SEQUENCE, VOLUME = (6, 7, 4), (9, 4), (4, 5, 4, 2)

BEFORE = {
    "dense": ((5,), lambda: layers.Dense(3)),
    "dense without bias": ((5,), lambda: layers.Dense(3, use_bias=False)),
    "dense on a sequence": (SEQUENCE, lambda: layers.Dense(3)),
    "einsum": ((5,), lambda: layers.EinsumDense("ab,bc->ac", 3, bias_axes="c")),
    "einsum, ellipsis": (SEQUENCE, lambda: layers.EinsumDense("...x,xy->...y", 3)),
    "einsum, heads": (
        SEQUENCE,
        lambda: layers.EinsumDense("btx,xhd->bthd", (None, 2, 3), bias_axes="hd"),
    ),
    "einsum, heads, bias on one": (
        SEQUENCE,
        lambda: layers.EinsumDense("btx,xhd->bthd", (None, 2, 3), bias_axes="h"),
    ),
    "conv1d": (SEQUENCE, lambda: layers.Conv1D(3, 3)),
    "conv1d causal": (SEQUENCE, lambda: layers.Conv1D(3, 3, padding="causal")),
    "conv2d": (IMAGE, lambda: layers.Conv2D(3, 3, use_bias=False)),
    "conv2d same": (IMAGE, lambda: layers.Conv2D(3, 3, padding="same")),
    "conv2d strided": (IMAGE, lambda: layers.Conv2D(3, 3, 2, padding="same")),
    "conv2d dilated": (
        IMAGE,
        lambda: layers.Conv2D(3, 2, dilation_rate=2, padding="same"),
    ),
    "conv2d grouped": (IMAGE, lambda: layers.Conv2D(6, 3, groups=2)),
    "conv3d": (VOLUME, lambda: layers.Conv3D(3, 2)),
    "depthwise1d": (SEQUENCE, lambda: layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "depthwise2d": (IMAGE, lambda: layers.DepthwiseConv2D(3, depth_multiplier=3)),
    "separable1d": (SEQUENCE, lambda: layers.SeparableConv1D(3, 3, depth_multiplier=2)),
    "separable2d": (
        IMAGE,
        lambda: layers.SeparableConv2D(3, 3, padding="same", depth_multiplier=2),
    ),
    "transposed1d": (SEQUENCE, lambda: layers.Conv1DTranspose(3, 3, 2)),
    "transposed2d": (IMAGE, lambda: layers.Conv2DTranspose(3, 3, 2, padding="same")),
    "transposed3d": (VOLUME, lambda: layers.Conv3DTranspose(3, 2)),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_linear_layer_absorbs_the_normalization_after_it(name, dtype):
    shape, layer = BEFORE[name]
    model = chain(shape, layer(), None, layers.ReLU(), dtype=dtype)
    result = fold_and_compare(model, TOLERANCE[dtype], folded=1, left=0)
    (entry,) = result.report.entries
    assert entry.into == (model.layers[1].name,)
    assert entry.rule == f"{type(model.layers[1]).__name__}, then BN"


AFTER = {
    "dense": ((5,), lambda: layers.Dense(3, activation="tanh")),
    "dense on a sequence": (SEQUENCE, lambda: layers.Dense(3)),
    "einsum": (SEQUENCE, lambda: layers.EinsumDense("...x,xy->...y", 3)),
    "einsum, heads": (
        SEQUENCE,
        lambda: layers.EinsumDense("btx,xhd->bthd", (None, 2, 3), bias_axes="h"),
    ),
    "einsum, heads joined": (
        (5, 2, 3),
        lambda: layers.EinsumDense("bthd,hdx->btx", (None, 4), bias_axes="x"),
    ),
    "conv1d": (SEQUENCE, lambda: layers.Conv1D(3, 3, activation="relu")),
    "conv2d": (IMAGE, lambda: layers.Conv2D(3, 3, use_bias=False)),
    "conv2d strided and dilated": (IMAGE, lambda: layers.Conv2D(3, 2, dilation_rate=2)),
    "conv2d grouped": (IMAGE, lambda: layers.Conv2D(6, 3, groups=2)),
    "conv2d 1x1 same": (IMAGE, lambda: layers.Conv2D(3, 1, 2, padding="same")),
    "conv3d": (VOLUME, lambda: layers.Conv3D(3, 2)),
    "depthwise1d": (SEQUENCE, lambda: layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "depthwise2d": (IMAGE, lambda: layers.DepthwiseConv2D(3, depth_multiplier=3)),
    "separable1d": (SEQUENCE, lambda: layers.SeparableConv1D(3, 3, depth_multiplier=2)),
    "separable2d": (IMAGE, lambda: layers.SeparableConv2D(3, 3, depth_multiplier=2)),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_linear_layer_absorbs_the_normalization_before_it(name, dtype):
    shape, layer = AFTER[name]
    model = chain(shape, layers.ReLU(), None, layer(), dtype=dtype)
    result = fold_and_compare(model, TOLERANCE[dtype], folded=1, left=0)
    assert (
        result.report.entries[0].rule == f"BN, then {type(model.layers[-1]).__name__}"
    )


PADDED = {
    "conv1d same": (SEQUENCE, lambda: layers.Conv1D(3, 3, padding="same")),
    "conv1d causal": (SEQUENCE, lambda: layers.Conv1D(3, 3, padding="causal")),
    "conv2d same": (IMAGE, lambda: layers.Conv2D(3, 3, padding="same")),
    "depthwise same": (IMAGE, lambda: layers.DepthwiseConv2D(3, padding="same")),
    "separable same": (IMAGE, lambda: layers.SeparableConv2D(3, 3, padding="same")),
    "transposed": (IMAGE, lambda: layers.Conv2DTranspose(3, 3)),
}


@pytest.mark.parametrize("name", PADDED)
def test_a_shift_does_not_fold_into_a_layer_that_pads_with_zeros(name, dtype):
    shape, layer = PADDED[name]
    model = chain(shape, layers.ReLU(), None, layer(), dtype=dtype)
    result = fold_and_compare(model, TOLERANCE[dtype], folded=0, left=1)
    assert "shift" in result.report.entries[0].reason


@pytest.mark.parametrize("name", PADDED)
def test_a_scale_without_a_shift_folds_into_a_layer_that_pads_with_zeros(name, dtype):
    shape, layer = PADDED[name]
    x = inputs = keras.Input(shape, dtype=dtype)
    normalization = BatchNormalization(center=False)
    model = keras.Model(inputs, layer()(normalization(layers.ReLU()(x))))
    roughen(model)
    normalization.moving_mean.assign(np.zeros(shape[-1]))
    fold_and_compare(model, TOLERANCE[dtype], folded=1, left=0)


COMMUTING = {
    "average pool": (IMAGE, lambda: layers.AveragePooling2D(2, padding="same")),
    "average pool overlapping": (
        IMAGE,
        lambda: layers.AveragePooling2D(3, 1, padding="same"),
    ),
    "average pool 1d": (SEQUENCE, lambda: layers.AveragePooling1D(2)),
    "average pool 3d": (VOLUME, lambda: layers.AveragePooling3D(2, padding="same")),
    "adaptive average pool": (IMAGE, lambda: layers.AdaptiveAveragePooling2D((2, 3))),
    "global average": (IMAGE, lambda: layers.GlobalAveragePooling2D()),
    "global average kept": (
        IMAGE,
        lambda: layers.GlobalAveragePooling2D(keepdims=True),
    ),
    "global average 1d": (SEQUENCE, lambda: layers.GlobalAveragePooling1D()),
    "upsampling": (IMAGE, lambda: layers.UpSampling2D(2)),
    "upsampling bilinear": (
        IMAGE,
        lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    ),
    "upsampling 1d": (SEQUENCE, lambda: layers.UpSampling1D(2)),
    "cropping": (IMAGE, lambda: layers.Cropping2D(1)),
    "cropping 1d": (SEQUENCE, lambda: layers.Cropping1D(1)),
    "permute": (IMAGE, lambda: layers.Permute((2, 1, 3))),
    "linear activation": (IMAGE, lambda: layers.Activation("linear")),
    "identity": (IMAGE, lambda: layers.Identity()),
    "dropout": (IMAGE, lambda: layers.Dropout(0.4)),
    "spatial dropout": (IMAGE, lambda: layers.SpatialDropout2D(0.4)),
    "gaussian noise": (IMAGE, lambda: layers.GaussianNoise(0.4)),
}


def tolerance_of(name, dtype):
    if name == "average pool 3d" and dtype == "float64":
        pytest.skip("TensorFlow has no 3D average pooling in float64 on a CPU")
    # TensorFlow always interpolates in float32.
    return 1e-6 if name == "upsampling bilinear" else TOLERANCE[dtype]


@pytest.mark.parametrize("name", COMMUTING)
def test_normalization_moves_backward_past_an_operation_that_commutes(name, dtype):
    shape, step = COMMUTING[name]
    tolerance = tolerance_of(name, dtype)
    model = chain(shape, layers.Dense(5), step(), None, layers.ReLU(), dtype=dtype)
    fold_and_compare(model, tolerance, folded=1, left=0)


@pytest.mark.parametrize("name", COMMUTING)
def test_normalization_moves_forward_past_an_operation_that_commutes(name, dtype):
    shape, step = COMMUTING[name]
    tolerance = tolerance_of(name, dtype)
    model = chain(shape, layers.ReLU(), None, step(), layers.Dense(5), dtype=dtype)
    fold_and_compare(model, tolerance, folded=1, left=0)


MAXIMA = {
    "max pool": (IMAGE, lambda: layers.MaxPooling2D(3, 2, padding="same")),
    "max pool 1d": (SEQUENCE, lambda: layers.MaxPooling1D(2)),
    "adaptive max pool": (IMAGE, lambda: layers.AdaptiveMaxPooling2D((2, 2))),
    "global max": (IMAGE, lambda: layers.GlobalMaxPooling2D()),
    "global max 1d": (SEQUENCE, lambda: layers.GlobalMaxPooling1D()),
}


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("name", MAXIMA)
def test_normalization_moves_past_a_maximum_only_if_every_scale_is_positive(
    name, positive, dtype
):
    shape, step = MAXIMA[name]
    model = chain(shape, layers.Dense(5), step(), None, layers.ReLU(), dtype=dtype)
    (normalization,) = (x for x in model.layers if isinstance(x, BatchNormalization))
    normalization.gamma.assign([1, 2, 1e-6, 0.5, 3 if positive else -3])
    result = fold_and_compare(model, TOLERANCE[dtype], folded=int(positive))
    if not positive:
        assert "would turn the maximum" in result.report.entries[0].reason


def test_normalization_after_zero_padding_is_not_moved(dtype):
    model = chain(
        IMAGE, layers.Conv2D(3, 2), layers.ZeroPadding2D(1), None, dtype=dtype
    )
    result = fold_and_compare(model, TOLERANCE[dtype], folded=0, left=1)
    assert "pads with zeros" in result.report.entries[0].reason


def test_normalization_before_zero_padding_is_not_moved(dtype):
    steps = layers.ReLU(), None, layers.ZeroPadding2D(1), layers.Conv2D(3, 3)
    fold_and_compare(chain(IMAGE, *steps, dtype=dtype), TOLERANCE[dtype], 0, 1)


@pytest.mark.parametrize("axis", [-1, 1])
def test_normalization_is_split_between_the_branches_of_a_concatenation(axis, dtype):
    inputs = keras.Input((5, 4), dtype=dtype)
    branches = [
        layers.Dense(3 if axis == 1 else size, use_bias=size == 2)(inputs)
        for size in (2, 3, 4)
    ]
    x = BatchNormalization()(layers.Concatenate(axis=axis)(branches))
    model = roughen(keras.Model(inputs, layers.ReLU()(x)))
    result = fold_and_compare(model, TOLERANCE[dtype], folded=1, left=0)
    assert len(result.report.entries[0].into) == 3
    assert result.report.entries[0].rule == "Dense, Concatenate, then BN"


def test_one_nonlinear_branch_of_a_concatenation_prevents_folding(dtype):
    inputs = keras.Input((4,), dtype=dtype)
    branches = [layers.Dense(3)(inputs), layers.Dense(3, activation="relu")(inputs)]
    x = BatchNormalization()(layers.Concatenate()(branches))
    model = roughen(keras.Model(inputs, layers.ReLU()(x)))
    result = fold_and_compare(model, TOLERANCE[dtype], folded=0, left=1)
    assert "nonlinearity" in result.report.entries[0].reason


ADDITIONS = {
    "layer": lambda x, y: layers.Add()([x, y]),
    "operator": lambda x, y: x + y,
    "function": keras.ops.add,
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_before_an_addition_every_branch_is_scaled_and_one_is_shifted(name, dtype):
    inputs = keras.Input(IMAGE, dtype=dtype)
    branches = layers.Conv2D(3, 3)(inputs), layers.Conv2D(3, 3, use_bias=False)(inputs)
    x = BatchNormalization()(ADDITIONS[name](*branches))
    model = roughen(keras.Model(inputs, layers.ReLU()(x)))
    result = fold_and_compare(model, TOLERANCE[dtype], folded=1, left=0)
    assert len(result.report.entries[0].into) == 2


def test_an_addition_that_broadcasts_the_normalized_axis_prevents_folding(dtype):
    inputs = keras.Input((4,), dtype=dtype)
    x = layers.Add()([layers.Dense(3)(inputs), layers.Dense(1)(inputs)])
    model = roughen(keras.Model(inputs, BatchNormalization()(x)))
    result = fold_and_compare(model, TOLERANCE[dtype], folded=0, left=1)
    assert "broadcasts" in result.report.entries[0].reason


def test_the_addition_of_a_constant_prevents_folding(dtype):
    inputs = keras.Input((4,), dtype=dtype)
    model = keras.Model(inputs, BatchNormalization()(layers.Dense(3)(inputs) + 1.0))
    result = fold_and_compare(roughen(model), TOLERANCE[dtype], folded=0, left=1)
    assert "adds a constant" in result.report.entries[0].reason


def test_concatenation_by_keras_ops_counts_as_a_concatenation(dtype):
    inputs = keras.Input((4,), dtype=dtype)
    x = keras.ops.concatenate(
        [layers.Dense(3)(inputs), layers.Dense(2)(inputs)], axis=1
    )
    model = roughen(keras.Model(inputs, keras.ops.relu(BatchNormalization()(x))))
    fold_and_compare(model, TOLERANCE[dtype], folded=1, left=0)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_flatten_repeats_the_normalization_for_every_position(data_format, dtype):
    axis = 3 if data_format == "channels_last" else 1
    flatten = layers.Flatten(data_format=data_format)
    steps = layers.ReLU(), BatchNormalization(axis), flatten, layers.Dense(3)
    result = fold_and_compare(
        chain((4, 3, 2), *steps, dtype=dtype), TOLERANCE[dtype], 1
    )
    assert result.report.entries[0].rule == "BN, Flatten, then Dense"


def test_normalization_of_flattened_feature_maps_folds_only_forward(dtype):
    steps = layers.Conv2D(3, 3), layers.Flatten(), None, layers.Dense(2)
    result = fold_and_compare(chain(IMAGE, *steps, dtype=dtype), TOLERANCE[dtype], 1, 0)
    assert result.report.entries[0].rule == "BN, then Dense"
    alone = chain(IMAGE, layers.Conv2D(3, 3), layers.Flatten(), None, dtype=dtype)
    fold_and_compare(alone, TOLERANCE[dtype], folded=0, left=1)


def test_normalization_after_a_reshaped_dense_layer_is_repeated(dtype):
    steps = layers.Dense(24), layers.Reshape((2, 3, 4)), None, layers.ReLU()
    fold_and_compare(chain((5,), *steps, dtype=dtype), TOLERANCE[dtype], 1, 0)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_normalization_does_not_move_backward_past_a_nonlinearity(activation, dtype):
    for steps in (
        [layers.Conv2D(3, 3, activation=activation)],
        [layers.Conv2D(3, 3), layers.Activation(activation)],
    ):
        forward = chain(IMAGE, *steps, None, layers.Conv2D(2, 2), dtype=dtype)
        result = fold_and_compare(forward, TOLERANCE[dtype], folded=1, left=0)
        assert result.report.entries[0].rule == "BN, then Conv2D"
        last = chain(IMAGE, *steps, None, dtype=dtype)
        result = fold_and_compare(last, TOLERANCE[dtype], folded=0, left=1)
        reason = result.report.entries[0].reason
        assert "nonlinearity" in reason or "(Activation), which it cannot" in reason


def test_normalization_folds_forward_only_if_every_consumer_absorbs_it(dtype):
    inputs = keras.Input((4,), dtype=dtype)
    x = BatchNormalization()(layers.ReLU()(inputs))
    both = keras.Model(inputs, [layers.Dense(3)(x), layers.Dense(2)(x)])
    result = fold_and_compare(roughen(both), TOLERANCE[dtype], folded=1, left=0)
    assert len(result.report.entries[0].into) == 2
    one = keras.Model(inputs, [layers.Dense(3)(x), layers.ReLU()(x)])
    fold_and_compare(roughen(one), TOLERANCE[dtype], folded=0, left=1)
    returned = keras.Model(inputs, [layers.Dense(3)(x), x])
    result = fold_and_compare(roughen(returned), TOLERANCE[dtype], folded=0, left=1)
    assert "is a model output" in result.report.entries[0].reason


def test_two_consecutive_normalizations_fold_together(dtype):
    fold_and_compare(
        chain((4,), layers.Dense(3), None, None, dtype=dtype), TOLERANCE[dtype], 2, 0
    )
    steps = layers.ReLU(), None, None, layers.Dense(3)
    result = fold_and_compare(chain((4,), *steps, dtype=dtype), TOLERANCE[dtype], 2, 0)
    assert {x.into for x in result.report.entries} == {(result.model.layers[-1].name,)}
    left = chain((4,), layers.ReLU(), None, None, layers.ReLU(), dtype=dtype)
    result = fold_and_compare(left, TOLERANCE[dtype], folded=1, left=1)
    assert result.report.entries[1].rule == "multiply-add, then BN"


def test_a_layer_between_two_normalizations_absorbs_both(dtype):
    steps = layers.ReLU(), None, layers.Conv2D(3, 3), None, layers.ReLU()
    fold_and_compare(chain(IMAGE, *steps, dtype=dtype), TOLERANCE[dtype], 2, 0)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("kind", [BatchNormalization, layers.BatchNormalization])
def test_folding_respects_epsilon_and_a_missing_gamma_or_beta(
    kind, scale, center, dtype
):
    normalization = kind(scale=scale, center=center, epsilon=0.3, trainable=False)
    model = chain((4,), layers.Dense(3), normalization, dtype=dtype)
    fold_and_compare(model, TOLERANCE[dtype], folded=1, left=0)


def test_normalization_per_activation_folds_through_flatten_and_reshape(dtype):
    per_activation = BatchNormalization(axis=(1, 2, 3))
    steps = layers.ReLU(), per_activation, layers.Flatten(), layers.Dense(3)
    fold_and_compare(chain((3, 4, 2), *steps, dtype=dtype), TOLERANCE[dtype], 1, 0)
    per_activation = BatchNormalization(axis=(3, 1, 2))
    steps = layers.Dense(24), layers.Reshape((2, 3, 4)), per_activation
    fold_and_compare(chain((5,), *steps, dtype=dtype), TOLERANCE[dtype], 1, 0)


def test_normalization_per_activation_after_a_convolution_is_a_multiply_add(dtype):
    steps = layers.Conv2D(3, 3), BatchNormalization(axis=(1, 2, 3)), layers.ReLU()
    result = fold_and_compare(chain(IMAGE, *steps, dtype=dtype), TOLERANCE[dtype], 0, 1)
    assert "not the channel axis" in result.report.entries[0].reason


def test_normalization_along_an_axis_other_than_channels_is_a_multiply_add(dtype):
    for layer, shape in ((layers.Dense(3), SEQUENCE), (layers.Conv2D(3, 3), IMAGE)):
        model = chain(shape, layer, BatchNormalization(axis=1), dtype=dtype)
        fold_and_compare(model, TOLERANCE[dtype], folded=0, left=1)
    einsum = layers.EinsumDense("...x,xy->...y", 3)
    model = chain(SEQUENCE, einsum, BatchNormalization(axis=1), dtype=dtype)
    result = fold_and_compare(model, TOLERANCE[dtype], folded=0, left=1)
    assert "must have every axis" in result.report.entries[0].reason


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_first_convolutions_fold_along_axis_1(groups):
    steps = (
        layers.Conv2D(4, 3, groups=groups, data_format="channels_first"),
        BatchNormalization(axis=1),
        layers.AveragePooling2D(2, data_format="channels_first"),
        BatchNormalization(axis=1),
        layers.Flatten(data_format="channels_first"),
        layers.Dense(3),
    )
    model = chain((4, 8, 8), *steps)
    assert fold_and_compare(model, 1e-5, folded=2, left=0)
