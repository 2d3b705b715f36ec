"""What is done to a model against its number of layers."""

import sys
import tempfile

import numpy as np

from benchmarks.growth_weights import measure_loading
from benchmarks.processes import Growth, in_child, measure

SHAPE = (16, 16, 16)


def deep_model(layers):
    """Return a residual network of convolutions, each with batch normalization.

    Without the additions, rounding would be amplified from layer to layer.
    """
    import keras

    from bn_keras import BatchNormalization

    x = inputs = keras.Input(SHAPE, name="x")
    for _ in range(layers):
        branch = keras.layers.Conv2D(SHAPE[-1], 3, padding="same", use_bias=False)(x)
        branch = keras.layers.ReLU()(BatchNormalization(momentum=0.0)(branch))
        x = keras.layers.Add()([x, branch])
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model(images(8), training=True)
    return model


def images(count):
    """Return random images."""
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype("float32")


def measure_second(task, layers):
    """Measure a task after Keras and TensorFlow have done what they do only once."""
    task(deep_model(2))
    model = deep_model(layers)
    return measure(lambda: task(model))


def fold(layers):
    """Measure folding."""
    from bn_keras import fold_batch_normalization

    return measure_second(fold_batch_normalization, layers)


def replace(layers):
    """Measure replacing the layers by those of Keras."""
    import keras

    from bn_keras import replace_batch_normalization

    return measure_second(
        lambda model: replace_batch_normalization(
            model, keras.layers.BatchNormalization
        ),
        layers,
    )


def estimate(layers):
    """Measure estimating the population statistics of 64 images."""
    from bn_keras import estimate_population_statistics

    return measure_second(
        lambda model: estimate_population_statistics(
            model, images(64), "pooled", verbose=0
        ),
        layers,
    )


def export(layers):
    """Measure exporting."""
    from bn_keras import export_saved_model

    with tempfile.TemporaryDirectory() as folder:
        return measure_second(lambda model: export_saved_model(model, folder), layers)


def load(layers):
    """Measure loading an export and its first answer."""
    with tempfile.TemporaryDirectory() as folder:
        in_child("benchmarks.growth_layers", layers, folder)
        return measure_loading(folder)


def write(layers, folder):
    """Export, in a process of its own, the model that another one loads."""
    from bn_keras import export_saved_model

    export_saved_model(deep_model(layers), folder)


LAYERS = Growth(
    (25, 75, 150, 300),
    {
        "fold": fold,
        "replace": replace,
        "estimate": estimate,
        "export": export,
        "load": load,
    },
)

if __name__ == "__main__":
    write(int(sys.argv[1]), sys.argv[2])
    print("{}")
