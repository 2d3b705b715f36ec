"""Averaging, virtual batches, renormalization, freezing and data types of the layer."""

import keras
import numpy as np
import pytest
from keras import ops
from normalization_oracle import (
    SLOW,
    TENSORFLOW,
    differentiate,
    layer_gradients,
    oracle,
    random_case,
)

from bn_keras import BatchNormalization

KERAS = keras.layers.BatchNormalization


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


def weights_of(layer):
    return [ops.convert_to_numpy(weight) for weight in layer.weights]


@pytest.mark.fast
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("averaging", ["moving", "cumulative", "debiased"])
def test_each_average_at_steps_one_two_three(averaging, unbiased):
    layer = BatchNormalization(momentum=0.7, averaging=averaging, unbiased=unbiased)
    means, variances = [], []
    for step in (1, 2, 3):
        values = draw((5, 3), seed=step)
        layer(values, training=True)
        if step > 1:  # neither a single example nor NaN counts as a mini-batch
            layer(values[:1], training=True)
            layer(values * np.nan, training=True)
        means.append(values.astype(np.float64).mean(0))
        variances.append(values.astype(np.float64).var(0, ddof=int(unbiased)))
        ages = np.arange(step)[::-1]
        weights = {"cumulative": np.ones(step), "debiased": 0.7**ages}.get(averaging)
        for statistic, moments, initial in (
            (layer.moving_mean, means, 0.0),
            (layer.moving_variance, variances, 1.0),
        ):
            if averaging == "moving":
                past = 0.7**step * initial
                expected = past + np.tensordot(0.3 * 0.7**ages, moments, 1)
            else:
                expected = np.average(moments, axis=0, weights=weights)
            np.testing.assert_allclose(statistic, expected, rtol=1e-5)
    if averaging != "moving":
        np.testing.assert_array_equal(layer.updates, 3)


