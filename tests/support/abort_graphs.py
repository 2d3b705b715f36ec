"""Parts of models, to be run on shapes that they do not expect.

TensorFlow fuses some operations with those that follow them, and what it fuses can
abort where the single operations do not. Hence the combinations that models consist of.
"""

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
IMAGES, VOLUMES = [None, 4, 4, 2], [None, 4, 4, 4, 2]
COLORS = [None, 4, 4, 3]
ROWS, SEQUENCES, SQUARES = [None, 4], [None, 5, 4], [None, 3, 3]
HEADS = [None, 2, 5, 4]
ACTIVATIONS = ("relu", "relu6", "elu", "leaky_relu", "sigmoid", "tanh", "gelu", "swish")


def weights(*shape):
    values = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    return tf.constant(values.astype(np.float32))


def convolution(x):
    return tf.nn.conv2d(x, weights(3, 3, 2, 3), 1, "SAME")


def convolution_with_bias(x):
    return tf.nn.bias_add(convolution(x), weights(3))


def depthwise(x):
    return tf.nn.depthwise_conv2d(x, weights(3, 3, 2, 1), [1] * 4, "SAME")


def convolution_1d(x):
    return tf.nn.bias_add(tf.nn.conv1d(x, weights(3, 4, 3), 1, "SAME"), weights(3))


def convolution_3d(x):
    return tf.nn.conv3d(x, weights(3, 3, 3, 2, 3), [1] * 5, "SAME")


def dense(x):
    return tf.nn.bias_add(tf.matmul(x, weights(4, 3)), weights(3))


def normalization(x, training=False):
    ones = [] if training else [weights(3), tf.ones(3)]
    outputs = v1.nn.fused_batch_norm(
        x, weights(3), weights(3), *ones, is_training=training
    )
    return outputs[0]


def layer_normalization(x):
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    scaled = (x - mean) * tf.math.rsqrt(variance + 1e-3)
    return scaled * weights(4) + weights(4)


def instance_normalization(x):
    mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
    scaled = (x - mean) * tf.math.rsqrt(variance + 1e-3)
    return scaled * weights(2) + weights(2)


def attention(x, *axes):
    bias = weights(*axes, 5, 5)
    scores = tf.matmul(x, x, transpose_b=True) * 0.5 + bias
    return tf.matmul(tf.nn.softmax(scores), x)


def mish(x):
    return x * tf.tanh(tf.math.softplus(x))


def gradient(build):
    return lambda x: tf.gradients(build(x) ** 2, x)


def activated(build, name):
    return lambda x: getattr(tf.nn, name)(build(x))


def quantized(x):
    return tf.quantization.quantize(x, 0.0, 1.0, tf.quint8).output


def quantized_convolution(x):
    return tf.raw_ops.QuantizedConv2D(
        input=quantized(x),
        filter=quantized(weights(3, 3, 2, 3)),
        **dict.fromkeys(("min_input", "min_filter"), 0.0),
        **dict.fromkeys(("max_input", "max_filter"), 1.0),
        strides=[1] * 4,
        padding="SAME",
    )


def quantized_product(x):
    return tf.raw_ops.QuantizedMatMul(
        a=quantized(x),
        b=quantized(weights(4, 3)),
        **dict.fromkeys(("min_a", "min_b"), 0.0),
        **dict.fromkeys(("max_a", "max_b"), 1.0),
    )


def quantized_pool(operation):
    return lambda x: operation(
        input=quantized(x),
        min_input=0.0,
        max_input=1.0,
        ksize=[1, 2, 2, 1],
        strides=[1, 2, 2, 1],
        padding="SAME",
    )


def lstm_cell(x):
    return tf.raw_ops.LSTMBlockCell(
        x=x,
        cs_prev=weights(2, 3),
        h_prev=weights(2, 3),
        w=weights(7, 12),
        **dict.fromkeys(("wci", "wcf", "wco"), weights(3)),
        b=weights(12),
    ).h


