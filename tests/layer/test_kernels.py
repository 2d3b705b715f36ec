"""Forward, gradients and second derivatives of the kernels against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops
from normalization_oracle import (
    DTYPES,
    MODES,
    TENSORFLOW,
    differentiated,
    oracle,
    problem,
    tensorflow_only,
)

from bn_keras.layer.formulas import normalize
from bn_keras.layer.kernels import normalize_batch
from bn_keras.layer.tensorflow_kernels import _repays_start_up

EPSILON = 1e-3
SHAPES = [
    pytest.param((6, 3), (0,), id="dense"),
    pytest.param((4, 5, 3), (0, 1), id="sequence"),
    pytest.param((4, 5, 6, 3), (0, 1, 2), id="channels last"),
    pytest.param((4, 3, 5, 6), (0, 2, 3), id="channels first"),
    pytest.param((4, 3, 2, 3), (0,), id="per activation"),
    pytest.param((4, 3, 2, 3), (0, 2), id="two kept axes"),
    pytest.param((2, 3, 2, 3, 2), (0, 1, 2, 3), id="volume"),
]
LARGE = [
    pytest.param((2048, 100), (0,), id="large dense"),
    pytest.param((64, 64, 40), (0, 1), id="large sequence"),
    pytest.param((16, 32, 32, 16), (0, 1, 2), id="large channels last"),
    pytest.param((256, 8, 8, 9), (0,), id="large per activation"),
    pytest.param((256, 8, 8, 9), (0, 1), id="large two kept axes"),
    pytest.param((8, 8, 8, 16, 20), (0, 1, 2, 3), id="large volume"),
]
# Values, channels, mean; the first two are the project's contract. Two million values
# of one channel are where the fused kernel's plain sum misses the mean by many
# deviations.
FAR_CASES = [
    pytest.param((128, 56, 56, 2), 1000.0, id="401408 at 1000"),
    pytest.param((65536, 2), 1e4, id="65536 at 10000"),
    pytest.param((32, 256, 256, 1), 1000.0, id="2097152 at 1000"),
    pytest.param((1000, 2), 1e4, id="1000 at 10000"),
    pytest.param((16, 2), 1e4, id="16 at 10000"),
    *(
        pytest.param((64, 32, 32, 2), mean, id=f"65536 at {mean:g}")
        for mean in (25.0, 29.0, 31.0, 100.0)
    ),
]


def normalized(axes, mask=None, epsilon=EPSILON):
    def function(x, gamma, beta):
        outputs, moments = normalize_batch(x, gamma, beta, axes, epsilon, mask)
        return outputs, moments.mean, moments.variance

    return function


def assert_right(found, expected, tolerance):
    """Each within `tolerance` of its own scale; sums of n terms are scaled by n."""
    for name, value in zip(expected._fields, found, strict=True):
        wanted = getattr(expected, name)
        scale = max(np.abs(wanted).max(), 1e-3)
        np.testing.assert_allclose(
            value / scale, wanted / scale, atol=tolerance, rtol=0, err_msg=name
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axes"), SHAPES + LARGE)
def test_forward_and_gradients_are_those_of_algorithm_1(shape, axes, dtype, mode):
    if dtype == "float64" and np.prod(shape) > 2**16:
        pytest.skip("in float64 large batches go the same way as small ones")
    x, gamma, beta, cotangent = problem(shape, axes, dtype)
    found = differentiated(normalized(axes), (x, gamma, beta), cotangent, mode)
    assert all(value.dtype == dtype for value in found)
    expected = oracle(x, gamma, beta, cotangent, axes, EPSILON)
    # The fused kernel sums thousands of values plainly.
    assert_right(found, expected, 1e-4 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "graph"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axes"), SHAPES + LARGE[2:3])
def test_masked_forward_and_gradients(shape, axes, dtype, mode):
    x, gamma, beta, cotangent = problem(shape, axes, dtype)
    mask = np.random.default_rng(3).random(shape) < 0.7
    function = normalized(axes, ops.convert_to_tensor(mask))
    found = differentiated(function, (x, gamma, beta), cotangent, mode)
    expected = oracle(x, gamma, beta, cotangent, axes, EPSILON, mask)
    assert_right(found, expected, 2e-5 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "mean"), FAR_CASES)
def test_a_mean_of_many_deviations_costs_no_accuracy(shape, mean, mode):
    axes = tuple(range(len(shape) - 1))
    x, gamma, beta, cotangent = problem(shape, axes, mean=mean)
    found = differentiated(normalized(axes), (x, gamma, beta), cotangent, mode)
    expected = oracle(x, gamma, beta, cotangent, axes, EPSILON)
    # Two million squares, summed plainly, are beyond what the project promises.
    promised = x.size < 2**21
    rtol = 1e-3 if promised else 3e-3
    np.testing.assert_allclose(found[2], expected.variance, rtol=rtol)
    # Nothing that subtracts a float32 mean is nearer than some units of its last place.
    tolerance = 1e-3 + 16 * float(np.spacing(np.float32(mean)))
    assert_right(found, expected, tolerance if promised else 5e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(64, 56, 56, 2), (64, 1024, 2), (65536, 2)])
def test_an_atypical_first_example_costs_no_accuracy(shape, mode):
    axes = tuple(range(len(shape) - 1))
    x, gamma, beta, cotangent = problem(shape, axes, mean=1000.0)
    x[0] = 0
    found = differentiated(normalized(axes), (x, gamma, beta), cotangent, mode)
    expected = oracle(x, gamma, beta, cotangent, axes, EPSILON)
    np.testing.assert_allclose(found[2], expected.variance, rtol=1e-3)
    assert_right(found, expected, 4e-3)


@pytest.mark.parametrize("mode", MODES)
def test_one_far_channel_leaves_the_others_exact(mode):
    x, gamma, beta, cotangent = problem((64, 32, 32, 3), (0, 1, 2))
    x[..., 1] += 1000
    x[..., 2] *= 1e-3
    found = differentiated(normalized((0, 1, 2)), (x, gamma, beta), cotangent, mode)
    expected = oracle(x, gamma, beta, cotangent, (0, 1, 2), EPSILON)
    np.testing.assert_allclose(found[2], expected.variance, rtol=1e-3)
    assert_right(found, expected, 1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_channel_that_is_not_finite_leaves_the_others_alone(wrong, mode):
    x, gamma, beta, cotangent = problem((64, 32, 32, 3), (0, 1, 2), mean=100.0)
    expected = oracle(x, gamma, beta, cotangent, (0, 1, 2), EPSILON)
    x[3, 4, 5, 1] = wrong
    found = differentiated(normalized((0, 1, 2)), (x, gamma, beta), cotangent, mode)
    for value in found:
        assert not np.isfinite(value[..., 1]).all() or value is found[-1]
    assert_right(
        [value[..., ::2] for value in found],
        type(expected)(*(value[..., ::2] for value in expected)),
        1e-3,
    )


@pytest.mark.parametrize("mode", ["eager", "graph"] if TENSORFLOW else MODES)
@pytest.mark.parametrize(
    ("shape", "mean"),
    [((6, 3), 2.0), ((64, 32, 32, 2), 2.0), ((64, 32, 32, 2), 90.0)],
    ids=["formula", "large", "far"],
)
def test_second_derivatives_are_differences_of_first_ones(shape, mean, mode):
    axes = tuple(range(len(shape) - 1))
    x, gamma, beta, cotangent = problem(shape, axes, mean=mean)
    direction = np.random.default_rng(5).normal(size=shape).astype("float32")

    def gradient(x, gamma, cotangent):
        function = normalized(axes)
        if TENSORFLOW:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = function(x, gamma, beta)[0]
            return (tape.gradient(outputs, x, cotangent),)
        import jax

        return jax.vjp(lambda x: function(x, gamma, beta)[0], x)[1](cotangent)

    _, *found = differentiated(gradient, (x, gamma, cotangent), direction, mode)
    step = 1e-5 * direction.astype(np.float64)
    ahead, behind = (
        oracle(x + sign * step, gamma, beta, cotangent, axes, EPSILON)
        for sign in (1, -1)
    )
    # The second derivative is symmetric: that along x is how each first one changes.
    for value, name in zip(
        found, ("inputs_gradient", "gamma_gradient", "outputs"), strict=True
    ):
        expected = (getattr(ahead, name) - getattr(behind, name)) / 2e-5
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            value / scale, expected / scale, atol=1e-3, err_msg=name
        )


@tensorflow_only
@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize(("shape", "axes"), SHAPES + LARGE)
def test_large_batches_run_on_the_fused_kernel_and_xla_never_does(shape, axes, xla):
    import tensorflow as tf

    x, gamma, beta, _ = problem(shape, axes)
    function = tf.function(normalized(axes), jit_compile=xla)
    graph = function.get_concrete_function(x, gamma, beta).graph
    fused = any(one.type == "FusedBatchNormV3" for one in graph.get_operations())
    assert fused == (_repays_start_up(x, axes) and not xla)
    assert _repays_start_up(x, axes) == (
        x.size > 2**12
    )  # the cases: hundreds, or 2**17 and more


@tensorflow_only
@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3,), (0,)), ((4, 3), (0, 1)), ((4, 5, 3), (0, 1, 2)), ((2, 2, 2, 3), (0,))],
)
def test_a_batch_that_turns_out_to_be_empty_is_no_error(shape, axes, xla):
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *shape))]

    @tf.function(input_signature=signature, jit_compile=xla)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs, moments = normalize_batch(x, None, None, axes, EPSILON)
        return outputs, tape.gradient(outputs, x), moments.count

    outputs, gradient, count = run(tf.zeros((0, *shape)))
    assert outputs.shape == gradient.shape == (0, *shape)
    assert count == 0


@pytest.mark.parametrize("mode", MODES)
def test_one_value_is_normalized_to_beta_and_passes_no_gradient(mode):
    x, gamma, beta, cotangent = problem((1, 3), (0,))
    found = differentiated(normalized((0,)), (x, gamma, beta), cotangent, mode)
    outputs, mean, variance, of_inputs, of_gamma, of_beta = found
    np.testing.assert_array_equal(outputs, beta)
    np.testing.assert_array_equal(mean, x)
    for nothing in (variance, of_inputs, of_gamma):
        np.testing.assert_array_equal(nothing, 0)
    np.testing.assert_array_equal(of_beta, cotangent)


@pytest.mark.parametrize("factor", [3.0, 0.01])
def test_the_scale_of_the_weights_has_no_effect_section_3_3(factor):
    draw = np.random.default_rng(0)
    u, cotangent = draw.normal(size=(2, 32, 5)).astype("float32")
    kernel = draw.normal(size=(5, 5)).astype("float32")
    ones, zeros = np.ones((1, 5), "float32"), np.zeros((1, 5), "float32")

    def layer(u, kernel):
        return normalized((0,), epsilon=1e-12)(ops.matmul(u, kernel), ones, zeros)[:1]

    outputs, of_u, of_kernel = differentiated(layer, (u, kernel), cotangent)
    scaled = np.float32(factor) * kernel
    found, found_of_u, found_of_kernel = differentiated(layer, (u, scaled), cotangent)
    np.testing.assert_allclose(found, outputs, atol=1e-5)
    np.testing.assert_allclose(found_of_u, of_u, atol=1e-4)
    np.testing.assert_allclose(factor * found_of_kernel, of_kernel, atol=1e-3)
    assert np.abs(of_u).max() > 0.1
    assert np.abs(of_kernel).max() > 1


def test_stopping_the_gradients_of_the_moments_lets_a_bias_grow_section_2():
    u = np.random.default_rng(0).normal(size=(64, 1)).astype("float32")
    one, rate, steps = np.ones((1, 1), "float32"), 0.1, 20

    def stopped(x):
        mean, variance = (
            ops.stop_gradient(value)
            for value in (
                ops.mean(x, axis=0, keepdims=True),
                ops.var(x, axis=0, keepdims=True),
            )
        )
        return normalize(x, one, None, mean, variance, EPSILON)

    def whole(x):
        return normalized((0,))(x, one, 0 * one)[0]

    def train(normalization):
        """Losses and biases under the loss mean((normalized(u + bias) + 1)**2)."""
        losses, bias = [], 0 * one
        for _ in range(steps):

            def loss(bias):
                return (ops.mean(ops.square(normalization(u + bias) + 1)),)

            value, gradient = differentiated(loss, (bias,), np.float32(1))
            losses.append(value)
            bias = bias - rate * gradient
        return losses, bias.item()

    losses, bias = train(stopped)
    # dL/dbias is 2 / sqrt(variance + epsilon) at every step: the mean of the targets.
    slope = 2 / np.sqrt(u.astype(np.float64).var() + EPSILON)
    np.testing.assert_allclose(bias, -steps * rate * slope, rtol=1e-3)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)
    losses, bias = train(whole)
    assert abs(bias) < 1e-4
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


batches = arrays(
    np.float32, (8, 2), elements=st.integers(-50, 50).map(float), unique=True
)


def standardized(values):
    return ops.convert_to_numpy(
        normalize_batch(ops.convert_to_tensor(values), None, None, (0,), 0.0)[0]
    )


properties = settings(max_examples=40, deadline=None, derandomize=True)


@properties
@given(batches, st.integers(-20, 20).filter(bool), st.integers(-100, 100))
def test_an_affine_map_of_the_inputs_changes_the_sign_at_most(values, factor, offset):
    mapped = standardized(np.float32(factor) * values + np.float32(offset))
    expected = np.sign(factor) * standardized(values)
    np.testing.assert_allclose(mapped, expected, atol=1e-4)


@properties
@given(batches, st.permutations(range(8)))
def test_the_order_of_the_examples_has_no_effect(values, order):
    found = standardized(values[order])
    np.testing.assert_allclose(found, standardized(values)[order], atol=1e-5)


@properties
@given(batches)
def test_normalizing_twice_is_normalizing_once(values):
    once = standardized(values)
    np.testing.assert_allclose(once.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(once.var(0), 1, atol=1e-4)
    np.testing.assert_allclose(standardized(once), once, atol=1e-4)


@properties
@given(batches, arrays(np.float32, (8, 2), elements=st.integers(-9, 9).map(float)))
def test_no_gradient_flows_along_a_shift_or_a_stretch_of_the_inputs(values, cotangent):
    one = np.ones((1, 2), "float32")
    function = normalized((0,), epsilon=0.0)
    found = differentiated(function, (values, one, one), cotangent)
    gradient = found[3].astype(np.float64)
    np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-3)
    stretch = (gradient * (values - values.mean(0))).sum(0)
    np.testing.assert_allclose(stretch, 0, atol=1e-2)
