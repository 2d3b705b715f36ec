"""`inception_v2` of TF-Slim in plain TensorFlow, written from its source.

The names and shapes of its variables are in `SHAPES`; nothing here uses this package.
"""

import numpy as np
import tensorflow as tf

# tf_slim/nets/inception_v2.py at min_depth 16 and depth_multiplier 1: of each module
# the channels of its branches, stride 1 (four branches) or 2 (two and a pooling).
MODULES = {
    "Mixed_3b": ((64,), (64, 64), (64, 96, 96), ("avg", 32)),
    "Mixed_3c": ((64,), (64, 96), (64, 96, 96), ("avg", 64)),
    "Mixed_4a": ((128, 160), (64, 96, 96)),
    "Mixed_4b": ((224,), (64, 96), (96, 128, 128), ("avg", 128)),
    "Mixed_4c": ((192,), (96, 128), (96, 128, 128), ("avg", 128)),
    "Mixed_4d": ((160,), (128, 160), (128, 160, 160), ("avg", 96)),
    "Mixed_4e": ((96,), (128, 192), (160, 192, 192), ("avg", 96)),
    "Mixed_5a": ((128, 192), (192, 256, 256)),
    "Mixed_5b": ((352,), (192, 320), (160, 224, 224), ("avg", 128)),
    "Mixed_5c": ((352,), (192, 320), (192, 224, 224), ("max", 128)),
}
STEPS = {
    (1, 0): ("Conv2d_0a_1x1",),
    (1, 1): ("Conv2d_0a_1x1", "Conv2d_0b_3x3"),
    (1, 2): ("Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_0c_3x3"),
    (2, 0): ("Conv2d_0a_1x1", "Conv2d_1a_3x3"),
    (2, 1): ("Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_1a_3x3"),
}


def _shapes():
    shapes = {
        "Conv2d_1a_7x7/depthwise_weights": (7, 7, 3, 8),
        "Conv2d_1a_7x7/pointwise_weights": (1, 1, 24, 64),
        "Logits/Conv2d_1c_1x1/weights": (1, 1, 1024, 1001),
        "Logits/Conv2d_1c_1x1/biases": (1001,),
    }
    normalized = {"Conv2d_1a_7x7": 64}

    def convolution(scope, size, inputs, outputs):
        shapes[f"{scope}/weights"] = (size, size, inputs, outputs)
        normalized[scope] = outputs
        return outputs

    convolution("Conv2d_2b_1x1", 1, 64, 64)
    channels = convolution("Conv2d_2c_3x3", 3, 64, 192)
    for module, branches in MODULES.items():
        stride = 1 if len(branches) == 4 else 2
        total = 0
        for number, branch in enumerate(branches):
            if number == 3:
                total += convolution(
                    f"{module}/Branch_3/Conv2d_0b_1x1", 1, channels, branch[1]
                )
                continue
            inputs = channels
            for step, outputs in zip(STEPS[stride, number], branch, strict=True):
                scope = f"{module}/Branch_{number}/{step}"
                inputs = convolution(scope, int(step[-1]), inputs, outputs)
            total += inputs
        channels = total + (channels if stride == 2 else 0)
    for scope, outputs in normalized.items():
        for name in ("beta", "moving_mean", "moving_variance"):
            shapes[f"{scope}/BatchNorm/{name}"] = (outputs,)
    return {f"InceptionV2/{name}": shape for name, shape in shapes.items()}


SHAPES = _shapes()


def random_values(seed=0):
    """Return values for all variables with which activations stay moderate."""
    draw = np.random.default_rng(seed)
    values = {}
    for name, shape in SHAPES.items():
        if name.endswith("weights"):
            fan_in = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:3])
            array = draw.normal(size=shape) * np.sqrt(2 / fan_in)
        elif name.endswith("moving_variance"):
            array = draw.uniform(0.5, 2, shape)
        else:
            array = draw.normal(size=shape) * 0.1
        values[name] = array.astype(np.float32)
    return values


def write_checkpoint(path, values, version=1):
    """Write a checkpoint file: one file as of TensorFlow 1, or the later format."""
    names = sorted(values)
    data = [tf.constant(values[name]) for name in names]
    if version == 1:
        tf.raw_ops.Save(filename=str(path), tensor_names=names, data=data)
    else:
        slices = [""] * len(names)
        tf.raw_ops.SaveV2(
            prefix=str(path), tensor_names=names, shape_and_slices=slices, tensors=data
        )


def logits(values, images):
    """Return the logits `(batch, 1001)` of images from -1 to 1."""

    def value(name):
        return values[f"InceptionV2/{name}"]

    def normalize(x, scope):
        mean, variance, beta = (
            value(f"{scope}/BatchNorm/{name}")
            for name in ("moving_mean", "moving_variance", "beta")
        )
        return tf.nn.relu((x - mean) / np.sqrt(variance + 0.001) + beta)

    def convolution(x, scope, stride=1):
        x = tf.nn.conv2d(x, value(f"{scope}/weights"), stride, "SAME")
        return normalize(x, scope)

    x = tf.nn.separable_conv2d(
        images,
        value("Conv2d_1a_7x7/depthwise_weights"),
        value("Conv2d_1a_7x7/pointwise_weights"),
        (1, 2, 2, 1),
        "SAME",
    )
    x = tf.nn.max_pool2d(normalize(x, "Conv2d_1a_7x7"), 3, 2, "SAME")
    x = convolution(convolution(x, "Conv2d_2b_1x1"), "Conv2d_2c_3x3")
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for module, branches in MODULES.items():
        stride = 1 if len(branches) == 4 else 2
        outputs = []
        for number, branch in enumerate(branches):
            scope = f"{module}/Branch_{number}"
            if number == 3:
                pool = tf.nn.avg_pool2d if branch[0] == "avg" else tf.nn.max_pool2d
                outputs.append(
                    convolution(pool(x, 3, 1, "SAME"), f"{scope}/Conv2d_0b_1x1")
                )
                continue
            y = x
            for step in STEPS[stride, number]:
                y = convolution(y, f"{scope}/{step}", stride if "_1a_" in step else 1)
            outputs.append(y)
        if stride == 2:
            outputs.append(tf.nn.max_pool2d(x, 3, 2, "SAME"))
        x = tf.concat(outputs, -1)
    x = tf.reduce_mean(x, (1, 2), keepdims=True)
    classifier = value("Logits/Conv2d_1c_1x1/weights")
    x = tf.nn.conv2d(x, classifier, 1, "SAME") + value("Logits/Conv2d_1c_1x1/biases")
    return x[:, 0, 0].numpy()
