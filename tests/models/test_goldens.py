"""The networks have the recorded shapes and outputs, which NumPy confirms."""

import json
import os
import subprocess
import sys
from functools import cache, partial

import numpy as np
import pytest
from goldens.make import (
    OUTPUTS,
    STRUCTURES,
    fixed_images,
    fixed_weights,
    float64,
    outputs,
    structure,
)
from paths import ROOT

FOLDER = ROOT / "tests" / "goldens"
GOLDEN_STRUCTURES = json.loads((FOLDER / "structures.json").read_text())
GOLDEN_OUTPUTS = json.loads((FOLDER / "outputs.json").read_text())

# The absolute error of a logit is the relative error of its probability. With 20 layers
# in float32 and logits up to 15, errors of 6e-6 were measured.
FLOAT32 = 2e-5
# These between them have every kind of layer; the others are slow tests.
REPRESENTATIVES = ("bn_inception_small", "inception", "vgg_small")
# Figure 5: side and channels of the output of each block for 224x224 pixels.
FIGURE_5 = {
    "conv1_activation": (112, 64),
    "pool1": (56, 64),
    "conv2_activation": (56, 192),
    "pool2": (28, 192),
    "inception_3a": (28, 256),
    "inception_3b": (28, 320),
    "inception_3c": (14, 576),
    "inception_4a": (14, 576),
    "inception_4b": (14, 576),
    "inception_4c": (14, 576),
    "inception_4d": (14, 576),
    "inception_4e": (7, 1024),
    "inception_5a": (7, 1024),
    "inception_5b": (7, 1024),
}
MODULES = ["3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]


@cache
def model_in_float32(name):
    build, arguments = OUTPUTS[name]
    return build(**arguments)


@pytest.mark.parametrize("name", GOLDEN_STRUCTURES)
def test_blocks_have_the_recorded_shapes_and_networks_the_recorded_parameters(name):
    build, arguments = STRUCTURES[name]
    assert structure(build(**arguments)) == GOLDEN_STRUCTURES[name]


@pytest.mark.parametrize("name", ["inception", "bn_inception"])
def test_the_recorded_shapes_are_those_of_figure_5(name):
    figure = {
        block: [side, side, channels] for block, (side, channels) in FIGURE_5.items()
    }
    figure |= {"avg_pool": [1024], "predictions": [1000]}
    assert GOLDEN_STRUCTURES[name]["blocks"] == figure


@pytest.mark.parametrize("name", GOLDEN_OUTPUTS)
def test_the_outputs_in_float64_are_those_recorded(name):
    build, arguments = OUTPUTS[name]
    with float64():
        actual = outputs(build(**arguments), arguments)
    # Another machine may sum in another order, which changes float64 by about 1e-14.
    np.testing.assert_allclose(actual, GOLDEN_OUTPUTS[name], rtol=1e-11)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in REPRESENTATIVES else pytest.mark.slow)
        for name in GOLDEN_OUTPUTS
    ],
)
def test_the_outputs_in_float32_are_those_recorded(name):
    actual = outputs(model_in_float32(name), OUTPUTS[name][1])
    np.testing.assert_allclose(actual, GOLDEN_OUTPUTS[name], rtol=FLOAT32)


# These between them have every kind of layer. JAX compiles every operation separately
# for every shape, which is slow.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bn_inception", "inception_small", "vgg"])
def test_the_outputs_on_jax_are_those_recorded(name):
    code = (
        "import json; from goldens.make import OUTPUTS, outputs;"
        f"build, arguments = OUTPUTS[{name!r}];"
        "print(json.dumps(outputs(build(**arguments), arguments).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=FOLDER.parent,
        capture_output=True,
        check=True,
    )
    actual = json.loads(done.stdout)
    np.testing.assert_allclose(actual, GOLDEN_OUTPUTS[name], rtol=FLOAT32)


# The networks in NumPy, with the weights by name.


