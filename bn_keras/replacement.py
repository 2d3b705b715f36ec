"""Replacement of the batch-normalization layers of a model, in either direction."""

import inspect
from typing import Any

import keras

from bn_keras.keras_graph import copy_variables
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS, BatchNormalization


def replace_batch_normalization(
    model: keras.Model, to: type[keras.layers.Layer] = BatchNormalization
) -> keras.Model:
    """Return a copy of a model whose batch-normalization layers all have one class.

    Names, weights and outputs are the same; the original model does not change. With
    `to=keras.layers.BatchNormalization`, arguments that Keras' layer does not have are
    dropped: in further training its moving variance is biased, and its averages are
    plain moving averages.

    Args:
        model: A built Functional or Sequential model, which may contain nested models.
        to: `bn_keras.BatchNormalization` or `keras.layers.BatchNormalization`.

    Returns:
        A new model of the same class. If the original is compiled, the new one is
        compiled with the same arguments and a new optimizer.

    Raises:
        ValueError: If `to` is another class; the model is subclassed, so that its own
            code calls its layers; a batch normalization is inside a wrapper such as
            `TimeDistributed`; or a layer with several axes would become Keras' layer.

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
    copies = []

    def copy_layer(layer):
        config, layer_type = layer.get_config(), type(layer)
        if layer_type in BATCH_NORMALIZATIONS and layer_type is not to:
            layer_type, config = to, _translate_config(config, to)
        copy = layer_type.from_config(config)
        if isinstance(copy, keras.Layer):  # an operation such as x + y has no weights
            copies.append((layer, copy))
        return copy

    clone: Any = keras.models.clone_model(
        model, clone_function=copy_layer, recursive=True
    )
    # Keras has no public way to iterate over nested models and wrappers.
    for layer in clone._flatten_layers():
        # `clone_model` copies the layers inside a wrapper without asking `copy_layer`.
        if type(layer) in BATCH_NORMALIZATIONS and type(layer) is not to:
            raise ValueError(
                "Every batch normalization must be a layer of the model itself or of a "
                f"nested Functional or Sequential model. Received: {layer.path!r} "
                "inside a wrapper or a layer of another class. Build that layer again "
                f"with {to.__name__}."
            )
    for layer, copy in copies:
        if type(layer) is type(copy):
            copy_variables(layer, copy)
            continue
        # The two classes have the same weights in the same order, but this package's
        # may have one more at the end: the number of updates. It is dropped, or keeps
        # its initial value.
        weights, initial = layer.get_weights(), copy.get_weights()
        copy.set_weights(weights[: len(initial)] + initial[len(weights) :])
    return clone


def _translate_config(config, to):
    """Return the part of a layer's configuration that the class `to` accepts."""
    names = inspect.signature(to.__init__).parameters
    base_config = keras.layers.Layer().get_config()  # `name`, `dtype`, `trainable`
    config = {key: config[key] for key in config if key in names or key in base_config}
    if to is not BatchNormalization and isinstance(config["axis"], list | tuple):
        if len(config["axis"]) != 1:
            raise ValueError(
                "keras.layers.BatchNormalization supports only one axis. "
                f"Received: layer {config['name']!r} with axis={config['axis']}"
            )
        config["axis"] = config["axis"][0]
    return config
