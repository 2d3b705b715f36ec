"""Which layers absorb a normalization beside them, along which axes."""

import keras
import numpy as np
import pytest
from folding_checks import TOLERANCE, chain, fold_and_compare, roughen
from keras import layers
from processor import skip_channels_first

from bn_keras import BatchNormalization

pytestmark = pytest.mark.fast


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


def test_a_multiply_add_is_along_its_axis_where_sizes_are_equal(dtype):
    # `keras.ops.add` would add the shift along the last axis.
    for axis, shape in (
        (1, (4, 4)),
        (2, (4, 5, 4)),
        (1, (4, 5, 4)),
        ((1, 2), (4, 4, 4)),
    ):
        model = chain(shape, layers.ReLU(), BatchNormalization(axis), dtype=dtype)
        fold_and_compare(model, TOLERANCE[dtype], folded=0, left=1)


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_first_convolutions_fold_along_axis_1(groups):
    if groups == 1:  # Keras compiles the others by XLA, which has them everywhere
        skip_channels_first()
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
