"""The folding arithmetic agrees with plain NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bn_keras.folding import algebra
from bn_keras.folding.algebra import Affine

pytestmark = pytest.mark.fast

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def apply(affine, x):
    scale, shift = (
        algebra.align(array, affine.axes, range(x.ndim))
        for array in (affine.scale, affine.shift)
    )
    return scale * x + shift


def convolve(x, kernel, groups=1):
    """A "valid" 2D convolution, `(height, width, channels)`, by its definition."""
    rows, columns, inputs, outputs = kernel.shape
    height, width = x.shape[0] - rows + 1, x.shape[1] - columns + 1
    y = np.zeros((height, width, outputs))
    for o in range(outputs):
        start = o // (outputs // groups) * inputs
        for i in range(height):
            for j in range(width):
                window = x[i : i + rows, j : j + columns, start : start + inputs]
                y[i, j, o] = (window * kernel[..., o]).sum()
    return y


def convolve_depthwise(x, kernel):
    channels, multiplier = kernel.shape[-2:]
    parts = [
        convolve(x[..., c : c + 1], kernel[:, :, c : c + 1, m : m + 1])
        for c in range(channels)
        for m in range(multiplier)
    ]
    return np.concatenate(parts, -1)


@pytest.mark.parametrize("gamma", [None, np.array([2.0, -1e-6, 0.0])])
@pytest.mark.parametrize("beta", [None, np.array([1.0, -3.0, 0.5])])
def test_batch_normalization_at_inference_is_one_affine_map(gamma, beta):
    mean, variance, epsilon = np.array([1.0, -2, 3]), np.array([1e-4, 1.0, 1e4]), 0.25
    affine = algebra.affine_from_statistics(gamma, beta, mean, variance, epsilon, (1,))
    x = draw(5, 3)
    expected = (x - mean) / np.sqrt(variance + epsilon)
    expected = expected * (1 if gamma is None else gamma) + (
        0 if beta is None else beta
    )
    np.testing.assert_allclose(apply(affine, x), expected, **EXACT)
    assert affine.scale.dtype == "float64"


def test_float32_statistics_are_computed_in_float64():
    variance = np.array([0.1], "float32")
    affine = algebra.affine_from_statistics(None, None, variance, variance, 1e-3, (1,))
    assert affine.scale[0] == 1 / np.sqrt(np.float64(variance[0]) + 1e-3)


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_map_after_a_kernel_scales_its_outputs_and_shifts_the_bias(axis):
    kernel, bias, scale, shift = draw(4, 3), draw(3), draw(3, seed=1), draw(3, seed=2)
    stored = kernel if axis == -1 else kernel.T
    folded, moved = algebra.fold_after_linear(stored, bias, scale, shift, axis)
    x = draw(6, 4, seed=3)
    actual = x @ (folded if axis == -1 else folded.T) + moved
    np.testing.assert_allclose(actual, scale * (x @ kernel + bias) + shift, **EXACT)
    assert np.array_equal(
        algebra.fold_after_linear(stored, None, scale, shift, axis)[1], shift
    )


def test_a_map_after_a_depthwise_kernel_is_ordered_by_channel_then_multiplier():
    kernel, bias = draw(2, 3, 4, 2), draw(8)
    scale, shift, x = draw(8, seed=1), draw(8, seed=2), draw(5, 6, 4, seed=3)
    folded, moved = algebra.fold_after_depthwise(kernel, bias, scale, shift)
    expected = scale * (convolve_depthwise(x, kernel) + bias) + shift
    actual = convolve_depthwise(x, folded) + moved
    np.testing.assert_allclose(actual, expected, **EXACT)


def test_a_map_before_a_dense_kernel_scales_its_rows_and_shifts_the_bias():
    kernel, bias, scale, shift = draw(4, 3), draw(3), draw(4, seed=1), draw(4, seed=2)
    folded, moved = algebra.fold_before_dense(kernel, bias, scale, shift)
    x = draw(6, 4, seed=3)
    expected = (scale * x + shift) @ kernel + bias
    np.testing.assert_allclose(x @ folded + moved, expected, **EXACT)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_map_before_a_grouped_kernel_is_split_by_group(groups):
    kernel, bias = draw(2, 3, 6 // groups, 12), draw(12)
    scale, shift, x = draw(6, seed=1), draw(6, seed=2), draw(5, 6, 6, seed=3)
    folded, moved = algebra.fold_before_convolution(kernel, bias, scale, shift)
    expected = convolve(scale * x + shift, kernel, groups) + bias
    actual = convolve(x, folded, groups) + moved
    np.testing.assert_allclose(actual, expected, **EXACT)


def test_a_map_before_a_depthwise_kernel_scales_each_channel():
    kernel, bias = draw(2, 3, 4, 2), draw(8)
    scale, shift, x = draw(4, seed=1), draw(4, seed=2), draw(5, 6, 4, seed=3)
    folded, moved = algebra.fold_before_depthwise(kernel, bias, scale, shift)
    expected = convolve_depthwise(scale * x + shift, kernel) + bias
    np.testing.assert_allclose(convolve_depthwise(x, folded) + moved, expected, **EXACT)


def test_a_map_before_separable_kernels_changes_the_depthwise_one_and_the_bias():
    depthwise, pointwise, bias = draw(2, 3, 4, 2), draw(1, 1, 8, 3), draw(3)
    scale, shift, x = draw(4, seed=1), draw(4, seed=2), draw(5, 6, 4, seed=3)
    folded, moved = algebra.fold_before_separable(
        depthwise, pointwise, bias, scale, shift
    )

    def run(x, kernel, bias):
        return convolve(convolve_depthwise(x, kernel), pointwise) + bias

    expected = run(scale * x + shift, depthwise, bias)
    np.testing.assert_allclose(run(x, folded, moved), expected, **EXACT)


def test_a_scale_before_a_transposed_kernel_is_along_its_last_axis():
    kernel, bias, scale, x = draw(3, 4), draw(3), draw(4, seed=1), draw(6, 4, seed=3)
    folded, kept = algebra.fold_before_transposed(kernel, bias, scale)
    expected = (scale * x) @ kernel.T + bias
    np.testing.assert_allclose(x @ folded.T + kept, expected, **EXACT)


EQUATIONS = {
    "ab,bc->ac": ((5, 3), (3, 4), [1], [1]),
    "abc,cd->abd": ((5, 2, 3), (3, 4), [2], [2]),
    "btx,xhd->bthd": ((5, 2, 3), (3, 2, 4), [2, 3], [2]),
    "bthd,hdx->btx": ((5, 2, 3, 4), (3, 4, 6), [2], [2, 3]),
    "bnx,nxd->bnd": ((5, 2, 3), (2, 3, 4), [1, 2], [1, 2]),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_folds_along_every_axis_of_its_kernel(equation):
    shape, kernel_shape, outputs, inputs = EQUATIONS[equation]
    labels = algebra.einsum_labels(equation, len(shape))
    kernel, x = draw(*kernel_shape), draw(*shape, seed=1)
    y = np.einsum(equation, x, kernel)
    bias = draw(*(1 if i == 0 else size for i, size in enumerate(y.shape)), seed=2)
    for axes in [outputs, *([axis] for axis in outputs)]:
        affine = some_affine([y.shape[axis] for axis in axes], axes)
        folded, moved = algebra.fold_after_einsum(labels, kernel, bias, affine)
        actual = np.einsum(equation, x, folded) + moved
        np.testing.assert_allclose(actual, apply(affine, y + bias), **EXACT)
    for axes in [inputs, *([axis] for axis in inputs)]:
        affine = some_affine([shape[axis] for axis in axes], axes)
        folded, moved = algebra.fold_before_einsum(labels, kernel, bias, affine)
        actual = np.einsum(equation, x, folded) + moved
        expected = np.einsum(equation, apply(affine, x), kernel) + bias
        np.testing.assert_allclose(actual, expected, **EXACT)


def some_affine(sizes, axes):
    return Affine(draw(*sizes, seed=4), draw(*sizes, seed=5), tuple(axes))


def test_einsum_labels_number_the_axes_of_an_ellipsis():
    assert algebra.einsum_labels("...x,xy->...y", 3) == (
        ["#0", "#1", "x"],
        ["x", "y"],
        ["#0", "#1", "y"],
    )
    assert algebra.einsum_labels("ab...,bc->ac...", 3) == (
        ["a", "b", "#0"],
        ["b", "c"],
        ["a", "c", "#0"],
    )


@pytest.mark.parametrize(
    ("fold", "equation", "axis"),
    [
        (algebra.fold_after_einsum, "abc,cd->abd", 1),
        (algebra.fold_before_einsum, "abc,cd->abd", 1),
        (
            algebra.fold_before_einsum,
            "abc,cd->ad",
            2,
        ),  # b is summed over, but is not in the kernel
    ],
)
def test_einsum_rejects_an_axis_that_its_kernel_does_not_have(fold, equation, axis):
    labels = algebra.einsum_labels(equation, 3)
    with pytest.raises(
        ValueError, match=r"must have every axis.*Received: kernel axes"
    ):
        fold(labels, draw(3, 3), None, some_affine([3], [axis]))


sizes = st.lists(st.integers(1, 3), min_size=3, max_size=3)
axes = st.sets(st.integers(1, 3), min_size=1).map(lambda axes: tuple(sorted(axes)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes, axes, axes, st.integers(0, 99))
def test_a_composition_applies_one_map_after_the_other(sizes, first, second, seed):
    x = draw(2, *sizes, seed=seed)
    maps = [
        some_affine([sizes[axis - 1] for axis in axes], axes)
        for axes in (first, second)
    ]
    composed = maps[1].after(maps[0])
    expected = apply(maps[1], apply(maps[0], x))
    np.testing.assert_allclose(apply(composed, x), expected, **EXACT)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), sizes, axes)
def test_tiling_and_dropping_constant_axes_do_not_change_the_values(data, sizes, axes):
    shape = tuple(sizes[axis - 1] for axis in axes)
    few_values = st.sampled_from([0.0, 1.0])  # so that some axes are constant
    scale, shift = (
        data.draw(arrays.arrays("float64", shape, elements=few_values)) for _ in "ab"
    )
    affine = Affine(scale, shift, axes)
    x = draw(2, *sizes)
    tiled = affine.tile(sizes)
    assert tiled.scale.shape == tuple(sizes)
    fewest = tiled.without_constant_axes()
    np.testing.assert_array_equal(apply(tiled, x), apply(affine, x))
    np.testing.assert_array_equal(apply(fewest, x), apply(affine, x))
    for position, axis in enumerate(fewest.axes):
        if len(fewest.axes) > 1:
            assert any(
                (array != array.take([0], position)).any()
                for array in (fewest.scale, fewest.shift)
            ), axis


def test_selecting_positions_and_changing_axes_do_not_change_the_values():
    affine = some_affine([3, 4], [1, 2])
    x = draw(2, 3, 4)
    selected = affine.select(2, 1, 3)
    np.testing.assert_array_equal(
        apply(selected, x[..., 1:3]), apply(affine, x)[..., 1:3]
    )
    assert affine.select(3, 0, 1) is affine
    swapped = affine.with_axes((2, 1))
    np.testing.assert_array_equal(
        apply(swapped, x.swapaxes(1, 2)), apply(affine, x).swapaxes(1, 2)
    )
