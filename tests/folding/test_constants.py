"""Constants beside a normalization become part of the weights."""

import keras
import numpy as np
import pytest
from folding_checks import TOLERANCE, chain, fold_and_compare
from keras import layers, ops

from bn_keras.folding import algebra
from bn_keras.folding.constant_rules import read_constants
from bn_keras.keras_graph import read_graph

pytestmark = pytest.mark.fast


def test_constants_between_a_layer_and_a_normalization_are_part_of_the_weights(dtype):
    offsets = np.array([1e3, -5.0, 0.5], dtype)
    steps = layers.Dense(3), lambda x: (x + offsets) * 2.0, None, layers.ReLU()
    result = fold_and_compare(
        chain((4,), *steps, dtype=dtype), TOLERANCE[dtype], folded=1, left=0
    )
    assert result.report.entries[0].rule == "Dense, Add, Multiply, then BN"
    assert [type(x).__name__ for x in result.model.layers] == [
        "InputLayer",
        "Dense",
        "ReLU",
    ]
    steps = layers.ReLU(), None, lambda x: x * 2.0 - offsets[0], layers.Dense(3)
    result = fold_and_compare(
        chain((4,), *steps, dtype=dtype), TOLERANCE[dtype], folded=1, left=0
    )
    assert result.report.entries[0].rule == "BN, Multiply, Subtract, then Dense"


CONSTANTS = {
    "x + c": (lambda x, c: x + c, 1, lambda c: c),
    "c + x": (lambda x, c: ops.add(c, x), 1, lambda c: c),
    "x - c": (lambda x, c: x - c, 1, lambda c: -c),
    "c - x": (lambda x, c: ops.subtract(c, x), -1, lambda c: c),
    "x * c": (lambda x, c: x * c, lambda c: c, 0),
    "x / c": (lambda x, c: x / c, lambda c: 1 / c, 0),
    "x // 1": (lambda x, c: ops.true_divide(x, c), lambda c: 1 / c, 0),
    "-x": (lambda x, _: -x, -1, 0),
    "rescaling": (lambda x, c: layers.Rescaling(c, c)(x), lambda c: c, lambda c: c),
}


@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (3, 1), (1, 3, 4)])
@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_read_as_an_affine_map(name, shape):
    apply, scale, shift = CONSTANTS[name]
    constant = np.random.default_rng(0).uniform(1, 2, shape).astype("float32")
    inputs = keras.Input((3, 4))
    (call,) = read_graph(keras.Model(inputs, apply(inputs, constant))).calls
    affine = read_constants(call)
    full = np.broadcast_to(constant.astype("float64"), (1, 3, 4))
    for array, expected in ((affine.scale, scale), (affine.shift, shift)):
        expected = (
            expected(full) if callable(expected) else np.full(full.shape, expected)
        )
        actual = algebra.align(array, affine.axes, range(3))
        np.testing.assert_allclose(np.broadcast_to(actual, (1, 3, 4)), expected, 1e-12)


def test_a_constant_that_keras_adds_along_another_axis_is_left(dtype):
    for constant, shape in (
        ((4, 1), (4, 4)),
        ((5, 1, 1), (5, 3, 5)),
        ((5, 1), (5, 5, 3)),
    ):
        offsets = np.arange(np.prod(constant)).reshape(constant).astype(dtype)
        steps = layers.Dense(shape[-1]), lambda x, c=offsets: ops.add(x, c), None
        result = fold_and_compare(
            chain((*shape[:-1], 2), *steps, dtype=dtype), TOLERANCE[dtype], 0, 1
        )
        assert "axes are not clear" in result.report.entries[0].reason
