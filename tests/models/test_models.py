"""The small networks, and what holds for every network."""

from functools import cache, partial

import keras
import numpy as np
import pytest

from bn_keras import data
from bn_keras.models import MLP, VGG, BNInception, ConvNet, Inception
from bn_keras.population import estimate_population_statistics

SMALL = {"input_shape": (32, 32, 3), "classes": 5, "width": 0.05}
BUILDERS = {
    "MLP": partial(MLP, (8, 8, 3), classes=5),
    "ConvNet": partial(ConvNet, (32, 32, 3), classes=5),
    "Inception": partial(Inception, stem="small", **SMALL),
    "BNInception": partial(BNInception, stem="small", **SMALL),
    "VGG": partial(VGG, depth=11, **SMALL),
    "VGG small": partial(VGG, depth=11, head="small", normalization=None, **SMALL),
}
# The two policies share their code, and Inception is slow to build: the other pairs are
# slow tests.
QUICK_PAIRS = {
    *(("mixed_bfloat16", name) for name in ("MLP", "ConvNet", "VGG small")),
    *(("mixed_float16", name) for name in ("MLP", "ConvNet", "VGG")),
}
every_name = pytest.mark.parametrize("name", BUILDERS)


def names_with_slow(*slow_names):
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.slow if name in slow_names else ())
            for name in BUILDERS
        ],
    )


@cache
def built(name):
    """Return the model under the default policy; tests must not change it."""
    keras.Input((1,))  # Keras numbers the inputs without a name.
    return BUILDERS[name]()


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# MLP


@pytest.mark.parametrize("units", [(100, 100, 100), (7,), ()])
def test_the_mlp_has_the_number_of_parameters_of_its_formula(units):
    widths = (28 * 28, *units)
    kernels = sum(a * b for a, b in zip(widths, units, strict=False))
    predictions = widths[-1] * 10 + 10
    plain, normalized = MLP(units=units, normalization=None), MLP(units=units)
    assert plain.count_params() == kernels + sum(units) + predictions
    assert count(normalized.trainable_weights) == kernels + 2 * sum(units) + predictions
    assert normalized.count_params() == kernels + 4 * sum(units) + predictions


def test_the_mlp_computes_what_section_4_1_does_in_numpy():
    model = MLP((4, 3, 1), classes=3, units=(6, 5))
    x = images((9, 4, 3, 1))
    z = x.reshape(9, -1).astype("float64")
    for index in (1, 2):
        kernel = model.get_layer(f"hidden_{index}_dense").get_weights()[0]
        epsilon = model.get_layer(f"hidden_{index}_bn").epsilon
        u = z @ kernel.astype("float64")
        z = 1 / (1 + np.exp(-(u - u.mean(0)) / np.sqrt(u.var(0) + epsilon)))
    kernel, bias = model.get_layer("predictions").get_weights()
    expected = np.exp(z @ kernel + bias)
    expected /= expected.sum(1, keepdims=True)
    actual = keras.ops.convert_to_numpy(model(x, training=True))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_the_mlp_starts_with_small_gaussian_weights_that_differ_by_layer():
    model = MLP()
    second, third = (
        model.get_layer(f"hidden_{i}_dense").get_weights()[0] for i in (2, 3)
    )
    assert not np.array_equal(second, third)
    # The standard error of a standard deviation from 10,000 values is 0.7 %.
    assert second.std() == pytest.approx(0.1, rel=0.03)
    assert second.mean() == pytest.approx(0, abs=0.005)
    ones = MLP(units=(3, 3), kernel_initializer="ones")
    assert all(np.all(layer == 1) for layer in ones.get_weights()[::5])


def test_the_mlp_accepts_flat_examples_and_can_return_logits():
    model = MLP((20,), classes=4, units=(3,), classifier_activation=None)
    assert model.output_shape == (None, 4)
    assert not np.allclose(np.sum(model.predict_on_batch(images((2, 20))), axis=1), 1)


# ConvNet


