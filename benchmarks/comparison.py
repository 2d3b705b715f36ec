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

import keras
import numpy as np

from benchmarks.derivatives import forward_mode, second_derivatives
from benchmarks.peers import LIBRARIES, Layer, keras_layer, to_numpy
from benchmarks.timing import provenance

# Values of one channel: biased variance 14 / 3, unbiased 14 / 2.
THREE = np.array([[1.0], [2.0], [6.0]], "float32")


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
