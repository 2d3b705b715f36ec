"""What the layer does beyond plain normalization, against NumPy and Keras' layer."""

import keras
import numpy as np
import pytest
from keras import ops
from normalization_oracle import (
    TENSORFLOW,
    layer_gradients,
    oracle,
    problem,
    tensorflow_only,
)

from bn_keras import BatchNormalization

KERAS = keras.layers.BatchNormalization


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


def weights_of(layer):
    return [ops.convert_to_numpy(weight) for weight in layer.weights]


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("averaging", ["moving", "cumulative", "debiased"])
def test_each_average_at_steps_one_two_three(averaging, unbiased):
    layer = BatchNormalization(momentum=0.7, averaging=averaging, unbiased=unbiased)
    means, variances = [], []
    for step in (1, 2, 3):
        values = draw((5, 3), seed=step)
        layer(values, training=True)
        if step > 1:  # a single value and a NaN are no mini-batches
            layer(values[:1], training=True)
            layer(values * np.nan, training=True)
        means.append(values.astype(np.float64).mean(0))
        variances.append(values.astype(np.float64).var(0, ddof=int(unbiased)))
        ages = np.arange(step)[::-1]
        weights = {"cumulative": np.ones(step), "debiased": 0.7**ages}.get(averaging)
        for found, values, initial in (
            (layer.moving_mean, means, 0.0),
            (layer.moving_variance, variances, 1.0),
        ):
            if averaging == "moving":
                past = 0.7**step * initial
                expected = past + np.tensordot(0.3 * 0.7**ages, values, 1)
            else:
                expected = np.average(values, axis=0, weights=weights)
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    if averaging != "moving":
        np.testing.assert_array_equal(layer.updates, 3)


def test_averages_count_the_updates_of_each_channel():
    layer = BatchNormalization(averaging="cumulative")
    values = [draw((5, 2), seed) for seed in (1, 2, 3)]
    values[1][2, 0] = np.inf
    for one in values:
        layer(one, training=True)
    np.testing.assert_array_equal(layer.updates, [2, 3])
    expected = [
        np.mean([one[:, 0].mean() for one in (values[0], values[2])]),
        np.mean([one[:, 1].mean() for one in values]),
    ]
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-5)


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
def test_virtual_batches_are_a_loop_over_parts_of_the_batch(shape, axis, axes, masked):
    x, _, _, cotangent = problem(shape, axes)
    weight = [size for place, size in enumerate(shape) if place not in axes]
    gamma, beta = np.random.default_rng(4).uniform(0.5, 2, (2, *weight))
    layer = BatchNormalization(axis, momentum=0.6, virtual_batch_size=4)
    layer.build(shape)
    layer.set_weights([gamma, beta, *weights_of(layer)[2:]])
    mask = None
    if masked:
        mask = np.random.default_rng(1).random((*shape[:-1], 1)) < 0.7
        mask[4:8] = False  # a virtual batch without any value
    outputs, gradient = layer_gradients(
        layer, x, cotangent, mask=None if mask is None else mask[..., 0]
    )
    expanded = [1 if place in axes else size for place, size in enumerate(shape)]
    means, variances = [], []
    for start in (0, 4, 8):
        part = slice(start, start + 4)
        own = None if mask is None else np.broadcast_to(mask[part], x[part].shape)
        expected = oracle(
            x[part],
            gamma.reshape(expanded),
            beta.reshape(expanded),
            cotangent[part],
            axes,
            layer.epsilon,
            own,
        )
        np.testing.assert_allclose(outputs[part], expected.outputs, atol=1e-4)
        np.testing.assert_allclose(
            gradient[part], expected.inputs_gradient, atol=1e-4, rtol=1e-4
        )
        count = np.ones(x[part].shape) if own is None else own
        count = count.sum(axes, keepdims=True)
        if (count >= 2).all():
            means.append(expected.mean.reshape(weight))
            unbiased = expected.variance * count / (count - 1)
            variances.append(unbiased.reshape(weight))
    assert len(means) == (2 if masked else 3)
    np.testing.assert_allclose(
        layer.moving_mean, 0.4 * np.mean(means, 0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        layer.moving_variance, 0.6 + 0.4 * np.mean(variances, 0), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(10, 3), (3, 3)])
