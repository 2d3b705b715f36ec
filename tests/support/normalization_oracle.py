"""Batch normalization in NumPy and float64, and derivatives on either backend.

Knows no code under test; the formulas are those of Ioffe & Szegedy 2015, Algorithm 1,
with a mask: statistics and their gradients over unmasked positions only.
"""

from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

TENSORFLOW = keras.backend.backend() == "tensorflow"
MODES = ("eager", "graph", "xla", "unknown batch") if TENSORFLOW else ("xla",)
DTYPES = ("float32", "float64") if TENSORFLOW else ("float32",)
tensorflow_only = pytest.mark.skipif(not TENSORFLOW, reason="TensorFlow's alone")


class Normalized(NamedTuple):
    """What a normalization of a batch answers, everything in float64."""

    outputs: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    inputs_gradient: np.ndarray
    gamma_gradient: np.ndarray
    beta_gradient: np.ndarray


def oracle(x, gamma, beta, cotangent, axes, epsilon, mask=None):
    """All of `Normalized` for `cotangent` = dL/dy; the reduced axes are kept."""
    x, gamma, beta, cotangent = (
        np.asarray(value, np.float64) for value in (x, gamma, beta, cotangent)
    )
    counted = np.broadcast_to(True if mask is None else mask, x.shape)
    count = np.maximum(counted.sum(axes, keepdims=True), 1)
    seen = np.where(counted, x, 0)
    # In two passes: a sum of large values is inexact in float64 too.
    mean = seen.sum(axes, keepdims=True) / count
    mean += np.where(counted, x - mean, 0).sum(axes, keepdims=True) / count
    squares = np.where(counted, x - mean, 0) ** 2
    variance = squares.sum(axes, keepdims=True) / count
    inverse = 1 / np.sqrt(variance + epsilon)
    normalized = (x - mean) * inverse
    of_beta = cotangent.sum(axes, keepdims=True)
    of_gamma = (cotangent * normalized).sum(axes, keepdims=True)
    through_moments = (of_beta + normalized * of_gamma) * counted / count
    of_inputs = gamma * inverse * (cotangent - through_moments)
    return Normalized(
        gamma * normalized + beta, mean, variance, of_inputs, of_gamma, of_beta
    )


def problem(shape, axes, dtype="float32", mean=2.0, seed=0):
    """`x, gamma, beta, dL/dy` whose three gradients are all far from 0."""
    draw = np.random.default_rng(seed)
    weight = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    noise = draw.normal(size=shape)
    x = (mean + noise).astype(dtype)
    gamma = draw.uniform(0.5, 2.0, weight).astype(dtype)
    beta = draw.normal(size=weight).astype(dtype)
    return x, gamma, beta, (1 + noise + draw.normal(size=shape)).astype(dtype)


def differentiated(function, arguments, cotangent, mode="eager"):
    """`function(*arguments)` and the gradients of its first result.

    Args:
        function: of tensors; answers a tuple.
        arguments: NumPy arrays, the first of them a batch.
        cotangent: dL/d(first result).
        mode: one of `MODES`.

    Returns:
        The results and then the gradients with respect to each argument, as arrays.
    """
    whole = _tensorflow_gradients if TENSORFLOW else _jax_gradients
    results = whole(function, arguments, cotangent, mode)
    return [ops.convert_to_numpy(result) for result in results]


def _tensorflow_gradients(function, arguments, cotangent, mode):
    import tensorflow as tf

    def run(cotangent, *arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            results = function(*arguments)
        return *results, *tape.gradient(results[0], arguments, cotangent)

    given = [tf.constant(value) for value in (cotangent, *arguments)]
    if mode == "unknown batch":
        batch = [tf.TensorSpec((None, *one.shape[1:]), one.dtype) for one in given[:2]]
        rest = [tf.TensorSpec(one.shape, one.dtype) for one in given[2:]]
        run = tf.function(run, input_signature=batch + rest)
    elif mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    return run(*given)


def _jax_gradients(function, arguments, cotangent, mode):
    import jax

    def run(cotangent, *arguments):
        def first_and_rest(*arguments):
            first, *rest = function(*arguments)
            return first, rest

        first, pull_back, rest = jax.vjp(first_and_rest, *arguments, has_aux=True)
        return first, *rest, *pull_back(cotangent)

    run = jax.jit(run) if mode == "xla" else run
    return run(*(jax.numpy.asarray(value) for value in (cotangent, *arguments)))


def layer_gradients(layer, x, cotangent, **arguments):
    """Outputs and dL/dx of a built layer in training mode; its statistics follow."""
    if TENSORFLOW:
        return differentiated(
            lambda x: (layer(x, training=True, **arguments),), (x,), cotangent
        )
    state = layer.trainable_variables, layer.non_trainable_variables
    state = [[one.value for one in variables] for variables in state]

    def stateless(x):
        return layer.stateless_call(*state, x, training=True, **arguments)[:1]

    results = differentiated(stateless, (x,), cotangent, "xla")
    layer(x, training=True, **arguments)
    return results