@pytest.mark.fast
def test_averages_count_the_updates_of_each_channel():
    layer = BatchNormalization(averaging="cumulative")
    batches = [draw((5, 2), seed) for seed in (1, 2, 3)]
    batches[1][2, 0] = np.inf
    for batch in batches:
        layer(batch, training=True)
    np.testing.assert_array_equal(layer.updates, [2, 3])
    expected = [
        np.mean([batch[:, 0].mean() for batch in (batches[0], batches[2])]),
        np.mean([batch[:, 1].mean() for batch in batches]),
    ]
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis", "axes"),
    [
        ((12, 3), -1, (0,)),
        ((12, 5, 3), -1, (0, 1)),
        ((12, 3, 4, 2), 1, (0, 2, 3)),
        ((12, 2, 2, 3), (1, 2, 3), (0,)),
    ],
)
def test_virtual_batches_are_normalized_one_by_one(shape, axis, axes, masked):
    x, _, _, cotangent = random_case(shape, axes)
    weight_shape = [size for i, size in enumerate(shape) if i not in axes]
    gamma, beta = np.random.default_rng(4).uniform(0.5, 2, (2, *weight_shape))
    layer = BatchNormalization(axis, momentum=0.6, virtual_batch_size=4)
    layer.build(shape)
    layer.set_weights([gamma, beta, *weights_of(layer)[2:]])
    mask = None
    if masked:
        mask = np.random.default_rng(1).random((*shape[:-1], 1)) < 0.7
        mask[4:8] = False  # the second virtual batch has no values
    outputs, gradient = layer_gradients(
        layer, x, cotangent, mask=None if mask is None else mask[..., 0]
    )
    broadcast_shape = [1 if i in axes else size for i, size in enumerate(shape)]
    means, variances = [], []
    for start in (0, 4, 8):
        part = slice(start, start + 4)
        part_mask = None if mask is None else np.broadcast_to(mask[part], x[part].shape)
        expected = oracle(
            x[part],
            gamma.reshape(broadcast_shape),
            beta.reshape(broadcast_shape),
            cotangent[part],
            axes,
            layer.epsilon,
            part_mask,
        )
        np.testing.assert_allclose(outputs[part], expected.outputs, atol=1e-4)
        np.testing.assert_allclose(
            gradient[part], expected.inputs_gradient, atol=1e-4, rtol=1e-4
        )
        unmasked = np.ones(x[part].shape) if part_mask is None else part_mask
        count = unmasked.sum(axes, keepdims=True)
        if (count >= 2).all():
            means.append(expected.mean.reshape(weight_shape))
            unbiased = expected.variance * count / (count - 1)
            variances.append(unbiased.reshape(weight_shape))
    assert len(means) == (2 if masked else 3)
    np.testing.assert_allclose(
        layer.moving_mean, 0.4 * np.mean(means, 0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        layer.moving_variance, 0.6 + 0.4 * np.mean(variances, 0), rtol=1e-5
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [12, 10, 3, 1, 0])
def test_the_remainder_of_a_batch_is_a_smaller_virtual_batch(size, known):
    layer = BatchNormalization(momentum=0.0, virtual_batch_size=4)
    layer.build((None, 3))
    x, cotangent = draw((size, 3)), draw((size, 3), seed=1)
    if known or not TENSORFLOW:
        outputs, gradients = layer_gradients(layer, x, cotangent)
    else:
        outputs, gradients = differentiate(
            lambda x: (layer(x, training=True),), (x,), cotangent, "unknown batch"
        )
    parts = [slice(start, start + 4) for start in range(0, size, 4)]
    ones, zeros = np.ones((1, 3)), np.zeros((1, 3))
    expected = [
        oracle(x[part], ones, zeros, cotangent[part], (0,), 1e-3) for part in parts
    ]
    assert outputs.shape == gradients.shape == (size, 3)
    for part, results in zip(parts, expected, strict=True):
        np.testing.assert_allclose(outputs[part], results.outputs, atol=1e-5)
        np.testing.assert_allclose(gradients[part], results.inputs_gradient, atol=1e-5)
    means = [x[part].mean(0) for part in parts if len(x[part]) > 1]
    variances = [x[part].var(0, ddof=1) for part in parts if len(x[part]) > 1]
    if means:
        np.testing.assert_allclose(layer.moving_mean, np.mean(means, 0), rtol=1e-5)
        variance = np.mean(variances, 0)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)
    else:
        np.testing.assert_array_equal(layer.moving_variance, 1)


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((2, 3), True),
        ((3,), False),
        pytest.param((3,), True, marks=pytest.mark.slow),
        pytest.param((2, 3), False, marks=pytest.mark.slow),
    ],
)
def test_virtual_batches_of_a_batch_of_unknown_size(shape, scale):
    layer = BatchNormalization(
        momentum=0.0, virtual_batch_size=4, scale=scale, center=scale
    )
    model = keras.Sequential([keras.Input(shape), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = draw((12, *shape)), draw((12, *shape[:-1], 1))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    last = x[8:].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(layer.moving_mean, last.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, last.var(0, ddof=1), rtol=1e-5)


CLIPPINGS = [
    None,
    {"rmax": 1.5, "rmin": 0.8, "dmax": 0.3},
    {"rmax": 1.1},
    {"dmax": 0.0},
]


@pytest.mark.parametrize(
    ("clipping", "axis", "masked"),
    [
        pytest.param(
            clipping,
            axis,
            masked,
            # By default: every clipping, channels first, and a mask.
            marks=(
                () if clipping == CLIPPINGS[1] or (axis == -1 and not masked) else SLOW
            ),
        )
        for clipping in CLIPPINGS
        for axis in (-1, 1)
        for masked in (False, True)
    ],
)
def test_renormalization_is_that_of_keras_over_several_steps(clipping, axis, masked):
    arguments = {
        "axis": axis,
        "momentum": 0.8,
        "renorm": True,
        "renorm_clipping": clipping,
        "renorm_momentum": 0.6,
        "gamma_initializer": "ones",
    }
    keras_layer = KERAS(**arguments)
    layer = BatchNormalization(unbiased=False, **arguments)
    for built in (keras_layer, layer):
        built.build((None, 4, 3, 3))
    layer.set_weights(keras_layer.get_weights())
    for step in range(4):
        x = 0.1 * step + (1 + step) * draw((6, 4, 3, 3), seed=step)
        cotangent = draw(x.shape, seed=10 + step)
        mask = draw(x.shape[:-1], seed=20 + step) > 0 if masked else None
        keras_values = layer_gradients(keras_layer, x, cotangent, mask=mask)
        values = layer_gradients(layer, x, cotangent, mask=mask)
        for value, expected in zip(values, keras_values, strict=True):
            np.testing.assert_allclose(value, expected, atol=2e-5)
        for weight, expected in zip(layer.weights, keras_layer.weights, strict=True):
            assert weight.name == expected.name
            np.testing.assert_allclose(weight, expected, rtol=1e-5, err_msg=weight.name)
    np.testing.assert_allclose(layer(x), keras_layer(x), atol=1e-5)


def functional_model(layer, **arguments):
    inputs = keras.Input((3,))
    hidden = layer(keras.layers.Dense(3)(inputs), **arguments)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("layer", [BatchNormalization, KERAS])
def test_fit_overrides_the_training_argument_of_a_functional_model(layer):
    # keras#20285: the documentation of `frozen_statistics` says so.
    layer = layer()
    functional_model(layer, training=False).fit(draw((8, 3)), draw((8, 1)), verbose=0)
    assert np.abs(layer.moving_mean).max() > 0


def test_fit_with_frozen_statistics_trains_only_gamma_and_beta():
    layer = BatchNormalization(frozen_statistics=True)
    model = functional_model(layer)
    statistics = np.array([0.5, 1.0, -1.0]), np.array([4.0, 2.0, 0.5])
    for variable, value in zip(layer.weights[2:], statistics, strict=True):
        variable.assign(value)
    model.fit(draw((8, 3)), draw((8, 1)), epochs=2, verbose=0)
    np.testing.assert_array_equal(layer.moving_mean, statistics[0])
    np.testing.assert_array_equal(layer.moving_variance, statistics[1])
    for weight, initial in ((layer.gamma, 1), (layer.beta, 0)):
        assert np.abs(np.asarray(weight) - initial).min() > 1e-5
    values = draw((4, 3))
    np.testing.assert_array_equal(layer(values, training=True), layer(values))


@pytest.mark.parametrize("unfreeze", [False, True])
def test_fit_changes_a_layer_only_if_it_is_trainable(unfreeze):
    layer = BatchNormalization(trainable=False)
    model = functional_model(layer)
    layer.trainable = unfreeze
    model.compile("sgd", "mse")
    before = weights_of(layer)
    model.fit(draw((8, 3)), draw((8, 1)), verbose=0)
    for old, new in zip(before, weights_of(layer), strict=True):
        assert np.array_equal(old, new) != unfreeze


@pytest.mark.fast
@pytest.mark.parametrize(
    "arguments",
    [{}, {"averaging": "debiased"}, {"renorm": True}, {"virtual_batch_size": 4}],
    ids=str,
)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38])
def test_a_batch_that_is_not_finite_does_not_change_the_statistics(wrong, arguments):
    layer = BatchNormalization(momentum=0.5, **arguments)
    layer(draw((8, 3)), training=True)
    before = weights_of(layer)
    values = draw((8, 3), seed=1)
    values[:, 1] = wrong  # 3e38 is finite, but a sum of eight is not
    outputs = np.asarray(layer(values, training=True))
    assert not np.isfinite(outputs[:, 1]).all()
    assert np.isfinite(outputs[:, [0, 2]]).all()
    for old, new in zip(before[2:], weights_of(layer)[2:], strict=True):
        np.testing.assert_array_equal(old[1], new[1])
        assert np.isfinite(new).all()
        assert (old[[0, 2]] != new[[0, 2]]).all()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 3), -1), ((1, 2, 2, 3), (1, 2, 3)), ((1, 1, 3), -1)]
)
@pytest.mark.parametrize("arguments", [{}, {"averaging": "cumulative"}], ids=str)
def test_a_single_value_per_channel_gives_beta_and_no_update(shape, axis, arguments):
    layer = BatchNormalization(axis, beta_initializer="ones", **arguments)
    outputs = layer(draw(shape), training=True)
    np.testing.assert_array_equal(outputs, 1)
    np.testing.assert_array_equal(layer.moving_mean, 0)
    np.testing.assert_array_equal(layer.moving_variance, 1)