def lstm(x):
    return tf.raw_ops.BlockLSTMV2(
        seq_len_max=tf.constant(2, tf.int64),
        x=x,
        cs_prev=weights(2, 3),
        h_prev=weights(2, 3),
        w=weights(7, 12),
        **dict.fromkeys(("wci", "wcf", "wco"), weights(3)),
        b=weights(12),
    ).h


def loop(x):
    return tf.while_loop(
        lambda i, _: i < 3, lambda i, y: (i + 1, tf.matmul(y, weights(4, 4))), (0, x)
    )


def png(x):
    return tf.io.encode_png(tf.cast(x, tf.uint8))


# Name to the expected shape of the input and the function that builds the graph.
GRAPHS = {
    "convolution": (IMAGES, convolution),
    "padded convolution": (
        IMAGES,
        lambda x: convolution(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])),
    ),
    "dilated convolution": (
        IMAGES,
        lambda x: tf.nn.conv2d(x, weights(3, 3, 2, 3), 1, "SAME", dilations=2),
    ),
    "residual convolution": (
        IMAGES,
        lambda x: tf.nn.relu(
            convolution_with_bias(x) + tf.nn.conv2d(x, weights(1, 1, 2, 3), 1, "SAME")
        ),
    ),
    "convolution, mish": (IMAGES, lambda x: mish(convolution_with_bias(x))),
    "convolution, normalization, relu": (
        IMAGES,
        lambda x: tf.nn.relu(normalization(convolution(x))),
    ),
    "depthwise convolution": (IMAGES, depthwise),
    "depthwise convolution, bias, relu6": (
        IMAGES,
        lambda x: tf.nn.relu6(tf.nn.bias_add(depthwise(x), weights(2))),
    ),
    "transposed convolution": (
        IMAGES,
        lambda x: tf.nn.conv2d_transpose(x, weights(3, 3, 3, 2), [2, 8, 8, 3], 2),
    ),
    "convolution in one dimension": (SEQUENCES, convolution_1d),
    "convolution in three dimensions": (VOLUMES, convolution_3d),
    "convolution in three dimensions, bias, relu": (
        VOLUMES,
        lambda x: tf.nn.relu(tf.nn.bias_add(convolution_3d(x), weights(3))),
    ),
    "transposed convolution in three dimensions": (
        VOLUMES,
        lambda x: tf.nn.conv3d_transpose(x, weights(3, 3, 3, 3, 2), [2, 8, 8, 8, 3], 2),
    ),
    **{
        f"convolution, bias, {name}": (IMAGES, activated(convolution_with_bias, name))
        for name in ACTIVATIONS
    },
    **{f"dense, {name}": (ROWS, activated(dense, name)) for name in ACTIVATIONS},
    **{
        f"normalization, {name}": (COLORS, activated(normalization, name))
        for name in ACTIVATIONS
    },
    **{name: (ROWS, activated(tf.identity, name)) for name in ACTIVATIONS},
    "mish": (ROWS, mish),
    "normalization": (COLORS, normalization),
    "normalization in training": (COLORS, lambda x: normalization(x, True)),
    "layer normalization": (ROWS, layer_normalization),
    "layer normalization of sequences": (SEQUENCES, layer_normalization),
    "instance normalization": (IMAGES, instance_normalization),
    "local response normalization": (IMAGES, tf.nn.local_response_normalization),
    "bias": (IMAGES, lambda x: tf.nn.bias_add(x, weights(2))),
    "dense": (ROWS, dense),
    "product": (ROWS, lambda x: tf.matmul(x, weights(4, 3))),
    "product with itself": (ROWS, lambda x: tf.matmul(x, x, transpose_b=True)),
    "batched product": (SEQUENCES, lambda x: tf.matmul(x, weights(1, 4, 3))),
    "attention": (SEQUENCES, attention),
    "attention with heads": (HEADS, lambda x: attention(x, 1, 1)),
    "einsum": (SEQUENCES, lambda x: tf.einsum("btd,de->bte", x, weights(4, 3))),
    "einsum with heads": (
        SEQUENCES,
        lambda x: tf.einsum("btd,dhe->bthe", x, weights(4, 2, 3)),
    ),
    "tensordot": (SEQUENCES, lambda x: tf.tensordot(x, weights(4, 3), 1)),
    "softmax": (ROWS, tf.nn.softmax),
    "softmax of another axis": (IMAGES, lambda x: tf.nn.softmax(x, 1)),
    "log softmax": (ROWS, tf.nn.log_softmax),
    "largest": (ROWS, lambda x: tf.math.top_k(x, 2)),
    "in the largest": (ROWS, lambda x: tf.math.in_top_k([0, 1], x, 2)),
    "LSTM cell": (ROWS, lstm_cell),
    "LSTM": ([2, None, 4], lstm),
    "loop": (ROWS, loop),
    "map": (SEQUENCES, lambda x: tf.map_fn(lambda row: row * 2, x)),
    **{
        f"{kind} pooling, {padding}": (
            IMAGES,
            lambda x, kind=kind, padding=padding: getattr(tf.nn, f"{kind}_pool2d")(
                x, 2, 2, padding
            ),
        )
        for kind in ("max", "avg")
        for padding in ("SAME", "VALID")
    },
    "max pooling of sequences": (
        SEQUENCES,
        lambda x: tf.nn.max_pool1d(x, 2, 2, "SAME"),
    ),
    "max pooling of volumes": (VOLUMES, lambda x: tf.nn.max_pool3d(x, 2, 2, "SAME")),
    "average pooling of volumes": (
        VOLUMES,
        lambda x: tf.nn.avg_pool3d(x, 2, 2, "SAME"),
    ),
    "fractional pooling": (
        IMAGES,
        lambda x: tf.nn.fractional_max_pool(x, 1.5, seed=1),
    ),
    **{
        f"resize, {method}": (
            IMAGES,
            lambda x, method=method: tf.image.resize(x, [3, 3], method),
        )
        for method in ("bilinear", "nearest", "bicubic", "area", "lanczos3")
    },
    "bilinear resize": (
        IMAGES,
        lambda x: tf.raw_ops.ResizeBilinear(images=x, size=[3, 3]),
    ),
    "space to batch": (
        IMAGES,
        lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]),
    ),
    "space to depth": (IMAGES, lambda x: tf.nn.space_to_depth(x, 2)),
    "depth to space": (HEADS, lambda x: tf.nn.depth_to_space(x, 2)),
    "crop and resize": (
        IMAGES,
        lambda x: tf.image.crop_and_resize(x, [[0, 0, 1, 1]], [0], [2, 2]),
    ),
    "patches": (
        IMAGES,
        lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1] * 4, [1] * 4, "SAME"),
    ),
    "dilation": (
        IMAGES,
        lambda x: tf.nn.dilation2d(
            x, weights(2, 2, 2), [1] * 4, "SAME", "NHWC", [1] * 4
        ),
    ),
    "pad": (IMAGES, lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])),
    "mirror": (
        IMAGES,
        lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"),
    ),
    "transpose": (IMAGES, lambda x: tf.transpose(x, [0, 3, 1, 2])),
    "contrast": (COLORS, lambda x: tf.image.adjust_contrast(x, 0.5)),
    "hue": (COLORS, lambda x: tf.image.adjust_hue(x, 0.1)),
    "saturation": (COLORS, lambda x: tf.image.adjust_saturation(x, 0.5)),
    "gray": (COLORS, tf.image.rgb_to_grayscale),
    "flip": (COLORS, tf.image.flip_left_right),
    "standardization": (COLORS, tf.image.per_image_standardization),
    "non-maximum suppression": (
        ROWS,
        lambda x: tf.image.non_max_suppression(x, tf.ones([2]), 2),
    ),
    "PNG": ([4, None, 3], png),
    "JPEG": ([4, None, 3], lambda x: tf.io.encode_jpeg(tf.cast(x, tf.uint8))),
    "concatenation": (ROWS, lambda x: tf.concat([x, weights(2, 4)], 0)),
    "split": (ROWS, lambda x: tf.split(x, 2, 1)),
    "stack": (ROWS, lambda x: tf.stack([x, x], 1)),
    "unstack": (ROWS, lambda x: tf.unstack(x, 4, 1)),
    "slice": (ROWS, lambda x: x[:, tf.newaxis, 1:3]),
    "tile": (ROWS, lambda x: tf.tile(x, [2, 1])),
    "reverse": (ROWS, lambda x: tf.reverse(x, [1])),
    "reshape": (ROWS, lambda x: tf.reshape(x, [-1, 2])),
    "squeeze": ([None, 1], lambda x: tf.squeeze(x, [1])),
    "broadcast": (ROWS, lambda x: tf.broadcast_to(x, [2, 4])),
    "sum": (ROWS, lambda x: tf.reduce_sum(x, 1)),
    "mean": (IMAGES, lambda x: tf.reduce_mean(x, [1, 2])),
    "maximum": (IMAGES, lambda x: tf.reduce_max(x, [1, 2])),
    "cumulative sum": (ROWS, lambda x: tf.cumsum(x, 1)),
    "position of the maximum": (ROWS, lambda x: tf.argmax(x, 1)),
    "sort": (ROWS, tf.sort),
    "gather": (ROWS, lambda x: tf.gather(x, [0], axis=1)),
    "embedding": (
        [None, 5],
        lambda x: tf.gather(weights(5, 3), tf.cast(x, tf.int32)),
    ),
    "one-hot": ([None], lambda x: tf.one_hot(tf.cast(x, tf.int32), 3)),
    "segments": (ROWS, lambda x: tf.math.segment_sum(x, [0, 0])),
    "scatter": (ROWS, lambda x: tf.scatter_nd([[0], [1]], x, [3, 4])),
    "where": (ROWS, lambda x: tf.where(x > 0)),
    "inverse": (SQUARES, tf.linalg.inv),
    "Cholesky": (SQUARES, tf.linalg.cholesky),
    "singular values": (SQUARES, tf.linalg.svd),
    "solve": (SQUARES, lambda x: tf.linalg.solve(x, weights(1, 3, 1))),
    "diagonal": (ROWS, tf.linalg.diag),
    "Fourier": (ROWS, lambda x: tf.signal.fft(tf.cast(x, tf.complex64))),
    "short-time Fourier": (ROWS, lambda x: tf.signal.stft(x, 2, 1)),
    "CTC": ([4, None, 3], lambda x: tf.nn.ctc_greedy_decoder(x, [4, 4])[1]),
    "fake quantization of channels": (
        IMAGES,
        lambda x: tf.quantization.fake_quant_with_min_max_vars_per_channel(
            x, [0.0] * 2, [1.0] * 2
        ),
    ),
    "quantization": (ROWS, quantized),
    "quantized convolution": (IMAGES, quantized_convolution),
    "quantized product": (ROWS, quantized_product),
    "quantized max pooling": (IMAGES, quantized_pool(tf.raw_ops.QuantizedMaxPool)),
    "quantized average pooling": (IMAGES, quantized_pool(tf.raw_ops.QuantizedAvgPool)),
    "gradient of a convolution": (IMAGES, gradient(convolution)),
    "gradient of max pooling": (
        IMAGES,
        gradient(lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME")),
    ),
    "gradient of average pooling": (
        IMAGES,
        gradient(lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME")),
    ),
    "gradient of dense": (ROWS, gradient(dense)),
    "gradient of softmax": (ROWS, gradient(tf.nn.softmax)),
    # A check of the shape protects what follows.
    "checked convolution": (
        IMAGES,
        lambda x: convolution(tf.ensure_shape(x, IMAGES)),
    ),
}
