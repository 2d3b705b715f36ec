"""Write how far int8 convolutions are from NumPy: `python int8_on_processor.py`.

The environment variable `ONEDNN_MAX_CPU_ISA` hides instructions of the processor.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from bn_keras.quantization import operations
from bn_keras.quantization.linear_layers import Linear, quantize_weights
from bn_keras.quantization.operations import QuantizedTensor, Scale


def measure(signed: bool, extreme: bool, reduce_range: bool) -> float:
    """Return the largest error, relative to the largest result."""
    draw = np.random.default_rng(0)
    scale = Scale(1.0, signed)
    high = 127 if signed else 255
    images = draw.integers(-high if signed else 0, high + 1, (2, 6, 6, 32))
    kernel = draw.normal(size=(3, 3, 32, 32)).astype("float32")
    if extreme:  # sums of two products are beyond 16 bits
        images, kernel = np.full_like(images, high), np.ones_like(kernel)
    weights = quantize_weights(
        Linear("convolution", kernel, np.zeros(32)), scale, reduce_range
    )
    rounded = weights.values * np.float64(weights.limits) / 127
    expected = np.zeros((2, 4, 4, 32))
    for i in range(3):
        for j in range(3):
            window = images[:, i : i + 4, j : j + 4] / high
            expected += window @ rounded[i, j]
    output = Scale(float(np.abs(expected).max()), True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        dtype = tf.int8 if signed else tf.uint8
        values = tf.compat.v1.placeholder_with_default(
            images.astype(dtype.as_numpy_dtype), images.shape
        )
        tensor = QuantizedTensor(
            tf.bitcast(values, tf.qint8 if signed else tf.quint8), scale
        )
        result = operations.dequantize(
            operations.convolve(
                operations.CONVOLUTION,
                tensor,
                weights,
                output,
                strides=(1, 1),
                padding="VALID",
            )
        )
        actual = session.run(result)
    return float(np.abs(actual - expected).max() / output.limit)


if __name__ == "__main__":
    figures = {
        f"{sign} {values} {bits}": measure(
            sign == "signed", values == "extreme", bits == "7"
        )
        for sign in ("unsigned", "signed")
        for values in ("normal", "extreme")
        for bits in ("8", "7")
    }
    sys.stdout.write(json.dumps(figures))