@pytest.mark.fast
def test_channels_with_one_unmasked_value_keep_their_statistics():
    layer = BatchNormalization(axis=(1, 2), momentum=0.0)
    mask = np.array([[1, 1], [0, 1], [0, 1]], bool)
    values = draw((3, 2, 4))
    layer(values, training=True, mask=mask)
    np.testing.assert_array_equal(layer.moving_mean[0], 0)
    np.testing.assert_array_equal(layer.moving_variance[0], 1)
    np.testing.assert_allclose(layer.moving_mean[1], values[:, 1].mean(0), rtol=1e-5)


POLICIES = {
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "float32": ("float32", "float32"),
    "float64": ("float64", "float64"),
    "mixed_float16": ("float16", "float32"),
    "mixed_bfloat16": ("bfloat16", "float32"),
}


@pytest.mark.fast
@pytest.mark.parametrize("policy", POLICIES if TENSORFLOW else list(POLICIES)[:3])
@pytest.mark.parametrize("arguments", [{}, {"renorm": True}], ids=str)
def test_statistics_have_at_least_float32(policy, arguments):
    compute_dtype, statistics_dtype = POLICIES[policy]
    layer = BatchNormalization(momentum=0.0, dtype=policy, **arguments)
    values = ops.cast(
        1e4 * np.random.default_rng(0).normal(size=(256, 2)), compute_dtype
    )
    outputs = layer(values, training=True)
    # A variance of 1e8 overflows float16.
    exact = ops.convert_to_numpy(ops.cast(values, statistics_dtype)).astype(np.float64)
    inferred = layer(values)
    for weight in layer.weights:
        dtype = statistics_dtype
        if weight.name in ("gamma", "beta"):
            dtype = layer.variable_dtype
        assert keras.backend.standardize_dtype(weight.dtype) == dtype
    for result in (outputs, inferred):
        assert keras.backend.standardize_dtype(result.dtype) == compute_dtype
    np.testing.assert_allclose(layer.moving_mean, exact.mean(0), rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, exact.var(0, ddof=1), rtol=1e-4)
    inferred = ops.convert_to_numpy(ops.cast(inferred, "float32"))
    np.testing.assert_allclose(
        inferred, (exact - exact.mean(0)) / exact.std(0, ddof=1), atol=2e-2
    )


