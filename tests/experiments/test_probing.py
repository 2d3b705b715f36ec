"""The loss along the gradient: exact formulas, and models that are not changed."""

import keras
import numpy as np
import pytest

from bn_keras import BatchNormalization
from bn_keras.experiments.probing import (
    Shift,
    build_loss_and_gradients,
    covariate_shift,
    group_weights,
    probe,
)
from bn_keras.models import VGG

RATES = [0.01, 0.1, 0.3]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def quadratic(hessian):
    """Return w^T H w / 2 as a function of a vector split into two weights."""

    def compute(weights):
        w = np.concatenate(weights)
        return w @ hessian @ w / 2, np.split(hessian @ w, [2])

    return compute


def small_model(normalized, dtype="float32"):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,), dtype=dtype)
    x = keras.layers.Dense(5, use_bias=not normalized, dtype=dtype)(inputs)
    if normalized:
        x = BatchNormalization(dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(2, dtype=dtype)(x))


@pytest.mark.fast
def test_a_quadratic_has_the_losses_and_the_smoothness_of_its_hessian(rng):
    factor = rng.normal(size=(5, 5))
    hessian, w = factor @ factor.T, rng.normal(size=5)
    result = probe(quadratic(hessian), np.split(w, [2]), RATES)
    g = hessian @ w
    losses = [(w - r * g) @ hessian @ (w - r * g) / 2 for r in RATES]
    change = np.linalg.norm(hessian @ g)
    assert result.loss == pytest.approx(w @ hessian @ w / 2, rel=1e-12)
    assert result.losses == pytest.approx((min(losses), max(losses)), rel=1e-12)
    assert result.distances == pytest.approx((0.01 * change, 0.3 * change), rel=1e-12)
    # beta = |H g| / |g|, whatever the rate.
    assert result.smoothness == pytest.approx(change / np.linalg.norm(g), rel=1e-12)


@pytest.mark.fast
def test_smoothness_is_the_largest_over_the_rates_if_the_hessian_changes():
    # w^4 at 1: g = 4, g' = 4 (1 - 4 rate)^3.
    result = probe(lambda w: (w[0] ** 4, [4 * w[0] ** 3]), [np.array(1.0)], RATES)
    distances = [4 - 4 * (1 - 4 * rate) ** 3 for rate in RATES]
    beta = [d / (4 * rate) for d, rate in zip(distances, RATES, strict=True)]
    assert result.smoothness == pytest.approx(max(beta))
    assert result.distances == pytest.approx((min(distances), max(distances)))


@pytest.mark.fast
def test_a_point_with_a_zero_gradient_is_smooth():
    result = probe(quadratic(np.eye(3)), np.split(np.zeros(3), [2]), RATES)
    assert result == (0, (0, 0), (0, 0), 0)


@pytest.mark.fast
def test_nan_counts_as_infinite():
    def compute(weights):
        nan = np.array(1.0 if weights[0] == 1 else np.nan)
        return nan, [nan]

    result = probe(compute, [np.array(1.0)], RATES)
    assert result == (1, (np.inf, np.inf), (np.inf, np.inf), np.inf)


