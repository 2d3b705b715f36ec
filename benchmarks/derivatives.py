"""Which derivatives of batch normalization four libraries compute, and how well."""

# The peers are not installed where types are checked.
# pyright: reportMissingImports=false

import numpy as np

from benchmarks.peers import keras_layer, to_numpy


def second_derivatives(library):
    """Return the relative error of a gradient of a gradient, in float64.

    The function is a gradient penalty, the mean of `(slope - 1) ** 2` over the slopes
    of `sum(tanh(y) * c)` with the layer's outputs `y`. The truth are central
    differences.
    """
    draw = np.random.default_rng(3)
    values, factors = draw.normal(size=(6, 2)), draw.normal(size=(6, 2))
    if library == "PyTorch":
        function, gradient = _torch_slope_function(factors)
    elif library == "Flax":
        function, gradient = _flax_slope_function(factors)
    else:
        function, gradient = _tensorflow_slope_function(library, factors)
    truth, step = np.zeros_like(values), 1e-5
    for index in np.ndindex(values.shape):
        up, down = values.copy(), values.copy()
        up[index] += step
        down[index] -= step
        truth[index] = (function(up) - function(down)) / (2 * step)
    error = np.abs(np.asarray(gradient(values)) - truth).max() / np.abs(truth).max()
    return f"{error:.0%} wrong" if error > 0.005 else "right"


def _torch_slope_function(factors):
    """Return the function of `second_derivatives`, and its gradient by PyTorch."""
    import torch

    layer = torch.nn.BatchNorm1d(2).double()
    weights = torch.tensor(factors)

    def slopes(x):
        score = (torch.tanh(layer(x)) * weights).sum()
        (slope,) = torch.autograd.grad(score, x, create_graph=True)
        return (slope - 1).square().mean()

    def function(values):
        return slopes(torch.tensor(values, requires_grad=True)).item()

    def gradient(values):
        x = torch.tensor(values, requires_grad=True)
        return torch.autograd.grad(slopes(x), x)[0].numpy()

    return function, gradient


def _flax_slope_function(factors):
    """Return the function of `second_derivatives`, and its gradient by JAX."""
    import jax
    import jax.numpy as jnp
    from flax import linen

    jax.config.update("jax_enable_x64", True)
    layer = linen.BatchNorm(
        use_running_average=False, dtype="float64", param_dtype="float64"
    )
    state = layer.init(jax.random.key(0), jnp.zeros((6, 2)))

    def score(x):
        y, _ = layer.apply(state, x, mutable=["batch_stats"])
        return (jnp.tanh(y) * factors).sum()

    def slopes(x):
        return ((jax.grad(score)(x) - 1) ** 2).mean()

    return slopes, jax.grad(slopes)


def _tensorflow_slope_function(library, factors):
    """Return the function of `second_derivatives`, and its gradient by TensorFlow."""
    import tensorflow as tf

    layer = keras_layer(library, dtype="float64")
    layer.build((None, 2))

    def slopes(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_sum(tf.tanh(layer(x, training=True)) * factors)
        return tf.reduce_mean((tape.gradient(score, x) - 1) ** 2)

    def gradient(values):
        x = tf.constant(values)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = slopes(x)
        return to_numpy(tape.gradient(value, x))

    return lambda values: float(slopes(tf.constant(values))), gradient


def forward_mode(library):
    """Return whether `jvp` and `hessian` work in training mode; Keras on JAX."""
    values, ones = np.array([[1.0], [2.0], [6.0]]), np.ones((3, 1))
    if library == "PyTorch":
        import torch

        layer = torch.nn.BatchNorm1d(1, track_running_stats=False).double()
        weights, jvp, hessian = torch.tensor(values), torch.func.jvp, torch.func.hessian
        values, ones = torch.tensor(values), torch.tensor(ones)

        def score_by_torch(x):
            return (torch.tanh(layer(x)) * weights).sum()

        score = score_by_torch
    else:
        import jax

        values, ones = values.astype("float32"), ones.astype("float32")
        weights, jvp, hessian = values, jax.jvp, jax.hessian
        normalize = _jax_normalization(library, values)

        def score_by_jax(x):
            return (jax.numpy.tanh(normalize(x)) * weights).sum()

        score = score_by_jax
    works = {}
    for name, run in {
        "jvp": lambda: jvp(score, (values,), (ones,)),
        "hessian": lambda: hessian(score)(values),
    }.items():
        try:
            run()
            works[name] = True
        except (TypeError, NotImplementedError, RuntimeError):
            works[name] = False
    return ", ".join(f"`{name}`: {'yes' if ok else 'no'}" for name, ok in works.items())


def _jax_normalization(library, values):
    """Return the layer in training mode, as a function of JAX."""
    if library == "Flax":
        import jax
        from flax import linen

        layer = linen.BatchNorm(use_running_average=False)
        state = layer.init(jax.random.key(0), values)
        return lambda x: layer.apply(state, x, mutable=["batch_stats"])[0]
    layer = keras_layer(library)
    layer.build((None, 1))
    trainable, others = (
        [variable.value for variable in variables]
        for variables in (layer.trainable_variables, layer.non_trainable_variables)
    )
    return lambda x: layer.stateless_call(trainable, others, x, training=True)[0]
