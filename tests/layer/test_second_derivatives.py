"""Second derivatives, compared with finite differences in float64."""

import keras
import numpy as np
import pytest
from keras import ops
from normalization_oracle import (
    MODES,
    TENSORFLOW,
    differentiate,
    modes,
    oracle,
    random_case,
    tensorflow_only,
)

from bn_keras import BatchNormalization
from bn_keras.layer.kernels import normalize_batch

EPSILON = 1e-3
INNER_RATE = 0.3  # of the step of MAML
STEP = 1e-5  # of the central differences


@pytest.mark.parametrize("mode", modes()[:2] if TENSORFLOW else MODES)
@pytest.mark.parametrize(
    ("shape", "mean"),
    [
        ((6, 3), 2.0),
        ((64, 32, 32, 4), 2.0),
        ((64, 32, 32, 4), 90.0),
        ((64, 32, 32, 2), 90.0),
    ],
    ids=["formula", "fused kernel", "shifted fused kernel", "merged kernel"],
)
def test_second_derivatives_are_differences_of_first_derivatives(shape, mean, mode):
    axes = tuple(range(len(shape) - 1))
    x, gamma, beta, cotangent = random_case(shape, axes, mean=mean)
    direction = np.random.default_rng(5).normal(size=shape).astype("float32")

    def gradient(x, gamma, cotangent):
        def outputs(x):
            return normalize_batch(x, gamma, beta, axes, EPSILON)[0]

        if TENSORFLOW:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(x)
                y = outputs(x)
            return (tape.gradient(y, x, cotangent),)
        import jax

        return jax.vjp(outputs, x)[1](cotangent)

    _, *second = differentiate(gradient, (x, gamma, cotangent), direction, mode)
    step = STEP * direction.astype(np.float64)
    ahead, behind = (
        oracle(x + sign * step, gamma, beta, cotangent, axes, EPSILON)
        for sign in (1, -1)
    )
    # Second derivatives are symmetric: the derivatives of dL/dx along a direction are
    # the changes of each first derivative along that direction.
    for value, name in zip(
        second, ("inputs_gradient", "gamma_gradient", "outputs"), strict=True
    ):
        expected = (getattr(ahead, name) - getattr(behind, name)) / (2 * STEP)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            value / scale, expected / scale, atol=1e-3, err_msg=name
        )


