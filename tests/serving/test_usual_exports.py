"""Exports of the usual kinds load, whatever operations they have, and take any size.

Sizes that a signature leaves open are left open; only an input without a rank before
an operation that aborts the process is refused.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from serving_models import function

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.configuration.settings import Loading
from bn_keras_serving.servable.servable import Servable

KERNEL = (3, 3, 3, 2)


def lstm():
    words = keras.Input((None,), dtype="int32")
    x = layers.LSTM(8)(layers.Embedding(50, 16)(words))
    return keras.Model(words, layers.Dense(2)(x))


def bidirectional():
    sequence = keras.Input((None, 4))
    x = layers.Bidirectional(layers.GRU(8, return_sequences=True))(sequence)
    return keras.Model(sequence, layers.Dense(2)(x))


def transformer():
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(50, 16, mask_zero=True)(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    return keras.Model(words, layers.GlobalAveragePooling1D()(x))


def attention():
    """Attention by products of matrices, as models of other libraries have it."""
    sequence = keras.Input((None, 8))
    scores = keras.ops.matmul(sequence, keras.ops.transpose(sequence, (0, 2, 1)))
    weights = keras.ops.softmax(scores * 0.35 + 1.0)
    return keras.Model(sequence, keras.ops.matmul(weights, sequence))


def convolution_of_sequences():
    sequence = keras.Input((None, 4))
    x = layers.Conv1D(4, 3)(sequence)
    return keras.Model(sequence, layers.GlobalMaxPooling1D()(x))


def segmentation():
    image = keras.Input((None, None, 3))
    x = layers.SeparableConv2D(4, 3, padding="same")(image)
    y = layers.AveragePooling2D(2)(x)
    y = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(y)
    return keras.Model(image, layers.Concatenate()([x, y]))


def mobile_net():
    return keras.applications.MobileNetV2(
        (None, None, 3), 0.35, include_top=False, weights=None, pooling="avg"
    )


def efficient_net():
    return keras.applications.EfficientNetB0(weights=None)


def conv_next():
    return keras.applications.ConvNeXtTiny(weights=None)


def save(path, served, **state):
    """Save a model as those of TensorFlow Hub: a function with named inputs."""
    model = tf.Module()
    for name, value in {"served": served, **state}.items():
        setattr(model, name, value)
    tf.saved_model.save(model, str(path), signatures=served)


def hub_features(path):
    kernel = tf.Variable(tf.ones(KERNEL))
    save(
        path,
        function(
            lambda images: {
                "default": tf.reduce_mean(tf.nn.conv2d(images, kernel, 1, "SAME"), 1)
            },
            images=([None, None, None, 3], tf.float32),
        ),
        kernel=kernel,
    )


def hub_detector(path):
    kernel = tf.Variable(tf.ones(KERNEL))

    def detect(input_tensor):
        image = tf.cast(input_tensor, tf.float32)
        boxes = tf.reshape(tf.nn.conv2d(image, kernel, 1, "SAME"), [-1, 4])
        chosen = tf.image.non_max_suppression(boxes, boxes[:, 0], 5)
        return {"boxes": tf.gather(boxes, chosen)}

    inputs = {"input_tensor": ([1, None, None, 3], tf.uint8)}
    save(path, function(detect, **inputs), kernel=kernel)


def hub_sentences(path):
    """As of the universal sentence encoder: strings whose rank is not declared."""
    table = tf.Variable(tf.ones((3, 4)))

    def encode(inputs):
        buckets = tf.strings.to_hash_bucket_fast(tf.reshape(inputs, [-1, 1]), 3)
        x = tf.nn.embedding_lookup(table, buckets)
        return {"outputs": tf.matmul(x, x, transpose_b=True)}

    save(path, function(encode, inputs=(None, tf.string)), table=table)


def hub_encoder(path):
    """As of BERT: three inputs of open sizes."""
    table = tf.Variable(tf.ones((30, 8)))

    def encode(input_word_ids, input_mask, input_type_ids):
        x = tf.nn.embedding_lookup(table, input_word_ids)
        x += tf.cast(input_type_ids, tf.float32)[..., None]
        penalty = tf.cast(1 - input_mask, tf.float32)[:, None] * -1e9
        scores = tf.matmul(x, x, transpose_b=True) * 0.35 + penalty
        return {"pooled_output": tf.matmul(tf.nn.softmax(scores), x)[:, 0]}

    names = ("input_word_ids", "input_mask", "input_type_ids")
    inputs = dict.fromkeys(names, ([None, None], tf.int32))
    save(path, function(encode, **inputs), table=table)


def frozen_graph(path):
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, None, None, 3], "x")
        rate = v1.placeholder_with_default(tf.constant(1.0), [])
        y = rate * tf.nn.conv2d(x, tf.ones(KERNEL), 1, "SAME")
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})


def words(*shape):
    return (np.arange(np.prod(shape)) % 29 + 1).reshape(shape).astype(np.int32)


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


SLOW = pytest.mark.slow
KERAS = [
    (lstm, [words(2, 3), words(1, 9)]),
    (bidirectional, [numbers(2, 3, 4), numbers(1, 9, 4)]),
    (transformer, [words(2, 3), words(1, 9)]),
    (attention, [numbers(2, 3, 8), numbers(1, 9, 8)]),
    (convolution_of_sequences, [numbers(2, 5, 4), numbers(1, 9, 4)]),
    (segmentation, [numbers(2, 8, 8, 3), numbers(1, 6, 10, 3)]),
    pytest.param(
        mobile_net, [numbers(1, 64, 64, 3), numbers(2, 96, 64, 3)], marks=SLOW
    ),
    pytest.param(efficient_net, [numbers(1, 224, 224, 3)], marks=SLOW),
    pytest.param(conv_next, [numbers(1, 224, 224, 3)], marks=SLOW),
]
OTHERS = [
    (hub_features, "images", [numbers(2, 8, 8, 3), numbers(1, 6, 10, 3)]),
    (hub_detector, "input_tensor", [pixels(1, 8, 8, 3), pixels(1, 6, 10, 3)]),
    (hub_sentences, "inputs", [np.array([b"a", b"b"], object), np.array(b"a", object)]),
    (frozen_graph, "x", [numbers(2, 8, 8, 3), numbers(1, 6, 10, 3)]),
]


@pytest.fixture(scope="module", params=["auto", "strict"])
def loading(request):
    return Loading(shape_checks=request.param)


@pytest.mark.parametrize(("build", "inputs"), KERAS)
def test_exports_of_keras_load_and_answer(tmp_path, build, inputs):
    model = build()
    model.export(str(tmp_path / "1"), verbose=False)
    for checks in ("auto", "strict"):
        servable = Servable(1, tmp_path / "1", loading=Loading(shape_checks=checks))
        signature = servable.signature()
        (name,) = signature.inputs
        for value in inputs:
            (output,) = signature.run({name: value}).values()
            expected = model(value, training=False).numpy()
            np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)
        servable.close()


@pytest.mark.parametrize(("write", "name", "inputs"), OTHERS)
def test_other_exports_load_and_answer(tmp_path, write, name, inputs, loading):
    write(tmp_path / "1")
    expected = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    signature = Servable(1, tmp_path / "1", loading=loading).signature()
    for value in inputs:
        (output,) = signature.run({name: value}).values()
        (direct,) = expected(**{name: tf.constant(value)}).values()
        np.testing.assert_allclose(output, direct, rtol=1e-5)


def test_an_encoder_with_masks_takes_any_length(tmp_path, loading):
    hub_encoder(tmp_path / "1")
    signature = Servable(1, tmp_path / "1", loading=loading).signature()
    for shape in ((2, 3), (1, 9)):
        inputs = {name: words(*shape) for name in signature.inputs}
        inputs["input_mask"] = np.ones(shape, np.int32)
        assert signature.run(inputs)["pooled_output"].shape == (shape[0], 8)
        # A vector would abort the process where the products are fused.
        with pytest.raises(InvalidRequestError, match="must have shape"):
            signature.run({**inputs, "input_word_ids": words(3)})