def test_a_virtual_batch_that_does_not_divide_is_named(shape):
    layer = BatchNormalization(virtual_batch_size=4)
    with pytest.raises(
        ValueError,
        match=r"must divide the batch.*Received: virtual_batch_size=4, .*\("
        f"{shape[0]}, 3",
    ):
        layer(draw(shape), training=True)
    # In inference mode there are no virtual batches.
    assert layer(draw(shape)).shape == shape


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
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


@tensorflow_only
def test_a_last_batch_that_does_not_divide_is_an_error_in_fit_too():
    model = keras.Sequential(
        [keras.Input((3,)), BatchNormalization(virtual_batch_size=4)]
    )
    model.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(Exception, match=r"(?i)reshape|divide"):
        model.fit(draw((10, 3)), draw((10, 3)), batch_size=8, verbose=0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize(
    "clipping",
    [None, {"rmax": 1.5, "rmin": 0.8, "dmax": 0.3}, {"rmax": 1.1}, {"dmax": 0.0}],
)
def test_renormalization_is_keras_own_over_several_steps(clipping, axis, masked):
    arguments = {
        "axis": axis,
        "momentum": 0.8,
        "renorm": True,
        "renorm_clipping": clipping,
        "renorm_momentum": 0.6,
        "gamma_initializer": "ones",
    }
    theirs, ours = KERAS(**arguments), BatchNormalization(unbiased=False, **arguments)
    for layer in (theirs, ours):
        layer.build((None, 4, 3, 3))
    ours.set_weights(theirs.get_weights())
    for step in range(4):
        x = 0.1 * step + (1 + step) * draw((6, 4, 3, 3), seed=step)
        cotangent = draw(x.shape, seed=10 + step)
        mask = draw(x.shape[:-1], seed=20 + step) > 0 if masked else None
        expected = layer_gradients(theirs, x, cotangent, mask=mask)
        found = layer_gradients(ours, x, cotangent, mask=mask)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)
        for one, other in zip(ours.weights, theirs.weights, strict=True):
            assert one.name == other.name
            np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=one.name)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


def functional(layer, **arguments):
    inputs = keras.Input((3,))
    hidden = layer(keras.layers.Dense(3)(inputs), **arguments)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("layer", [BatchNormalization, KERAS])
def test_fit_overrides_a_training_false_given_at_the_call(layer):
    # keras#20285, here so that the documentation of `frozen_statistics` stays true.
    layer = layer()
    functional(layer, training=False).fit(draw((8, 3)), draw((8, 1)), verbose=0)
    assert np.abs(layer.moving_mean).max() > 0


def test_frozen_statistics_stay_in_fit_while_gamma_and_beta_train():
    layer = BatchNormalization(frozen_statistics=True)
    model = functional(layer)
    statistics = np.array([0.5, 1.0, -1.0]), np.array([4.0, 2.0, 0.5])
    for variable, value in zip(layer.weights[2:], statistics, strict=True):
        variable.assign(value)
    model.fit(draw((8, 3)), draw((8, 1)), epochs=2, verbose=0)
    np.testing.assert_array_equal(layer.moving_mean, statistics[0])
    np.testing.assert_array_equal(layer.moving_variance, statistics[1])
    for trained, initial in ((layer.gamma, 1), (layer.beta, 0)):
        assert np.abs(np.asarray(trained) - initial).min() > 1e-5
    values = draw((4, 3))
    np.testing.assert_array_equal(layer(values, training=True), layer(values))


@pytest.mark.parametrize("unfreeze", [False, True])
def test_a_frozen_layer_stays_in_fit_until_it_is_thawed(unfreeze):
    layer = BatchNormalization(trainable=False)
    model = functional(layer)
    layer.trainable = unfreeze
    model.compile("sgd", "mse")
    before = weights_of(layer)
    model.fit(draw((8, 3)), draw((8, 1)), verbose=0)
    for old, new in zip(before, weights_of(layer), strict=True):
        assert np.array_equal(old, new) != unfreeze


