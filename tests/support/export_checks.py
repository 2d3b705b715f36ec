"""Exports as TensorFlow Serving loads them, and a small model to export."""

import keras
import numpy as np
import tensorflow as tf

from bn_keras import BatchNormalization


class LoadedExport:
    """A SavedModel in the kind of session that TensorFlow Serving uses."""

    def __init__(self, path, config=None):
        self.session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        with self.session.graph.as_default():
            self.meta = tf.compat.v1.saved_model.loader.load(
                self.session, ["serve"], str(path)
            )
        self.signatures = self.meta.signature_def

    def __call__(self, name="serving_default", /, **inputs):
        signature = self.signatures[name]
        feed = {signature.inputs[key].name: value for key, value in inputs.items()}
        fetch = {key: info.name for key, info in signature.outputs.items()}
        return self.session.run(fetch, feed)

    def nodes(self):
        graph = self.meta.graph_def
        return [*graph.node, *(n for f in graph.library.function for n in f.node_def)]


def strings(values):
    """Return bytes as an array of objects; NumPy would drop trailing zero bytes."""
    return np.array(values, object)


def image_model(classes=3, side=6, channels=3):
    """Return a small network of images with uneven population statistics."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((side, side, channels), name="image"),
            keras.layers.Conv2D(4, 3, use_bias=False),
            BatchNormalization(momentum=0.5),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax", name="scores"),
        ]
    )
    model(images(64, side, channels), training=True)
    return model


def images(count, side=6, channels=3):
    draw = np.random.default_rng(count)
    return draw.random((count, side, side, channels)).astype("float32")
