"""Which operations a normalization moves past on its way to a linear layer."""

import keras
import numpy as np
import pytest
from folding_checks import TOLERANCE, chain, fold_and_compare, roughen
from keras import layers, ops

from bn_keras import BatchNormalization

pytestmark = pytest.mark.fast


IMAGE, SEQUENCE, VOLUME = (6, 7, 4), (9, 4), (4, 5, 4, 2)

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
    "repeat vector": ((5,), lambda: layers.RepeatVector(3)),
    "ops.mean": (IMAGE, lambda: lambda x: ops.mean(x, axis=(1, 2))),
    "ops.mean kept": (IMAGE, lambda: lambda x: ops.mean(x, axis=-2, keepdims=True)),
    "ops.reshape": (IMAGE, lambda: lambda x: ops.reshape(x, (-1, 42, x.shape[-1]))),
    "ops.expand_dims": (SEQUENCE, lambda: lambda x: ops.expand_dims(x, axis=1)),
    "ops.squeeze": ((1, 9, 4), lambda: lambda x: ops.squeeze(x, axis=1)),
    "ops.transpose": (IMAGE, lambda: lambda x: ops.transpose(x, (0, 2, 1, 3))),
    "rescaling": (IMAGE, lambda: layers.Rescaling(0.5, -2.0)),
    "times a number": (IMAGE, lambda: lambda x: x * 3.0),
    "plus a number": (IMAGE, lambda: lambda x: 0.5 + x),
    "minus from a number": (IMAGE, lambda: lambda x: 1.0 - x),
    "divided": (IMAGE, lambda: lambda x: x / 7.0),
    "plus positions": (
        SEQUENCE,
        lambda: lambda x: x + np.linspace(0, 2, 9)[:, None].astype(x.dtype),
    ),
}
# A map that varies by position cannot go into a layer that is the same everywhere.
BY_POSITION = {"plus positions"}


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
    moves = name not in BY_POSITION
    fold_and_compare(model, tolerance, folded=int(moves), left=int(not moves))


@pytest.mark.parametrize("name", COMMUTING)
def test_normalization_moves_forward_past_an_operation_that_commutes(name, dtype):
    shape, step = COMMUTING[name]
    tolerance = tolerance_of(name, dtype)
    model = chain(shape, layers.ReLU(), None, step(), layers.Dense(5), dtype=dtype)
    moves = name not in BY_POSITION
    fold_and_compare(model, tolerance, folded=int(moves), left=int(not moves))


DIFFERENT = {
    "mean of the normalized axis": (
        IMAGE,
        lambda: lambda x: ops.mean(x, axis=-1, keepdims=True),
        "averages or repeats",
    ),
    "mean of everything": (
        IMAGE,
        lambda: lambda x: ops.mean(x, keepdims=True),
        "cannot pass",
    ),
    "reshaped batch": (
        (4, 6),
        lambda: lambda x: ops.reshape(x, (-1, 6)),
        "reshapes",
    ),
    "moved batch": (
        IMAGE,
        lambda: lambda x: ops.transpose(x, (1, 0, 2, 3)),
        "cannot pass",
    ),
    "constant per example": (
        (4,),
        lambda: lambda x: x * np.ones((2, 1), x.dtype),
        "cannot pass",
    ),
    "divisor": ((4,), lambda: lambda x: 1.0 / x, "cannot pass"),
    "power": ((4,), lambda: lambda x: x**2.0, "cannot pass"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_normalization_does_not_move_past_an_operation_that_does_not(name, dtype):
    shape, step, reason = DIFFERENT[name]
    model = chain(shape, layers.Dense(6), step(), None, layers.ReLU(), dtype=dtype)
    values = np.random.default_rng(0).normal(size=(2, *shape)).astype(dtype)
    result = fold_and_compare(model, TOLERANCE[dtype], 0, 1, inputs=values)
    assert reason in result.report.entries[0].reason


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
    "difference": lambda x, y: layers.Subtract()([x, y]),
    "difference operator": lambda x, y: x - y,
    "average": lambda x, y: layers.Average()([x, y]),
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
