"""Folding, exporting and loading against the size of the weights."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.processes import Growth, in_child, measure


def wide_model(megabytes):
    """Return four wide dense layers, each with batch normalization."""
    import keras

    from bn_keras import BatchNormalization

    width = int((megabytes * 1e6 / 4 / 4) ** 0.5)
    model = keras.Sequential([keras.Input((width,), name="x")])
    for _ in range(4):
        model.add(keras.layers.Dense(width))
        model.add(BatchNormalization())
        model.layers[-1].moving_variance.assign(np.linspace(0.5, 2, width))
        model.add(keras.layers.ReLU())
    return model


def fold(megabytes):
    """Measure folding."""
    from bn_keras import fold_batch_normalization

    model = wide_model(megabytes)
    return measure(lambda: fold_batch_normalization(model))


def export(megabytes, **options):
    """Measure exporting."""
    from bn_keras import export_saved_model

    model = wide_model(megabytes)
    with tempfile.TemporaryDirectory() as folder:
        return measure(lambda: export_saved_model(model, folder, **options))


def export_by_keras(megabytes):
    """Measure Keras' own export."""
    model = wide_model(megabytes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        return measure(
            lambda: model.export(path, format="tf_saved_model", verbose=False)
        )


def load(megabytes):
    """Measure loading an export and its first answer."""
    with tempfile.TemporaryDirectory() as folder:
        in_child("benchmarks.growth_weights", "ours", megabytes, folder)
        return measure_loading(folder)


def load_of_keras(megabytes):
    """Measure loading Keras' own export and its first answer."""
    with tempfile.TemporaryDirectory() as folder:
        in_child("benchmarks.growth_weights", "Keras", megabytes, folder)
        return measure_loading(folder)


def measure_loading(folder):
    """Measure loading version 1 in a folder, with TensorFlow already in use."""
    import tensorflow as tf

    with tf.compat.v1.Session(graph=tf.Graph()) as session, session.graph.as_default():
        session.run(tf.constant(0.0))
    return measure(lambda: load_and_answer(Path(folder) / "1"))


def load_and_answer(path):
    """Load a SavedModel as TensorFlow Serving does, and run it once.

    Returns:
        The session, so that its memory is held.
    """
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(path))
    signature = graph.signature_def["serving_default"]
    (source,) = signature.inputs.values()
    shape = [max(x.size, 1) for x in source.tensor_shape.dim]
    targets = [x.name for x in signature.outputs.values()]
    session.run(targets, {source.name: np.zeros(shape, np.float32)})
    return session


def write(kind, megabytes, folder):
    """Export, in a process of its own, the model that another one loads."""
    from bn_keras import export_saved_model

    model = wide_model(megabytes)
    if kind == "ours":
        export_saved_model(model, folder)
    else:
        model.export(Path(folder) / "1", format="tf_saved_model", verbose=False)


def export_constants(megabytes):
    """Measure exporting the weights as constants, of which many copies are made."""
    return export(megabytes, constants=True)


WEIGHTS = Growth(
    (5, 50, 500, 2000),
    {
        "fold": fold,
        "export": export,
        "Keras' export": export_by_keras,
        "load": load,
        "Keras' load": load_of_keras,
    },
)
# A file of constants has at most 2 GiB.
CONSTANTS = Growth((5, 25, 125), {"export constants": export_constants})

if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    print("{}")
