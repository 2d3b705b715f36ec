"""Batch normalization in NumPy and float64, and derivatives on both backends.

The oracle follows Ioffe & Szegedy 2015, Algorithm 1, with a mask: statistics and
gradients are those of the unmasked positions. It imports nothing from the package.
"""

from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

TENSORFLOW = keras.backend.backend() == "tensorflow"
# How a function is run. The first mode is the cheapest one.
MODES = ("eager", "graph", "xla", "unknown batch") if TENSORFLOW else ("xla",)
DTYPES = ("float32", "float64") if TENSORFLOW else ("float32",)
SLOW = pytest.mark.slow
tensorflow_only = pytest.mark.skipif(not TENSORFLOW, reason="tests TensorFlow only")


def modes(*defaults):
    """Return a parameter for each mode; all but the first and `defaults` are slow."""
    return [
        pytest.param(mode, marks=() if mode in (MODES[0], *defaults) else SLOW)
        for mode in MODES
    ]


def cases_in_modes(cases, representatives, modes=MODES):
    """Return the product of cases and modes as parameters.

    In eager mode every case is in the default suite, and small ones are fast. In the
    other modes, which compile, only the representatives are, and the rest is slow.

    Args:
        cases: Parameters with ids, each of which starts with a shape.
        representatives: The ids of some of them.
        modes: Names of modes.
    """

    def marks(case, mode):
        if mode == "eager":
            return pytest.mark.fast if np.prod(case.values[0]) < 2**12 else ()
        return () if case.id in representatives else SLOW

    return [
        pytest.param(
            *case.values, mode, id=f"{case.id}-{mode}", marks=marks(case, mode)
        )
        for case in cases
        for mode in modes
    ]


class NormalizedBatch(NamedTuple):
    """The results of a normalization of a batch and its gradients, all in float64."""

    outputs: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    inputs_gradient: np.ndarray
    gamma_gradient: np.ndarray
    beta_gradient: np.ndarray


def oracle(x, gamma, beta, cotangent, axes, epsilon, mask=None):
    """Return a `NormalizedBatch` for `cotangent` = dL/dy; reduced axes have size 1."""
    x, gamma, beta, cotangent = (
        np.asarray(value, np.float64) for value in (x, gamma, beta, cotangent)
    )
    unmasked = np.broadcast_to(True if mask is None else mask, x.shape)
    count = np.maximum(unmasked.sum(axes, keepdims=True), 1)
    # In two passes: a sum of large values is inexact in float64, too.
    mean = np.where(unmasked, x, 0).sum(axes, keepdims=True) / count
    mean += np.where(unmasked, x - mean, 0).sum(axes, keepdims=True) / count
    squares = np.where(unmasked, x - mean, 0) ** 2
    variance = squares.sum(axes, keepdims=True) / count
    inverse = 1 / np.sqrt(variance + epsilon)
    xhat = (x - mean) * inverse
    beta_gradient = cotangent.sum(axes, keepdims=True)
    gamma_gradient = (cotangent * xhat).sum(axes, keepdims=True)
    through_moments = (beta_gradient + xhat * gamma_gradient) * unmasked / count
    inputs_gradient = gamma * inverse * (cotangent - through_moments)
    return NormalizedBatch(
        gamma * xhat + beta,
        mean,
        variance,
        inputs_gradient,
        gamma_gradient,
        beta_gradient,
    )


def random_case(shape, axes, dtype="float32", mean=2.0, seed=0):
    """Return random `x, gamma, beta, dL/dy` whose gradients are all far from 0."""
    draw = np.random.default_rng(seed)
    weight_shape = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    noise = draw.normal(size=shape)
    x = (mean + noise).astype(dtype)
    gamma = draw.uniform(0.5, 2.0, weight_shape).astype(dtype)
    beta = draw.normal(size=weight_shape).astype(dtype)
    return x, gamma, beta, (1 + noise + draw.normal(size=shape)).astype(dtype)


def differentiate(function, arguments, cotangent, mode=MODES[0]):
    """Return the results of a function, and the gradients of its first result.

    Args:
        function: A function of tensors that returns a tuple of tensors.
        arguments: NumPy arrays. The first one has the batch as its first axis.
        cotangent: dL/d(first result).
        mode: One of `MODES`.

    Returns:
        A list of arrays: the results, and then the gradient by each argument.
    """
    run = _differentiate_tensorflow if TENSORFLOW else _differentiate_jax
    results = run(function, arguments, cotangent, mode)
    return [ops.convert_to_numpy(result) for result in results]


def _differentiate_tensorflow(function, arguments, cotangent, mode):
    import tensorflow as tf

    def run(cotangent, *arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            results = function(*arguments)
        return *results, *tape.gradient(results[0], arguments, cotangent)

    tensors = [tf.constant(value) for value in (cotangent, *arguments)]
    if mode == "unknown batch":
        specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in tensors[:2]]
        specs += [tf.TensorSpec(x.shape, x.dtype) for x in tensors[2:]]
        run = tf.function(run, input_signature=specs)
    elif mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    return run(*tensors)


def _differentiate_jax(function, arguments, cotangent, mode):
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
    """Call a built layer in training mode, and return its outputs and dL/dx.

    Its moving statistics are updated once.
    """
    if TENSORFLOW:
        return differentiate(
            lambda x: (layer(x, training=True, **arguments),), (x,), cotangent
        )
    variables = layer.trainable_variables, layer.non_trainable_variables
    state = [[variable.value for variable in group] for group in variables]

    def call(x):
        return layer.stateless_call(*state, x, training=True, **arguments)[:1]

    results = differentiate(call, (x,), cotangent, "xla")
    layer(x, training=True, **arguments)
    return results
