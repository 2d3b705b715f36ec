"""Moments and averages, compared with NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from bn_keras.layer.moments import (
    Moments,
    batch_moments,
    merge_moments,
    unbiased_variance,
)
from bn_keras.layer.moving_statistics import update_average, update_weight


def oracle(values, axes, mask=None):
    """Return count, mean and biased variance of the unmasked values, in float64."""
    values = np.ma.array(values.astype(np.float64))
    if mask is not None:
        values[~np.broadcast_to(mask, values.shape)] = np.ma.masked
    return (
        values.count(axis=axes),
        values.mean(axis=axes).filled(0),
        values.var(axis=axes).filled(0),
    )


def draw(shape, mean=0.0, seed=0):
    return (mean + np.random.default_rng(seed).normal(size=shape)).astype("float32")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((7, 3), (0,)),
        ((5, 4, 3), (0, 1)),
        ((5, 4, 6, 3), (0, 1, 2)),
        ((5, 3, 4, 6), (0, 2, 3)),
        ((5, 4, 6, 3), (0,)),
        ((2, 3, 4, 3, 2), (0, 1, 2, 3)),
    ],
)
def test_moments_are_those_of_numpy(shape, axes):
    values = draw(shape, mean=3.0)
    count, mean, variance = batch_moments(ops.convert_to_tensor(values), axes)
    expected_count, expected_mean, expected_variance = oracle(values, axes)
    assert count == expected_count.flat[0]
    np.testing.assert_allclose(np.squeeze(mean, axes), expected_mean, rtol=1e-6)
    np.testing.assert_allclose(np.squeeze(variance, axes), expected_variance, rtol=2e-6)


@pytest.mark.fast
def test_masked_positions_are_ignored_even_if_they_are_nan():
    values = draw((4, 5, 3))
    mask = np.random.default_rng(1).random((4, 5, 1)) < 0.6
    expected = oracle(values, (0, 1), mask)
    values = np.where(mask, values, np.nan).astype("float32")
    count, mean, variance = batch_moments(
        ops.convert_to_tensor(values), (0, 1), ops.convert_to_tensor(mask)
    )
    # One count for all channels, because the mask is the same for all of them.
    np.testing.assert_array_equal(np.squeeze(count, (0, 1)), expected[0][:1])
    np.testing.assert_allclose(np.squeeze(mean, (0, 1)), expected[1], atol=1e-6)
    np.testing.assert_allclose(np.squeeze(variance, (0, 1)), expected[2], rtol=2e-6)


@pytest.mark.fast
@pytest.mark.parametrize("reason", ["empty", "masked"])
def test_the_moments_of_no_values_are_zero(reason):
    if reason == "empty":
        moments = batch_moments(ops.zeros((0, 3)), (0,))
    else:
        moments = batch_moments(
            ops.ones((4, 3)), (0,), ops.convert_to_tensor(np.zeros((4, 1), bool))
        )
    for value in moments:
        np.testing.assert_array_equal(np.ravel(value), 0)


@pytest.mark.fast
def test_a_large_mean_does_not_make_the_variance_inexact():
    # 401,408 values per channel: tf.nn.moments returns 8 times the variance.
    values = draw((128, 56, 56, 2), mean=1000.0)
    _, _, variance = batch_moments(ops.convert_to_tensor(values), (0, 1, 2))
    _, _, expected = oracle(values, (0, 1, 2))
    np.testing.assert_allclose(np.ravel(variance), expected, rtol=1e-3)


float_arrays = st.integers(0, 8).flatmap(
    lambda n: arrays(np.float64, (n, 2), elements=st.floats(-1e3, 1e3))
)


def numpy_moments(values):
    if not len(values):
        return Moments(0, np.zeros(2), np.zeros(2))
    return Moments(len(values), values.mean(axis=0), values.var(axis=0))


@given(float_arrays, float_arrays)
def test_merged_moments_are_those_of_the_union(a, b):
    merged = merge_moments(numpy_moments(a), numpy_moments(b))
    expected = numpy_moments(np.concatenate([a, b]))
    assert merged.count == expected.count
    np.testing.assert_allclose(merged.mean, expected.mean, atol=1e-9)
    np.testing.assert_allclose(merged.variance, expected.variance, atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("count", [2, 3, 60])
def test_the_unbiased_variance_is_that_of_numpy_with_ddof_1(count):
    values = draw((count, 4)).astype(np.float64)
    for number in (count, ops.convert_to_tensor(count)):
        np.testing.assert_allclose(
            unbiased_variance(values.var(axis=0), number)
            if isinstance(number, int)
            else unbiased_variance(ops.convert_to_tensor(values.var(axis=0)), number),
            values.var(axis=0, ddof=1),
            rtol=1e-6,  # JAX computes in float32
        )


@pytest.mark.fast
def test_the_unbiased_variance_of_a_single_value_is_zero():
    assert unbiased_variance(0.0, 1) == 0.0


@pytest.mark.fast
def test_an_average_weighs_the_old_and_the_new_value():
    assert update_average(10.0, 20.0, 0.25) == 12.5
    assert update_average(10.0, 20.0, 1) == 20.0
    assert update_average(10.0, 20.0, 0) == 10.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0, 0.999))
def test_debiased_and_cumulative_averages_are_weighted_means(values, momentum):
    for averaging, weights in (
        ("cumulative", np.ones(len(values))),
        ("debiased", momentum ** np.arange(len(values))[::-1].astype(float)),
    ):
        average = 1e6  # the first value replaces it
        for updates, value in enumerate(values):
            weight = update_weight(averaging, momentum, updates)
            average = update_average(average, value, weight)
        expected = np.average(values, weights=weights)
        np.testing.assert_allclose(average, expected, atol=1e-6)