@pytest.mark.parametrize(
    "arguments",
    [{}, {"averaging": "debiased"}, {"renorm": True}, {"virtual_batch_size": 4}],
    ids=str,
)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38])
def test_a_batch_that_is_not_finite_shows_but_does_not_poison(wrong, arguments):
    layer = BatchNormalization(momentum=0.5, **arguments)
    layer(draw((8, 3)), training=True)
    before = weights_of(layer)
    values = draw((8, 3), seed=1)
    values[:, 1] = wrong  # 3e38 is finite; its sum is not
    outputs = np.asarray(layer(values, training=True))
    assert not np.isfinite(outputs[:, 1]).all()
    assert np.isfinite(outputs[:, [0, 2]]).all()
    for old, new in zip(before[2:], weights_of(layer)[2:], strict=True):
        np.testing.assert_array_equal(old[1], new[1])
        assert np.isfinite(new).all()
        assert (old[[0, 2]] != new[[0, 2]]).all()


@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 3), -1), ((1, 2, 2, 3), (1, 2, 3)), ((1, 1, 3), -1)]
)
@pytest.mark.parametrize("arguments", [{}, {"averaging": "cumulative"}], ids=str)
def test_one_value_a_channel_gives_beta_and_no_statistics(shape, axis, arguments):
    layer = BatchNormalization(axis, beta_initializer="ones", **arguments)
    outputs = layer(draw(shape), training=True)
    np.testing.assert_array_equal(outputs, 1)
    np.testing.assert_array_equal(layer.moving_mean, 0)
    np.testing.assert_array_equal(layer.moving_variance, 1)


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


@pytest.mark.parametrize("policy", POLICIES if TENSORFLOW else list(POLICIES)[:3])
@pytest.mark.parametrize("arguments", [{}, {"renorm": True}], ids=str)
def test_statistics_are_never_below_float32(policy, arguments):
    compute, kept = POLICIES[policy]
    layer = BatchNormalization(momentum=0.0, dtype=policy, **arguments)
    values = ops.cast(1e4 * np.random.default_rng(0).normal(size=(256, 2)), compute)
    outputs = layer(values, training=True)
    # A variance of 1e8 overflows float16.
    exact = ops.convert_to_numpy(ops.cast(values, kept)).astype(np.float64)
    inferred = layer(values)
    for weight in layer.weights:
        assert keras.backend.standardize_dtype(weight.dtype) == kept
    for found in (outputs, inferred):
        assert keras.backend.standardize_dtype(found.dtype) == compute
    np.testing.assert_allclose(layer.moving_mean, exact.mean(0), rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, exact.var(0, ddof=1), rtol=1e-4)
    inferred = ops.convert_to_numpy(ops.cast(inferred, "float32"))
    np.testing.assert_allclose(
        inferred, (exact - exact.mean(0)) / exact.std(0, ddof=1), atol=2e-2
    )


def test_integers_are_normalized_in_float32():
    values = np.arange(12).reshape(6, 2)
    outputs = np.asarray(BatchNormalization(epsilon=0)(values, training=True))
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(outputs.std(0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": -0.1}, r"\[0, 1\]\. Received: momentum=-0.1"),
        ({"momentum": float("nan")}, "Received: momentum=nan"),
        ({"epsilon": -1.0}, "must not be negative. Received: epsilon=-1.0"),
        ({"axis": 1.5}, "integer or a tuple of integers. Received: axis=1.5"),
        ({"axis": "last"}, "Received: axis='last'"),
        ({"averaging": "mean"}, "moving, cumulative, debiased. Received: .*'mean'"),
        ({"virtual_batch_size": 0}, "Received: virtual_batch_size=0"),
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
def test_a_wrong_argument_is_named_with_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        BatchNormalization(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axis", "shape", "message"),
    [
        (3, (None, 2, 3), r"-3 to 2\. Received: axis=3, input shape \(None, 2, 3\)"),
        (-4, (None, 2, 3), r"-3 to 2\. Received: axis=-4"),
        ((-1, 2), (None, 2, 3), r"twice\. Received: axis=\(-1, 2\)"),
        (1, (None, None, 3), r"known size of at least 1\. Received: axis=1"),
        (2, (None, 2, 0), r"known size of at least 1\. Received: axis=2"),
        (0, (None, 3), r"known size of at least 1\. Received: axis=0"),
    ],
)
def test_a_wrong_axis_is_named_at_build_and_in_shape_inference(axis, shape, message):
    for use in (
        BatchNormalization(axis).build,
        BatchNormalization(axis).compute_output_shape,
    ):
        with pytest.raises(ValueError, match=message):
            use(shape)
