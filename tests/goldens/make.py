"""Record the shapes and outputs of the networks: `python tests/goldens/make.py`.

Run it only after an intended change of the networks.
"""

import json
import re
import zlib
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from bn_keras.models import VGG, BNInception, Inception

FOLDER = Path(__file__).parent
SMALL = {"classes": 10, "input_shape": (32, 32, 3)}
NARROW = {**SMALL, "width": 0.125}

# Numbers of parameters and shapes are recorded at full width.
STRUCTURES = {
    "inception": (Inception, {}),
    "bn_inception": (BNInception, {}),
    "inception_small": (Inception, {**SMALL, "stem": "small"}),
    "bn_inception_small": (BNInception, {**SMALL, "stem": "small"}),
    "bn_inception_small_64": (
        BNInception,
        {**SMALL, "stem": "small", "input_shape": (64, 64, 3)},
    ),
    "vgg_small": (VGG, {**SMALL, "head": "small"}),
    "vgg_small_without_bn": (VGG, {**SMALL, "head": "small", "normalization": None}),
}
# Outputs are recorded for fixed weights. Odd sides show on which side "same" pads.
OUTPUTS = {
    "inception": (Inception, {**NARROW, "input_shape": (75, 64, 3)}),
    "bn_inception": (BNInception, {**NARROW, "input_shape": (75, 64, 3)}),
    "inception_small": (Inception, {**NARROW, "stem": "small", "separable": False}),
    "bn_inception_small": (BNInception, {**NARROW, "stem": "small"}),
    "vgg": (VGG, {**NARROW, "normalization": None}),
    "vgg_small": (VGG, {**NARROW, "head": "small"}),
}

BLOCK = re.compile(
    r"(conv\d|fc\d)_activation|(block\d_)?pool\d?|inception_\d\w|flatten|avg_pool"
    r"|predictions"
)


def structure(model):
    """Return the numbers of parameters of a model and the shapes of its blocks."""
    return {
        "parameters": model.count_params(),
        "trainable": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        "blocks": {
            layer.name: list(layer.output.shape[1:])
            for layer in model.layers
            if BLOCK.fullmatch(layer.name)
        },
    }


def fixed_weights(model):
    """Return a value for each weight that depends only on its path and shape."""
    values = {}
    for weight in model.weights:
        generator = np.random.default_rng(zlib.crc32(weight.path.encode()))
        kind = weight.path.rsplit("/")[-1]
        if kind == "gamma":
            value = generator.uniform(0.5, 1.5, weight.shape)
        elif kind == "moving_variance":
            value = generator.uniform(0.75, 1.75, weight.shape)
        elif kind in ("bias", "beta", "moving_mean"):
            value = generator.normal(0, 0.1, weight.shape)
        else:
            # A depthwise kernel sums over positions only.
            summed = 2 if kind == "depthwise_kernel" else -1
            fan_in = np.prod(weight.shape[:summed])
            value = generator.normal(0, (2 / fan_in) ** 0.5, weight.shape)
        values[weight.path] = value
    return values


def fixed_images(shape):
    """Return two images of noise, the second with twice the contrast."""
    images = np.random.default_rng(0).normal(size=(2, *shape))
    return images * np.array([1, 2])[:, None, None, None]


@contextmanager
def float64():
    """Make float64 the dtype of Keras."""
    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)


def outputs(model, arguments):
    """Return a model's outputs for `fixed_images`, with `fixed_weights`."""
    model.set_weights(list(fixed_weights(model).values()))
    images = fixed_images(arguments["input_shape"]).astype(model.inputs[0].dtype)
    return keras.ops.convert_to_numpy(model(images, training=False))


def main():
    """Write `structures.json` and `outputs.json`."""
    structures = {
        name: structure(build(**arguments))
        for name, (build, arguments) in STRUCTURES.items()
    }
    with float64():
        recorded = {
            name: outputs(build(**arguments), arguments).tolist()
            for name, (build, arguments) in OUTPUTS.items()
        }
    for name, content in (("structures", structures), ("outputs", recorded)):
        text = json.dumps(content, indent=1) + "\n"
        # Put each shape and each row of the outputs on one line.
        text = re.sub(r"\[[^][]*\]", lambda row: json.dumps(json.loads(row[0])), text)
        (FOLDER / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main()
