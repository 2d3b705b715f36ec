"""The contenders of `benchmarks.layer`: one training step of each, as a function."""

import importlib.util
from functools import partial
from typing import Any

import keras
import numpy as np

from bn_keras import BatchNormalization

LAYERS = {"ours": BatchNormalization, "keras": keras.layers.BatchNormalization}
BACKEND = keras.backend.backend()


def contenders(shape):
    """Return every contender on this backend: functions to time, by name."""
    if BACKEND == "tensorflow":
        return tensorflow_contenders(shape)
    return jax_contenders(shape)


def random_arrays(shape):
    """Return two random float32 arrays."""
    draw = np.random.default_rng(0)
    return [draw.normal(size=shape).astype("float32") for _ in range(2)]


def tensorflow_step(forward, weights, shape, compiled=False):
    """Return a function that runs `forward` and its gradients once."""
    import tensorflow as tf

    x, dy = map(tf.constant, random_arrays(shape))

    @tf.function(jit_compile=compiled)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, *weights])
            y = forward(x)
        return y, tape.gradient(y, [x, *weights], output_gradients=dy)

    # Functions on a CPU return when their work is done: no need to block.
    return partial(step, x, dy)


def tensorflow_layer(layer, shape, compiled=False):
    """Return a training step of a Keras layer."""
    layer.build(shape)
    weights = [layer.gamma.value, layer.beta.value]
    return tensorflow_step(partial(layer, training=True), weights, shape, compiled)


def tensorflow_addition(shape):
    """Return the floor: an addition of two tensors."""
    import tensorflow as tf

    add = tf.function(lambda x, dy: x + dy)
    return partial(add, *map(tf.constant, random_arrays(shape)))


def tensorflow_contenders(shape, compiled=False):
    """Return every contender that runs on TensorFlow, as functions to time."""
    import tensorflow as tf

    steps: dict[str, Any] = {
        name: tensorflow_layer(layer(), shape, compiled)
        for name, layer in LAYERS.items()
    }
    if compiled:
        return steps
    gamma, beta = tf.ones(shape[-1]), tf.zeros(shape[-1])

    def fused(x):
        flat = x if len(shape) == 4 else tf.reshape(x, (-1, 1, 1, shape[-1]))
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(flat, gamma, beta, epsilon=1e-3)
        return tf.reshape(y, shape)

    steps["fused op"] = tensorflow_step(fused, [gamma, beta], shape)
    steps["floor"] = tensorflow_addition(shape)
    if importlib.util.find_spec("torch"):
        steps["torch"] = torch_step(shape)
    if importlib.util.find_spec("jax"):
        steps["jax"] = jax_step(plain_jax(shape), shape)
    return steps


def torch_step(shape):
    """Return a training step of PyTorch's layer, in the channels-last format."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(2)
    image = len(shape) == 4
    memory_format = {"memory_format": torch.channels_last} if image else {}
    order = (0, 3, 1, 2) if image else (0, 1)
    x, dy = (
        torch.tensor(array.transpose(order)).to(**memory_format)
        for array in random_arrays(shape)
    )
    layer_type = torch.nn.BatchNorm2d if image else torch.nn.BatchNorm1d
    layer = layer_type(shape[-1]).to(**memory_format)
    x.requires_grad_()

    def step():
        layer.zero_grad()
        x.grad = None
        layer(x).backward(dy)

    return step


def plain_jax(shape):
    """Return batch normalization in jax.numpy, with moving averages, and its state."""
    import jax.numpy as jnp

    axes = tuple(range(len(shape) - 1))
    state = jnp.ones((4, shape[-1]))

    def forward(x, state):
        gamma, beta, *moving = state
        mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
        y = (x - mean) * (gamma / jnp.sqrt(variance + 1e-3)) + beta
        new = [
            0.99 * a + 0.01 * b for a, b in zip(moving, (mean, variance), strict=True)
        ]
        return y, new

    return forward, state


def jax_step(layer, shape):
    """Return a compiled forward and backward pass of `(function, state)`."""
    import jax

    forward, state = layer
    x, dy = map(jax.numpy.asarray, random_arrays(shape))

    @jax.jit
    def step(x, state, dy):
        y, backward, new = jax.vjp(forward, x, state, has_aux=True)
        return y, new, backward(dy)

    return lambda: jax.block_until_ready(step(x, state, dy))


def jax_contenders(shape):
    """Return both Keras layers on JAX, and batch normalization in jax.numpy."""
    import jax

    steps = {}
    for name, layer in LAYERS.items():
        layer = layer()
        layer.build(shape)

        def forward(x, state, layer=layer):
            y, new = layer.stateless_call(*state, x, training=True)
            return y, new

        state = (
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
        )
        steps[name] = jax_step((forward, state), shape)
    steps["jax"] = jax_step(plain_jax(shape), shape)
    x, dy = map(jax.numpy.asarray, random_arrays(shape))
    add = jax.jit(lambda x, dy: x + dy)
    steps["floor"] = lambda: jax.block_until_ready(add(x, dy))
    return steps
