"""Swap the batch-normalization layers of an existing model, in either direction.

Knows model graphs and the two layers' configurations; not their arithmetic.
"""

import inspect

import keras

from bn_keras.keras_graph import copy_variables
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS, BatchNormalization


def replace_batch_normalization(model, to=BatchNormalization):
    """A copy of a model whose batch-normalization layers are all of class `to`.

    Names, weights and outputs stay; the original is untouched. Towards Keras' layer,
    what it does not have is left out: its moving variance goes on biased, and the
    moving averages as plain ones.

    Args:
        model: a built Functional or Sequential model, nested ones included.
        to: `bn_keras.BatchNormalization` or `keras.layers.BatchNormalization`.

    Returns:
        A new model of the same class; if the original is compiled, compiled with the
        same arguments and a fresh optimizer.

    Raises:
        ValueError: for another class `to`, a subclassed model (its code decides which
            layers it calls), a normalization inside a wrapper such as
            `TimeDistributed`, or, towards Keras' layer, one of several axes.

    Example:
    ```python
    import keras
    import numpy as np
    import bn_keras

    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.BatchNormalization(name="bn")]
    )
    ours = bn_keras.replace_batch_normalization(model)
    assert isinstance(ours.get_layer("bn"), bn_keras.BatchNormalization)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    np.testing.assert_allclose(ours(images), model(images), atol=1e-6)
    ```
    """
    if to not in BATCH_NORMALIZATIONS:
        raise ValueError(
            "`to` must be bn_keras.BatchNormalization or "
            f"keras.layers.BatchNormalization. Received: to={to!r}"
        )
    pairs = []

    def replaced(layer):
        config, new = layer.get_config(), type(layer)
        if new in BATCH_NORMALIZATIONS and new is not to:
            new, config = to, _accepted(config, to)
        copy = new.from_config(config)
        if isinstance(copy, keras.Layer):  # an operation such as x + y has no weights
            pairs.append((layer, copy))
        return copy

    clone = keras.models.clone_model(model, clone_function=replaced, recursive=True)
    # Keras has no public walk through nested models and wrappers.
    for layer in clone._flatten_layers():
        if type(layer) in BATCH_NORMALIZATIONS and type(layer) is not to:
            raise ValueError(
                "Every batch normalization must be a layer of the model or of a nested "
                f"Functional or Sequential one. Received: {layer.path!r} inside a "
                "wrapper or a layer of another class; build that one anew"
            )
    for layer, copy in pairs:
        if type(layer) is type(copy):
            copy_variables(layer, copy)
            continue
        # One more weight of ours, the number of updates, stands last.
        weights, initial = layer.get_weights(), copy.get_weights()
        copy.set_weights(weights[: len(initial)] + initial[len(weights) :])
    return clone


def _accepted(config, to):
    """The part of a layer's configuration that the class `to` knows."""
    names = inspect.signature(to.__init__).parameters
    base = keras.layers.Layer().get_config()
    config = {key: config[key] for key in config if key in names or key in base}
    if to is not BatchNormalization and isinstance(config["axis"], list | tuple):
        if len(config["axis"]) != 1:
            raise ValueError(
                "keras.layers.BatchNormalization keeps statistics of one axis. "
                f"Received: layer {config['name']!r} with axis={config['axis']}"
            )
        config["axis"] = config["axis"][0]
    return config