@pytest.mark.fast
def test_covariate_shift_is_the_change_of_gradient_due_to_earlier_layers(rng):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    a, b, c = (rng.normal(size=s) for s in ((3, 4), (4, 4), (4, 2)))

    def gradients(a, b, c):
        error = x @ a @ b @ c - y
        return [x.T @ error @ (b @ c).T, (x @ a).T @ error @ c.T, (x @ a @ b).T @ error]

    def compute(weights):
        return np.sum((x @ weights[0] @ weights[1] @ weights[2] - y) ** 2) / 2, (
            gradients(*weights)
        )

    rate = 1e-3
    g = gradients(a, b, c)
    a1, b1 = a - rate * g[0], b - rate * g[1]
    expected = [(g[1], gradients(a1, b, c)[1]), (g[2], gradients(a1, b1, c)[2])]
    result = covariate_shift(compute, [a, b, c], [[0], [1], [2]], rate)
    assert len(result) == 2
    for shift, (before, after) in zip(result, expected, strict=True):
        norms = np.linalg.norm(before) * np.linalg.norm(after)
        assert shift.distance == pytest.approx(np.linalg.norm(before - after))
        assert shift.cosine == pytest.approx(np.sum(before * after) / norms)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("before", "after", "shift"),
    [
        (2.0, 2.0, (0, 1)),
        (1.0, -1.0, (2, -1)),
        (0.0, 0.0, (0, np.nan)),
        (0.0, 3.0, (3, np.nan)),
        (1.0, np.nan, (np.inf, np.nan)),
    ],
)
def test_zero_and_infinite_gradients_have_no_cosine(before, after, shift):
    def compute(weights):
        return 0.0, [np.array(1.0), np.array(before if weights[0] == 1 else after)]

    (result,) = covariate_shift(compute, [np.array(1.0)] * 2, [[0], [1]], 0.5)
    np.testing.assert_array_equal(result, Shift(*shift))


def test_gradients_of_a_model_follow_its_formula(rng):
    model = small_model(False, "float64")
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))
    loss = keras.losses.MeanSquaredError(reduction="sum", dtype="float64")
    weights = [rng.normal(size=v.shape) for v in model.trainable_variables]
    value, gradients = build_loss_and_gradients(model, loss)(weights, x, y)
    a, p, b, q = weights
    hidden = x @ a + p
    error = hidden @ b + q - y  # the sum of the two outputs' mean square
    back = error @ b.T
    expected = [x.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
    assert float(value) == pytest.approx(np.sum(error**2) / 2, rel=1e-12)
    for gradient, formula in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, formula, rtol=1e-10, atol=1e-12)


def test_a_model_with_bn_is_probed_in_training_mode_and_not_changed(rng):
    model = small_model(True)
    x = rng.normal(3, 5, size=(8, 4)).astype("float32")
    y = rng.normal(size=(8, 2)).astype("float32")
    before = [np.array(v) for v in model.variables]
    evaluate = build_loss_and_gradients(model, keras.losses.MeanSquaredError())

    def compute(weights):
        return evaluate(weights, x, y)

    weights = [keras.ops.convert_to_tensor(v) for v in model.trainable_variables]
    result = probe(compute, weights, RATES)
    covariate_shift(compute, weights, group_weights(model), 0.1)
    for variable, old in zip(model.variables, before, strict=True):
        assert np.array(variable).tobytes() == old.tobytes()
    a, gamma, beta, b, q = (np.asarray(weight, np.float64) for weight in weights)
    hidden = x @ a
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3)
    expected = np.mean(((gamma * hidden + beta) @ b + q - y) ** 2)
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert evaluate.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("normalization", [None, BatchNormalization])
def test_each_layer_has_its_kernel_and_its_normalization(normalization):
    model = VGG(
        input_shape=(32, 32, 1),
        classes=10,
        head="small",
        depth=11,
        width=0.02,
        normalization=normalization,
    )
    layers = group_weights(model)
    names = [
        [model.trainable_variables[index].path.split("/")[0] for index in layer]
        for layer in layers
    ]
    assert len(layers) == 9
    assert sorted(i for layer in layers for i in layer) == list(
        range(len(model.trainable_variables))
    )
    second = ["block2_1_conv"] * (1 if normalization else 2)
    second += ["block2_1_bn"] * (2 if normalization else 0)
    assert [name.removeprefix("vgg/") for name in names[1]] == second


@pytest.mark.fast
def test_a_backend_other_than_tensorflow_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    message = r"need Keras' TensorFlow backend\. Received: jax\. Set KERAS_BACKEND"
    with pytest.raises(ValueError, match=message):
        build_loss_and_gradients(small_model(False), keras.losses.MeanSquaredError())


def test_a_separable_convolution_may_be_the_first_layer():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.SeparableConv2D(4, 3, use_bias=False),
            BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    assert group_weights(model) == [[0, 1, 2, 3], [4, 5]]