def windows(x, size, strides, fill):
    """Return the windows of "same" padding, `(n, h, w, channels, size, size)`."""
    pads = []
    for side in x.shape[1:3]:
        count = -(-side // strides)
        total = max((count - 1) * strides + size - side, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return view[:, ::strides, ::strides]


def maximum(x, size=3, strides=2):
    return windows(x, size, strides, -np.inf).max((-1, -2))


def average(x):
    return np.nanmean(windows(x, 3, 1, np.nan), (-1, -2))


def hidden(weights, x, place, strides=1):
    """Apply a linear map, then BN or a bias, then ReLU."""
    layer = f"{place}_{'dense' if x.ndim == 2 else 'conv'}"
    if f"{layer}/depthwise_kernel" in weights:
        kernel = weights[f"{layer}/depthwise_kernel"]
        patches = windows(x, len(kernel), strides, 0)
        x = np.einsum("nhwcij,ijcm->nhwcm", patches, kernel)
        x = x.reshape(*x.shape[:3], -1) @ weights[f"{layer}/pointwise_kernel"][0, 0]
    elif x.ndim == 4:
        kernel = weights[f"{layer}/kernel"]
        patches = windows(x, len(kernel), strides, 0)
        x = np.einsum("nhwcij,ijco->nhwo", patches, kernel, optimize=True)
    else:
        x = x @ weights[f"{layer}/kernel"]
    if f"{place}_bn/gamma" in weights:
        gamma, beta, mean, variance = (
            weights[f"{place}_bn/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    else:
        x = x + weights[f"{layer}/bias"]
    return np.maximum(x, 0)


def normalize_locally(x):
    """Normalize as in section 3.3 of Krizhevsky et al. 2012, with its constants."""
    squares = np.pad(x**2, [(0, 0)] * 3 + [(2, 2)])
    energy = sum(squares[..., i : i + x.shape[-1]] for i in range(5))
    return x / (2 + 1e-4 * energy) ** 0.75


def inception(weights, x, small, lrn):
    hide = partial(hidden, weights)
    x = hide(x, "conv1", 1 if small else 2)
    if not small:
        x = maximum(x)
    x = normalize_locally(x) if lrn else x
    x = hide(hide(x, "conv2_reduce"), "conv2")
    x = normalize_locally(x) if lrn else x
    if not small:
        x = maximum(x)
    for module in MODULES:
        place, reduces = f"inception_{module}", module in ("3c", "4e")
        strides = 2 if reduces else 1
        double = hide(hide(x, f"{place}_double_3x3_reduce"), f"{place}_double_3x3_a")
        branches = [] if reduces else [hide(x, f"{place}_1x1")]
        branches += [
            hide(hide(x, f"{place}_3x3_reduce"), f"{place}_3x3", strides),
            hide(double, f"{place}_double_3x3_b", strides),
        ]
        if reduces:
            branches.append(maximum(x))
        else:
            pool = maximum(x, strides=1) if module == "5b" else average(x)
            branches.append(hide(pool, f"{place}_pool_projection"))
        x = np.concatenate(branches, -1)
    return x.mean((1, 2))


def vgg(weights, x, small):
    for block, repeats in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, repeats + 1):
            x = hidden(weights, x, f"block{block}_{index}")
        x = maximum(x, 2)
    if small:
        return x.mean((1, 2))
    return hidden(weights, hidden(weights, x.reshape(len(x), -1), "fc1"), "fc2")


NUMPY = {
    "inception": partial(inception, small=False, lrn=True),
    "bn_inception": partial(inception, small=False, lrn=False),
    "inception_small": partial(inception, small=True, lrn=True),
    "bn_inception_small": partial(inception, small=True, lrn=False),
    "vgg": partial(vgg, small=False),
    "vgg_small": partial(vgg, small=True),
}


@pytest.mark.parametrize("name", GOLDEN_OUTPUTS)
def test_numpy_computes_the_recorded_outputs(name):
    weights = fixed_weights(model_in_float32(name))
    images = fixed_images(OUTPUTS[name][1]["input_shape"])
    features = NUMPY[name](weights, images)
    logits = features @ weights["predictions/kernel"] + weights["predictions/bias"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(GOLDEN_OUTPUTS[name], expected, rtol=1e-11)
