"""Memory of exporting BN-Inception, and of its exports, for `benchmarks.export`.

Every figure is from a process of its own, in MB above the same process before the work:
with TensorFlow imported, with the server started without a model, or with the network
built.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import processes

SIDE = 224


def answers(path):
    """Return the memory after loading a SavedModel and after each first answer."""
    import tensorflow as tf

    image = np.random.default_rng(0).random((1, SIDE, SIDE, 3), np.float32)
    pixels = (255 * image).astype(np.uint8)
    file = np.array([tf.io.encode_png(pixels[0]).numpy()], object)
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=file))
    features = tf.train.Features(feature={"image/encoded": feature})
    example = tf.train.Example(features=features).SerializeToString()
    values = {
        "serving_default": image,
        "predict_uint8": pixels,
        "predict_encoded": file,
        "classify": np.array([example], object),
    }
    processes.reset_peak()
    before = processes.resident()
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], path)
    memory = {"loaded": processes.resident() - before}
    for name, value in values.items():
        if name in graph.signature_def:  # Keras' export has the first one only
            signature = graph.signature_def[name]
            (source,) = signature.inputs.values()
            targets = [x.name for x in signature.outputs.values()]
            session.run(targets, {source.name: value})
            memory[name] = processes.resident() - before
    return {**memory, "peak": processes.peak() - before}


def serve(directory):
    """Return the memory of the embedded server with a model that is warmed up."""
    from bn_keras_serving import PredictionServer

    def start(base_path):
        server = PredictionServer(base_path, "model", port=0)
        server.start()
        return server

    # The first version that is loaded also loads parts of TensorFlow.
    start(Path(directory).with_name("tiny")).stop()
    processes.reset_peak()
    before = processes.resident()
    server = start(directory)
    memory = {"warmed": processes.resident() - before}
    memory["peak"] = processes.peak() - before
    server.stop()
    return memory


def export(kind):
    """Return the time and memory of exporting the network."""
    from benchmarks.folding import build
    from bn_keras import export_saved_model

    model: Any = build("BNInception", SIDE)
    model(np.zeros((1, SIDE, SIDE, 3), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        if kind == "Keras":
            return processes.measure(
                lambda: model.export(folder, format="tf_saved_model", verbose=False)
            )
        constants = kind == "constants"
        return processes.measure(
            lambda: export_saved_model(model, folder, constants=constants)
        )


def write_tiny_model(folder):
    """Write a model of a few numbers next to those that are served."""
    import keras

    from bn_keras import export_saved_model

    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2))
    export_saved_model(model, folder / "tiny")


def measure(models):
    """Return the memory of SavedModels, `(kind, path)` by name, and of exporting them.

    Returns:
        Name to the figures of `answers`, and of `serve` and `export` with their names
        in front.
    """
    module = "benchmarks.export_memory"
    result = {}
    for name, path in models.items():
        figures = processes.in_child(module, "answers", path)
        for key, value in processes.in_child(module, "serve", path.parent).items():
            figures[f"server, {key}"] = value
        kind = {"Keras": "Keras", "bn_keras, constants": "constants"}.get(name, "ours")
        for key, value in processes.in_child(module, "export", kind).items():
            figures[f"exporting, {key}"] = value
        result[name] = figures
    return result


if __name__ == "__main__":
    import tensorflow  # noqa: F401  # every server of the kind has imported it

    _, _work, _argument = sys.argv
    _works = {"answers": answers, "serve": serve, "export": export}
    print(json.dumps(_works[_work](_argument)))