def network(layer):
    """Return a small float64 network, with the same weights for each class of layer."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="float64"),
            keras.layers.Dense(4, dtype="float64"),
            layer(dtype="float64"),
            keras.layers.Activation("tanh", dtype="float64"),
            keras.layers.Dense(3, dtype="float64"),
            layer(dtype="float64"),
            keras.layers.Activation("tanh", dtype="float64"),
            keras.layers.Dense(1, dtype="float64"),
        ]
    )
    draw = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(draw.normal(0, 0.7, variable.shape))
    return model


def call(model, weights, inputs):
    state = model.non_trainable_variables
    return model.stateless_call(weights, state, inputs, training=True)[0]


def gradient_penalty(model, examples):
    """Return the penalty of WGAN-GP on the slopes of a critic, by its weights."""
    import tensorflow as tf

    inputs = np.random.default_rng(1).normal(size=(examples, 3))

    def penalty(weights):
        x = tf.constant(inputs)
        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = call(model, weights, x)
        gradients = tape.gradient(scores, x)
        # A norm, but smooth at 0, where differences of a norm are not derivatives.
        slopes = tf.sqrt(tf.reduce_sum(gradients**2, axis=1) + 1e-2)
        return tf.reduce_mean((slopes - 1) ** 2)

    return penalty


def adapted_loss(model, examples):
    """Return the query loss after a gradient step on a support set, as in MAML."""
    import tensorflow as tf

    draw = np.random.default_rng(1)
    support, query = (draw.normal(size=(examples, 4)) for _ in range(2))

    def loss(weights, values):
        errors = call(model, weights, tf.constant(values[:, :3])) - values[:, 3:]
        return tf.reduce_mean(errors**2)

    def query_loss(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            support_loss = loss(weights, support)
        gradients = tape.gradient(support_loss, weights, unconnected_gradients="zero")
        adapted = [w - INNER_RATE * g for w, g in zip(weights, gradients, strict=True)]
        return loss(adapted, query)

    return query_loss


def relative_errors(make_function, layer, examples):
    """Return the error of TensorFlow's gradient by each weight.

    Each is the largest error over the largest derivative; if the true derivative is 0,
    as for a bias before a normalization, it is the largest error itself.
    """
    import tensorflow as tf

    model = network(layer)
    weights = [variable.numpy() for variable in model.trainable_variables]
    function = tf.function(make_function(model, examples))

    @tf.function
    def gradients(tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(tensors)
        return tape.gradient(value, tensors, unconnected_gradients="zero")

    def difference(number, index):
        def value(change):
            changed = [weight.copy() for weight in weights]
            changed[number][index] += change
            return float(function([tf.constant(weight) for weight in changed]))

        # Of fourth order, which allows for a step with little rounding error.
        step = 10 * STEP
        near, far = (value(h) - value(-h) for h in (step, 2 * step))
        return (8 * near - far) / (12 * step)

    errors = []
    computed = gradients([tf.constant(weight) for weight in weights])
    for number, gradient in enumerate(computed):
        expected = np.zeros(gradient.shape)
        for index in np.ndindex(*gradient.shape):
            expected[index] = difference(number, index)
        error, scale = np.abs(gradient - expected).max(), np.abs(expected).max()
        errors.append(error / scale if scale > 1e-8 else error)
    return np.array(errors)


@tensorflow_only
@pytest.mark.parametrize(
    "examples", [8, pytest.param(1100, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("make_function", [gradient_penalty, adapted_loss])
def test_a_derivative_of_a_gradient_is_exact(make_function, examples):
    assert relative_errors(make_function, BatchNormalization, examples).max() < 1e-8


@tensorflow_only
@pytest.mark.parametrize("make_function", [gradient_penalty, adapted_loss])
def test_a_derivative_of_a_gradient_of_keras_layer_is_wrong(make_function):
    # `tf.nn.moments` stops a gradient inside the variance (tensorflow#19609). If this
    # fails, it is fixed, and the documentation should no longer say otherwise.
    assert (
        relative_errors(make_function, keras.layers.BatchNormalization, 8).max() > 0.1
    )


@pytest.mark.skipif(TENSORFLOW, reason="tests JAX only")
def test_the_hessian_and_forward_mode_on_jax():
    import jax

    axes = (0,)
    x, gamma, beta, cotangent = random_case((5, 2), axes)

    def loss(x):
        return ops.sum(cotangent * normalize_batch(x, gamma, beta, axes, EPSILON)[0])

    hessian = np.asarray(jax.jit(jax.hessian(loss))(x))
    expected = np.zeros(x.shape + x.shape)
    for index in np.ndindex(*x.shape):
        step = np.zeros(x.shape)
        step[index] = STEP
        ahead, behind = (
            oracle(x + sign * step, gamma, beta, cotangent, axes, EPSILON)
            for sign in (1, -1)
        )
        difference = ahead.inputs_gradient - behind.inputs_gradient
        expected[(..., *index)] = difference / (2 * STEP)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(hessian / scale, expected / scale, atol=1e-4)
    expected = oracle(x, gamma, beta, cotangent, axes, EPSILON).inputs_gradient
    np.testing.assert_allclose(jax.jacfwd(loss)(x), expected, atol=1e-5)
    tangent = np.asarray(cotangent)
    _, derivative = jax.jvp(loss, (x,), (tangent,))
    np.testing.assert_allclose(derivative, np.sum(expected * tangent), atol=1e-4)