def test_the_convnet_learns_digits():
    keras.utils.set_random_seed(1)
    train, test = data.digits().train, data.digits().test
    x, y = train.images, train.labels
    model = ConvNet((8, 8, 1))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy"
    )
    for start in 3 * list(range(0, 1280, 64)):
        model.train_on_batch(x[start : start + 64], y[start : start + 64])
    estimate_population_statistics(model, x[:1280], verbose=0)
    answers = model.predict_on_batch(test.images)
    right = answers.argmax(1) == test.labels
    assert right.mean() > 0.8  # by chance 0.1


@pytest.mark.parametrize("filters", [(4,), (4, 6, 8)])
def test_each_stage_of_the_convnet_halves_the_sides(filters):
    model = ConvNet((17, 8, 2), filters=filters)
    pool = model.get_layer(f"stage_{len(filters)}_pool")
    halvings = 2 ** len(filters)
    assert pool.output.shape == (None, 17 // halvings, 8 // halvings, filters[-1])


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 1), (8, 3, 1), (None, 8, 1)])
@pytest.mark.fast
def test_the_convnet_rejects_a_shape_that_is_too_small(shape):
    with pytest.raises(ValueError, match=r"at least 4 pixels.*Received: input_shape="):
        ConvNet(shape)


@pytest.mark.parametrize("builder", [MLP, partial(ConvNet, (8, 8, 1))])
@pytest.mark.parametrize("wrong", [0, "batch", keras.layers.BatchNormalization()])
@pytest.mark.fast
def test_the_small_networks_reject_a_wrong_normalization(builder, wrong):
    with pytest.raises(
        ValueError, match=r"returns a new layer.*Received: normalization"
    ):
        builder(normalization=wrong)


# Every network


@every_name
def test_the_name_of_the_input_does_not_depend_on_other_models(name):
    assert [tensor.name for tensor in built(name).inputs] == ["image"]


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield keras.config.dtype_policy()
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        pytest.param(
            policy,
            name,
            marks=() if (policy, name) in QUICK_PAIRS else pytest.mark.slow,
        )
        for policy in ("mixed_bfloat16", "mixed_float16")
        for name in BUILDERS
    ],
    indirect=["policy"],
)
def test_with_mixed_precision_only_the_output_is_in_float32(name, policy, tmp_path):
    model = BUILDERS[name]()
    *hidden, predictions = model.layers[1:]
    assert {layer.compute_dtype for layer in hidden} == {policy.compute_dtype}
    assert predictions.compute_dtype == predictions.variable_dtype == "float32"
    x = images((4, *model.input_shape[1:]))
    outputs = model.predict_on_batch(x)
    assert outputs.dtype == "float32"
    # Sums of 16-bit probabilities would differ from 1 by 4e-3 and 5e-4.
    totals = outputs.sum(1, dtype="float64")
    np.testing.assert_allclose(totals, 1, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(x), outputs)


@every_name
def test_every_layer_has_the_default_policy(name):
    for layer in built(name).layers[1:]:
        assert layer.dtype_policy.name == "float32"


@names_with_slow("Inception", "VGG small")
@pytest.mark.parametrize("policy", ["float64"], indirect=True)
def test_every_layer_has_the_policy_float64(name, policy):
    for layer in BUILDERS[name]().layers[1:]:
        assert layer.dtype_policy == policy


@pytest.mark.parametrize(
    "name",
    [
        "Inception",
        pytest.param("BNInception", marks=pytest.mark.slow),
        "VGG",
        pytest.param("VGG small", marks=pytest.mark.slow),
    ],
)
def test_every_kernel_has_the_regularizer_and_keeps_it_when_saved(name, tmp_path):
    model = BUILDERS[name](kernel_regularizer=keras.regularizers.L2(0.01))
    kernels = [weight for weight in model.trainable_weights if "kernel" in weight.path]
    assert any("depthwise" in kernel.path for kernel in kernels) == ("Inc" in name)
    expected = 0.01 * sum(np.sum(np.square(kernel.numpy())) for kernel in kernels)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for regularized in (model, loaded):
        assert len(regularized.losses) == len(kernels)
        np.testing.assert_allclose(sum(regularized.losses), expected, rtol=1e-5)
    assert not built(name).losses
