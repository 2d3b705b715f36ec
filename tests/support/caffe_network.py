"""PyTorch's `bninception` in plain TensorFlow, written from `pretrainedmodels`.

Nothing here uses this package. Images are in BGR, as there.
"""

import numpy as np
import tensorflow as tf

# pretrainedmodels/models/bninception.py: of each module the channels of the 1x1
# convolution, of the two convolutions with 3x3, of the three, and the pooling with the
# channels after it; 0 for what a module with strides does not have.
MODULES = {
    "3a": (64, (64, 64), (64, 96), "avg", 32),
    "3b": (64, (64, 96), (64, 96), "avg", 64),
    "3c": (0, (128, 160), (64, 96), "max", 0),
    "4a": (224, (64, 96), (96, 128), "avg", 128),
    "4b": (192, (96, 128), (96, 128), "avg", 128),
    "4c": (160, (128, 160), (128, 160), "avg", 128),
    "4d": (96, (128, 192), (160, 192), "avg", 128),
    "4e": (0, (128, 192), (192, 256), "max", 0),
    "5a": (352, (192, 320), (160, 224), "avg", 128),
    "5b": (352, (192, 320), (192, 224), "max", 128),
}


def _layers():
    """Yield the name, kernel size, and numbers of inputs and outputs of each layer."""
    yield "conv1_7x7_s2", 7, 3, 64
    yield "conv2_3x3_reduce", 1, 64, 64
    yield "conv2_3x3", 3, 64, 192
    channels = 192
    for module, (single, triple, double, _, projection) in MODULES.items():
        prefix = f"inception_{module}"
        if single:
            yield f"{prefix}_1x1", 1, channels, single
        yield f"{prefix}_3x3_reduce", 1, channels, triple[0]
        yield f"{prefix}_3x3", 3, triple[0], triple[1]
        yield f"{prefix}_double_3x3_reduce", 1, channels, double[0]
        yield f"{prefix}_double_3x3_1", 3, double[0], double[1]
        yield f"{prefix}_double_3x3_2", 3, double[1], double[1]
        if projection:
            yield f"{prefix}_pool_proj", 1, channels, projection
        channels = single + triple[1] + double[1] + (projection or channels)


def random_state(classes=1000, seed=0):
    """Return a state dict of arrays."""
    draw = np.random.default_rng(seed)
    state = {}
    for name, size, inputs, outputs in _layers():
        deviation = np.sqrt(2 / (size * size * inputs))
        shape = (outputs, inputs, size, size)
        state[f"{name}.weight"] = draw.normal(size=shape) * deviation
        state[f"{name}.bias"] = draw.normal(size=outputs) * 0.2
        state[f"{name}_bn.weight"] = draw.uniform(0.5, 1.5, outputs)
        state[f"{name}_bn.bias"] = draw.normal(size=outputs) * 0.2
        state[f"{name}_bn.running_mean"] = draw.normal(size=outputs) * 0.2
        state[f"{name}_bn.running_var"] = draw.uniform(0.5, 2, outputs)
        state[f"{name}_bn.num_batches_tracked"] = np.array(1)
    state["last_linear.weight"] = draw.normal(size=(classes, 1024)) * 0.03
    state["last_linear.bias"] = draw.normal(size=classes)
    return {name: np.asarray(value, np.float32) for name, value in state.items()}


def logits(state, images):
    """Return the logits of images in BGR, of which the mean color was subtracted."""

    def convolution(x, name, stride=1):
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        x = tf.nn.conv2d(_pad(x, len(kernel) // 2), kernel, stride, "VALID")
        mean, variance, gamma, beta = (
            state[f"{name}_bn.{statistic}"]
            for statistic in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x + state[f"{name}.bias"] - mean) / np.sqrt(variance + 1e-5)
        return tf.nn.relu(x * gamma + beta)

    x = convolution(tf.constant(images), "conv1_7x7_s2", 2)
    x = _pool_in_ceil_mode(x)
    x = convolution(convolution(x, "conv2_3x3_reduce"), "conv2_3x3")
    x = _pool_in_ceil_mode(x)
    for module, (single, _, _, pool, projection) in MODULES.items():
        prefix, stride = f"inception_{module}", 1 if projection else 2
        outputs = [convolution(x, f"{prefix}_1x1")] if single else []
        y = convolution(x, f"{prefix}_3x3_reduce")
        outputs.append(convolution(y, f"{prefix}_3x3", stride))
        y = convolution(x, f"{prefix}_double_3x3_reduce")
        y = convolution(y, f"{prefix}_double_3x3_1")
        outputs.append(convolution(y, f"{prefix}_double_3x3_2", stride))
        if stride == 2:
            outputs.append(_pool_in_ceil_mode(x))
        else:
            if pool == "avg":  # counts the zeros that are padded
                y = tf.nn.avg_pool2d(_pad(x, 1), 3, 1, "VALID")
            else:
                y = tf.nn.max_pool2d(_pad(x, 1, -np.inf), 3, 1, "VALID")
            outputs.append(convolution(y, f"{prefix}_pool_proj"))
        x = tf.concat(outputs, -1)
    x = tf.reduce_mean(x, (1, 2))
    return (x @ state["last_linear.weight"].T + state["last_linear.bias"]).numpy()


def _pad(x, width, value=0.0):
    sides = [width, width]
    return tf.pad(x, [[0, 0], sides, sides, [0, 0]], constant_values=value)


def _pool_in_ceil_mode(x):
    """Pool 3x3 at stride 2; the last window may reach beyond the image."""
    side = x.shape[1]
    windows = -(-(side - 3) // 2) + 1
    beyond = [0, 2 * (windows - 1) + 3 - side]
    x = tf.pad(x, [[0, 0], beyond, beyond, [0, 0]], constant_values=-np.inf)
    return tf.nn.max_pool2d(x, 3, 2, "VALID")