@pytest.mark.fast
def test_integers_are_normalized_in_float32():
    values = np.arange(12).reshape(6, 2)
    outputs = np.asarray(BatchNormalization(epsilon=0)(values, training=True))
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(outputs.std(0), 1, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": -0.1}, r"\[0, 1\]\. Received: momentum=-0.1"),
        ({"momentum": float("nan")}, "Received: momentum=nan"),
        ({"epsilon": -1.0}, "not negative. Received: epsilon=-1.0"),
        ({"axis": 1.5}, "integer or a tuple of integers. Received: axis=1.5"),
        ({"axis": "last"}, "Received: axis='last'"),
        ({"averaging": "mean"}, "moving, cumulative, debiased. Received: .*'mean'"),
        ({"virtual_batch_size": 0}, "Received: virtual_batch_size=0"),
        ({"virtual_batch_size": 2.5}, "Received: virtual_batch_size=2.5"),
        ({"virtual_batch_size": True}, "Received: virtual_batch_size=True"),
        ({"momentum": "0.9"}, r"number in \[0, 1\]\. Received: momentum='0.9'"),
        ({"renorm_momentum": None}, "Received: renorm_momentum=None"),
        ({"epsilon": None}, "not negative. Received: epsilon=None"),
        ({"virtual_batch_size": 4, "renorm": True}, "without `renorm` and"),
        ({"virtual_batch_size": 4, "synchronized": True}, "synchronized=True"),
        ({"renorm": True, "renorm_clipping": {"max": 1}}, "Received: .*'max': 1"),
        (
            {"renorm": True, "renorm_clipping": {"rmax": 1, "rmin": 2}},
            "rmin <= rmax .* Received: ",
        ),
        ({"renorm": True, "renorm_clipping": {"dmax": -1}}, "dmax >= 0. Received: "),
    ],
)
def test_the_error_for_a_wrong_argument_says_what_is_valid(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        BatchNormalization(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("axis", "shape", "message"),
    [
        (3, (None, 2, 3), r"-3 to 2\. Received: axis=3, input shape \(None, 2, 3\)"),
        (-4, (None, 2, 3), r"-3 to 2\. Received: axis=-4"),
        ((-1, 2), (None, 2, 3), r"twice\. Received: axis=\(-1, 2\)"),
    ],
)
def test_a_wrong_axis_is_an_error_of_build_and_of_shape_inference(axis, shape, message):
    for use in (
        BatchNormalization(axis).build,
        BatchNormalization(axis).compute_output_shape,
    ):
        with pytest.raises(ValueError, match=message):
            use(shape)
