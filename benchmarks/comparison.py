"""Run one set of questions on four libraries: `python -m benchmarks.comparison`.

Asks the layers of this package, Keras, PyTorch and Flax for the same things and writes
down what each one does, for the page that compares them. Needs PyTorch and Flax.
`KERAS_BACKEND=jax` adds forward-mode derivatives, which JAX alone has in Keras.
"""

# The peers are not installed where types are checked.
# pyright: reportMissingImports=false

import argparse
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.timing import provenance
from bn_keras import BatchNormalization

LIBRARIES = ("bn_keras", "Keras", "PyTorch", "Flax")
# Values of one channel: biased variance 14 / 3, unbiased 14 / 2.
THREE = np.array([[1.0], [2.0], [6.0]], "float32")


def keras_layer(library, **settings):
    """Return this package's layer or Keras' own."""
    layers = {"bn_keras": BatchNormalization, "Keras": keras.layers.BatchNormalization}
    return layers[library](**settings)


def to_numpy(tensor) -> np.ndarray:
    """Return a tensor of Keras as an array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


class Layer:
    """A batch normalization of any library: train on arrays, read its statistics.

    The new statistics replace the old ones at once.

    Args:
        library: One of `LIBRARIES`.
        channels: Size of the last axis of its two-dimensional inputs.
        half: Everything in float16.
    """

    def __init__(self, library, channels, half=False):
        self.library = library
        self.layer: Any
        if library in ("bn_keras", "Keras"):
            dtype = "float16" if half else None
            self.layer = keras_layer(library, momentum=0.0, dtype=dtype)
            self.layer.build((None, channels))
        elif library == "PyTorch":
            import torch

            self.layer = torch.nn.BatchNorm1d(channels, momentum=1.0)
            self.layer = self.layer.half() if half else self.layer
        else:
            import jax.numpy as jnp
            from flax import nnx

            self.layer = nnx.BatchNorm(
                channels,
                momentum=0.0,
                use_running_average=False,
                dtype=jnp.float16 if half else None,
                param_dtype=jnp.float16 if half else jnp.float32,
                rngs=nnx.Rngs(0),
            )

    def train(self, values):
        """Normalize one mini-batch in training mode."""
        if self.library in ("bn_keras", "Keras"):
            self.layer(values, training=True)
        elif self.library == "PyTorch":
            import torch

            self.layer(torch.tensor(values))
        else:
            self.layer(values)

    @property
    def mean(self):
        """The population mean, as an array."""
        return self._statistic("moving_mean", "running_mean", "mean")

    @property
    def variance(self):
        """The population variance, as an array."""
        return self._statistic("moving_variance", "running_var", "var")

    def _statistic(self, keras_name, torch_name, flax_name):
        if self.library in ("bn_keras", "Keras"):
            return to_numpy(getattr(self.layer, keras_name))
        if self.library == "PyTorch":
            return getattr(self.layer, torch_name).numpy()
        return np.asarray(getattr(self.layer, flax_name)[...])


def stored_variance(library):
    """Return which variance of 1, 2 and 6 the layer stores."""
    layer = Layer(library, 1)
    layer.train(THREE)
    value = float(layer.variance[0])
    return {"4.67": "biased (4.67)", "7.00": "unbiased (7.00)"}[f"{value:.2f}"]


def variance_at_a_large_mean(library):
    """Return how many times too large the stored variance is."""
    draw = np.random.default_rng(0)
    values = (1000 + draw.normal(size=(401_408, 2))).astype("float32")
    layer = Layer(library, 2)
    layer.train(values)
    ratio = (layer.variance / values.astype("float64").var(axis=0)).max()
    return f"{ratio:.3f}"


def values_far_apart_in_float16(library):
    """Return the variance stored for values of standard deviation 300 in float16."""
    values = np.array([[-300.0], [300.0]] * 8, "float16")
    layer = Layer(library, 1, half=True)
    layer.train(values)
    variance = float(layer.variance[0])
    return f"{variance:,.0f}" if math.isfinite(variance) else "overflows"


def one_value(library):
    """Return what one example does to statistics of mean 2 and variance 3."""
    layer = Layer(library, 1)
    layer.train(np.array([[0.0], [1.0], [5.0]], "float32"))
    before = float(layer.mean[0]), float(layer.variance[0])
    try:
        layer.train(np.array([[9.0]], "float32"))
    except ValueError:
        return "raises ValueError"
    after = float(layer.mean[0]), float(layer.variance[0])
    return "unchanged" if after == before else f"variance becomes {after[1]:.0f}"


def one_nan(library):
    """Return what one NaN does to the stored mean of its channel."""
    layer = Layer(library, 1)
    layer.train(THREE)
    layer.train(np.array([[np.nan], [2.0], [6.0]], "float32"))
    return "unchanged" if math.isfinite(layer.mean[0]) else "becomes NaN"


def several_axes(library):
    """Return whether a pair of parameters for each position and channel is possible."""
    if library == "PyTorch":
        return "no"
    try:
        if library == "Flax":
            import jax
            from flax import linen

            layer = linen.BatchNorm(use_running_average=False, axis=(1, 2, 3))
            weights = layer.init(jax.random.key(0), np.ones((2, 4, 4, 3)))
            shape = weights["params"]["scale"].shape
        else:
            layer = keras_layer(library, axis=(1, 2, 3))
            layer.build((None, 4, 4, 3))
            shape = tuple(layer.gamma.shape)
    except (TypeError, ValueError):
        return "no"
    return "yes" if shape == (4, 4, 3) else "no"


def masks(library):
    """Return whether masked positions are left out of the statistics."""
    values = np.array([[[1.0], [3.0], [100.0]]], "float32")
    mask = np.array([[True, True, False]])
    if library == "PyTorch":
        return "no"
    if library == "Flax":
        layer = Layer(library, 1)
        layer.layer(values, mask=mask[..., None])
        mean = layer.mean
    else:
        layer = keras_layer(library, momentum=0.0)
        layer(values, training=True, mask=mask)
        mean = to_numpy(layer.moving_mean)
    return "yes" if abs(float(mean[0]) - 2) < 1e-5 else "no"


def equal_weights(library):
    """Return whether all mini-batches can have equal weight in the statistics."""
    if library == "Flax":
        return "no"
    batches = [THREE, THREE + 6, THREE + 9]
    if library == "PyTorch":
        import torch

        layer = torch.nn.BatchNorm1d(1, momentum=None)
        for batch in batches:
            layer(torch.tensor(batch))
        mean = float(layer.running_mean[0])
    else:
        try:
            layer = keras_layer(library, averaging="cumulative")
        except (TypeError, ValueError):
            return "no"
        for batch in batches:
            layer(batch, training=True)
        mean = float(to_numpy(layer.moving_mean)[0])
    return "yes" if abs(mean - 8) < 1e-5 else "no"


def ghost_batches(library):
    """Return whether parts of a batch can be normalized by moments of their own."""
    if library in ("PyTorch", "Flax"):
        return "no"
    try:
        layer = keras_layer(library, virtual_batch_size=2)
    except (TypeError, ValueError):
        return "no"
    pairs = layer(np.array([[0.0], [2.0], [10.0], [12.0]], "float32"), training=True)
    pairs = to_numpy(pairs)
    return "yes" if np.allclose(pairs[:2], pairs[2:], atol=1e-5) else "no"


def batch_renormalization(library):
    """Return whether the layer offers batch renormalization (Ioffe 2017)."""
    if library in ("PyTorch", "Flax"):
        return "no"
    keras_layer(library, renorm=True)(THREE, training=True)
    return "yes"


def frozen_statistics(library):
    """Return whether statistics stay as they are while gamma and beta train."""
    if library == "PyTorch":
        import torch

        layer = torch.nn.BatchNorm1d(1).eval()
        before = layer.running_mean.clone()
        loss = (layer(torch.tensor(THREE)) - 1).square().sum()
        loss.backward()
        trains = bool(layer.bias.grad.abs() > 0)
        same = torch.equal(layer.running_mean, before)
        return "yes, in `eval()`" if trains and same else "no"
    if library == "Flax":
        import jax
        from flax import nnx

        layer = nnx.BatchNorm(1, use_running_average=True, rngs=nnx.Rngs(0))

        def loss_of(layer):
            return ((layer(THREE) - 1) ** 2).sum()

        gradients = nnx.grad(loss_of)(layer)
        trains = bool(abs(jax.tree.leaves(gradients)[0]).sum() > 0)
        same = float(layer.mean[...][0]) == 0
        return "yes, `use_running_average=True`" if trains and same else "no"
    inputs = keras.Input((1,))
    if library == "bn_keras":
        layer = keras_layer(library, frozen_statistics=True)
        outputs = layer(inputs)
    else:
        layer = keras_layer(library)
        outputs = layer(inputs, training=False)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(THREE, np.ones((3, 1)), epochs=1, verbose="0")
    weights = [to_numpy(w) for w in (layer.beta, layer.moving_mean)]
    if not weights[0].any():
        return "no"
    if weights[1].any():
        return "no: `fit` overrides `training=False`"
    return "yes, `frozen_statistics=True`"


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


def population_estimate(library):
    """Return whether statistics can be estimated again for a trained model."""
    if library in ("Keras", "Flax"):
        return "no"
    batches = [THREE, THREE + 6, THREE + 9]
    if library == "PyTorch":
        import torch

        model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
        torch.optim.swa_utils.update_bn(map(torch.tensor, batches), model)
        mean = float(model[0].running_mean[0])
        return "yes, `update_bn`" if abs(mean - 8) < 1e-5 else "no"
    from bn_keras import estimate_population_statistics

    model = keras.Sequential([keras.Input((1,)), keras_layer(library)])
    estimate_population_statistics(model, batches, verbose=0)
    mean = float(to_numpy(model.layers[0].moving_mean)[0])
    found = "yes, `estimate_population_statistics`"
    return found if abs(mean - 8) < 1e-5 else "no"


def folding(library):
    """Return which batch normalizations of a small network the library folds.

    One follows a convolution, the other precedes one.
    """
    if library in ("Keras", "Flax"):
        return "no"
    if library == "PyTorch":
        import torch
        from torch.fx.experimental.optimization import fuse

        model = torch.nn.Sequential(
            torch.nn.BatchNorm2d(3),
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.BatchNorm2d(4),
        ).eval()
        left = sum(isinstance(m, torch.nn.BatchNorm2d) for m in fuse(model).modules())
    else:
        from bn_keras import fold_batch_normalization

        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras_layer(library),
                keras.layers.Conv2D(4, 3),
                keras_layer(library),
            ]
        )
        left = fold_batch_normalization(model).report.left
    return {0: "after and before a convolution", 1: "after a convolution", 2: "no"}[
        left
    ]


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


QUESTIONS = {
    "variance stored for 1, 2 and 6": stored_variance,
    "variance of 401,408 float32 values with mean 1000 and standard deviation 1, two "
    "channels, relative to the true one": variance_at_a_large_mean,
    "variance stored for values of standard deviation 300, all in float16": (
        values_far_apart_in_float16
    ),
    "second derivatives in training mode": second_derivatives,
    "statistics after a batch of one value per channel": one_value,
    "statistics after a batch with NaN": one_nan,
    "statistics for several axes, `axis=(1, 2, 3)`": several_axes,
    "masked positions left out of the statistics": masks,
    "all mini-batches with equal weight": equal_weights,
    "ghost batches": ghost_batches,
    "batch renormalization": batch_renormalization,
    "statistics frozen while gamma and beta train": frozen_statistics,
    "population statistics estimated again for a trained model": population_estimate,
    "folds batch normalization into its neighbors": folding,
}


def main():
    """Parse, ask, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_jax = keras.backend.backend() == "jax"
    questions = {"forward-mode derivatives": forward_mode} if on_jax else QUESTIONS
    rows = []
    for text, ask in questions.items():
        row = {"question": text, **{library: ask(library) for library in LIBRARIES}}
        print(*row.values(), sep=" | ")
        rows.append(row)
    if options.json:
        facts = provenance("benchmarks.comparison")
        facts["versions"]["flax"] = version("flax")
        facts["rows"] = rows
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
